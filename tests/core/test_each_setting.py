"""For every setting: changing it changes something that can be seen."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.core.db import SqlDatabase
from app.core.errors import AppError, Unavailable, to_app_error
from app.core.settings import Settings
from app.features.accounts.models import Session
from app.main import create_app
from tests.core.setting_probe import router
from tests.process import running
from tests.server import RunningServer, Socket

Serve = Callable[..., RunningServer]
Check = Callable[[Serve], Awaitable[None]]

CHECKS: dict[str, Check] = {}
FREE_PORT = 20_000 + os.getpid() % 10_000
ACCOUNT = {"email": "ann@example.com", "password": "correct horse", "name": "Ann"}


def sets(name: str) -> Callable[[Check], Check]:
    """Register the test of a setting."""

    def register(check: Check) -> Check:
        assert name not in CHECKS
        CHECKS[name] = check
        return check

    return register


async def get(server: RunningServer, path: str, **kwargs: Any) -> Any:
    async with server.client() as http:
        return await http.get(path, **kwargs)


async def opens(server: RunningServer, **kwargs: Any) -> bool:
    """Whether a handshake is accepted."""
    try:
        async with server.socket("/probe/bare", **kwargs):
            return True
    except InvalidStatus:
        return False


async def closes(server: RunningServer, *frames: str) -> tuple[int, str]:
    """The code and the reason that the channel closes with after these frames."""
    async with server.socket("/probe/channel") as socket:
        for frame in frames:
            await socket.raw(frame)
        code, reason, _ = await socket.ending()
    return code, reason


def test_every_setting_has_a_test() -> None:
    """The table has each setting and nothing else: a new one needs a test."""
    assert set(CHECKS) == set(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
async def test_a_setting_does_something(name: str, serve: Serve) -> None:
    """Changing the setting changes what is seen from outside."""
    assert name in CHECKS, f"write a test of {name}"
    await CHECKS[name](serve)


@sets("environment")
async def _(serve: Serve) -> None:
    for environment, told in (("development", True), ("test", False), ("production", False)):
        answered = await get(serve(router, environment=environment), "/probe/crash")
        assert ("told in development" in answered.text) is told


@sets("host")
async def _(serve: Serve) -> None:
    assert _written("info", "console")[0].startswith("Duplex is at http://127.0.0.2:")


@sets("port")
async def _(serve: Serve) -> None:
    first, _ = _written("info", "console")
    assert f":{FREE_PORT} " in first
    assert f":{FREE_PORT} " not in _written("info", "json")[0]


@sets("root_path")
async def _(serve: Serve) -> None:
    servers = [serve(router, root_path=path) for path in ("/behind/a/proxy", "")]
    documents = [(await get(server, "/openapi.json")).json() for server in servers]
    assert documents[0]["servers"] == [{"url": "/behind/a/proxy"}]
    assert "servers" not in documents[1]
    wrong = [await get(server, "/api/v1/accounts") for server in servers]
    assert [answered.headers["allow"] for answered in wrong] == ["POST", "POST"]
    assert wrong[0].json()["instance"] == "/behind/a/proxy/api/v1/accounts"
    assert (await get(servers[0], "/")).status_code == 200
    assert await opens(servers[0])


@sets("forwarded_allow_ips")
async def _(serve: Serve) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    for trusted, seen in (("127.0.0.1", "203.0.113.9"), ("10.0.0.1", "127.0.0.1")):
        server = serve(router, forwarded_allow_ips=trusted)
        assert (await get(server, "/probe/client", headers=headers)).json() == seen


@sets("allowed_hosts")
async def _(serve: Serve) -> None:
    server = serve(router, allowed_hosts="api.example,*.wild.example")
    for host, status in (("api.example", 200), ("a.wild.example", 200), ("127.0.0.1", 400)):
        answered = await get(server, "/errors", headers={"Host": host})
        assert answered.status_code == status


@sets("allowed_origins")
async def _(serve: Serve) -> None:
    origin = "https://friend.example"
    for origins, allowed in ((origin, True), ("*", True), ("", False)):
        server = serve(router, allowed_origins=origins)
        answered = await get(server, "/health/live", headers={"Origin": origin})
        assert ("access-control-allow-origin" in answered.headers) is allowed
        assert await opens(server, origin=origin) is allowed


@sets("max_body_bytes")
async def _(serve: Serve) -> None:
    for limit, status in ((1024, 413), (4096, 422)):
        async with serve(router, max_body_bytes=limit).client() as http:
            answered = await http.post("/api/v1/accounts", json={"name": "x" * 2000})
        assert answered.status_code == status


@sets("shutdown_seconds")
async def _(serve: Serve) -> None:
    settings = serve(router).settings.model_dump() | {"shutdown_seconds": 1}
    with RunningServer(Settings(**settings), router) as server:
        waiting = asyncio.create_task(get(server, "/probe/slow"))
        async with server.client() as http:
            while not server._server.server_state.tasks:
                await http.get("/health/live")
                await asyncio.sleep(0)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    await asyncio.wait([waiting])
    waiting.exception()


@sets("ws_max_connections")
async def _(serve: Serve) -> None:
    for limit, second in ((1, False), (2, True)):
        server = serve(router, ws_max_connections=limit)
        async with server.socket("/probe/bare"):
            assert await opens(server) is second


@sets("ws_max_message_bytes")
async def _(serve: Serve) -> None:
    frame = '{"type": "say", "ref": 1' + " " * 2000 + "}"
    assert (await closes(serve(router, ws_max_message_bytes=1024), frame))[0] == 1009
    async with serve(router, ws_max_message_bytes=4096).socket("/probe/channel") as socket:
        await socket.raw(frame)
        await socket.until("said")


@sets("ws_ping_seconds")
async def _(serve: Serve) -> None:
    for seconds, pinged in ((0.05, True), (20, False)):
        async with connect(
            serve(router, ws_ping_seconds=seconds).ws_url + "/probe/bare", proxy=None
        ) as connection:
            heard = asyncio.Event()
            connection.protocol.recv_frame = _hearing(connection.protocol.recv_frame, heard)  # type: ignore[assignment,method-assign]
            try:
                await asyncio.wait_for(heard.wait(), 3 if pinged else 0.3)
            except TimeoutError:
                assert not pinged
            assert heard.is_set() is pinged


def _hearing(original: Callable[[Any], None], heard: asyncio.Event) -> Callable[[Any], None]:
    def recv_frame(frame: Any) -> None:
        if frame.opcode == 9:
            heard.set()
        original(frame)

    return recv_frame


@sets("ws_inbox_frames")
async def _(serve: Serve) -> None:
    for limit, overflows in ((1, True), (8, False)):
        async with serve(router, ws_inbox_frames=limit).socket("/probe/channel") as socket:
            await socket.send("say", {"wait": True})
            for _ in range(4):
                await socket.send("say", ref="waiting")
            assert await _hears(socket, "realtime.inbox_overflow") is overflows


async def _hears(socket: Socket, code: str) -> bool:
    """Whether an error frame comes, once a ping has gone to the server and back."""
    await (await socket.connection.ping())
    frames = []
    try:
        async with asyncio.timeout(0.2):
            while True:
                frames.append(await socket.frame())
    except TimeoutError:
        pass
    return code in str(frames)


@sets("ws_outbox_bytes")
async def _(serve: Serve) -> None:
    frame = '{"type": "say", "data": {"size": 2000}}'
    assert (await closes(serve(router, ws_outbox_bytes=1024), frame))[0] == 1013
    async with serve(router, ws_outbox_bytes=4096).socket("/probe/channel") as socket:
        await socket.raw(frame)
        await socket.until("said")


@sets("ws_max_strikes")
async def _(serve: Serve) -> None:
    for strikes in (1, 3):
        async with serve(router, ws_max_strikes=strikes).socket("/probe/channel") as socket:
            for _ in range(strikes):
                await socket.raw("{")
            code, reason, frames = await socket.ending()
        assert (code, reason) == (4429, "realtime.too_many_errors")
        assert [frame["type"] for frame in frames] == ["welcome"] + ["error"] * (strikes + 1)


@sets("database_url")
async def _(serve: Serve) -> None:
    assert (await get(serve(), "/health/ready")).status_code == 200
    away = serve(database_url=SecretStr("sqlite:////nowhere/at/all.db"))
    assert (await get(away, "/health/ready")).status_code == 503


@sets("database_password")
async def _(serve: Serve) -> None:
    url = SecretStr("postgresql://ann@127.0.0.1/x")
    for password in ("hunter2", None):
        settings = Settings(
            database_url=url, database_password=SecretStr(password) if password else None
        )
        assert create_app(settings).state.database.engine.url.password == password


@sets("database_pool_size")
async def _(serve: Serve) -> None:
    for size, second in ((1, False), (2, True)):
        server = serve(database_pool_size=size, database_timeout_seconds=0.2)
        database = _database(server)
        async with database.reading() as session:
            await session.execute(select(1))
            assert (await _error(database.ping()) is None) is second
        await database.dispose()


def _database(server: RunningServer) -> SqlDatabase:
    """A database as the server has it, in this event loop."""
    database: SqlDatabase = create_app(server.settings).state.database
    return database


async def _error(work: Awaitable[None]) -> AppError | None:
    """The registered error that awaiting ends in."""
    try:
        await work
    except Exception as error:
        return to_app_error(error)
    return None


@sets("database_timeout_seconds")
async def _(serve: Serve) -> None:
    database = _database(serve(database_pool_size=1, database_timeout_seconds=0.3))
    async with database.reading() as session:
        await session.execute(select(1))
        started = time.monotonic()
        assert isinstance(await _error(database.ping()), Unavailable)
        assert 0.2 < time.monotonic() - started < 2
    await database.dispose()


@sets("secret_key")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(
        serve, secret_key=SecretStr("another-secret-of-32-characters!")
    )


@sets("token_issuer")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(serve, token_issuer="somebody-else")


@sets("token_audience")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(serve, token_audience="somebody-else")


async def _refuses_the_others_tokens(serve: Serve, **changed: Any) -> None:
    ours, theirs = serve(), serve(**changed)
    assert await _status(ours, ours.token()) == 404  # there is no account 1
    assert await _status(theirs, ours.token()) == 401


async def _status(server: RunningServer, token: str) -> int:
    async with server.client(token) as http:
        return int((await http.get("/api/v1/accounts/me")).status_code)


async def _signs_in(server: RunningServer) -> Any:
    async with server.client() as http:
        await http.post("/api/v1/accounts", json=ACCOUNT)
        form = {"username": ACCOUNT["email"], "password": ACCOUNT["password"]}
        return (await http.post("/api/v1/auth/login", data=form)).json()


@sets("access_token_seconds")
async def _(serve: Serve) -> None:
    for seconds in (60, 900):
        assert (await _signs_in(serve(access_token_seconds=seconds)))["expires_in"] == seconds


@sets("token_leeway_seconds")
async def _(serve: Serve) -> None:
    servers = {
        status: serve(token_leeway_seconds=leeway, access_token_seconds=1)
        for leeway, status in ((30, 404), (0, 401))
    }
    tokens = {status: server.token() for status, server in servers.items()}
    await asyncio.sleep(1.1)  # until they have expired
    for status, server in servers.items():
        assert await _status(server, tokens[status]) == status


@sets("session_days")
async def _(serve: Serve) -> None:
    for days in (1, 30):
        server = serve(session_days=days)
        await _signs_in(server)
        database = _database(server)
        async with database.reading() as session:
            found = (await session.scalars(select(Session).order_by(Session.created_at))).all()
        await database.dispose()
        assert found[-1].expires_at - found[-1].created_at == timedelta(days=days)


@sets("password_workers")
async def _(serve: Serve) -> None:
    for workers in (1, 4):
        passwords = serve(password_workers=workers).app.state.passwords
        passwords._hash = _Slow()
        await asyncio.gather(*(passwords.hash("x") for _ in range(6)))
        assert _Slow.most == workers


class _Slow:
    """A hash that only counts how many are at it."""

    now = most = 0

    def hash(self, password: str) -> str:
        """Take a moment."""
        type(self).now += 1
        type(self).most = max(self.most, self.now)
        time.sleep(0.02)
        type(self).now -= 1
        return password


@sets("log_level")
async def _(serve: Serve) -> None:
    assert "/health/live" in _written("info", "json")[1]
    assert "/health/live" not in _written("warning", "json")[1]


@sets("log_format")
async def _(serve: Serve) -> None:
    assert '"path": "/health/live"' in _written("info", "json")[1]
    assert '"path": "/health/live"' not in _written("info", "console")[1]


@cache
def _written(level: str, form: str) -> tuple[str, str]:
    """The address that a process says it is at, and all that it writes about one request."""
    where = {"HOST": "127.0.0.2", "PORT": str(FREE_PORT)} if form == "console" else {}
    with running(LOG_LEVEL=level, LOG_FORMAT=form, **where) as process:
        process.get("/health/live")
    return process.line, process.output
