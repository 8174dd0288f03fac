"""For every setting: changing it changes something that can be seen."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import cache
from importlib import import_module
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from pydantic import SecretStr
from sqlalchemy import select, update
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.core.audit import AuditRow, audit
from app.core.errors import AppError, Forbidden, Unavailable, raises, to_app_error
from app.core.idempotency import IdempotencyRow
from app.core.jobs import Job, JobQueue, JobRoutes, JobRun
from app.core.settings import Settings
from app.features import local
from app.features.audit.jobs import forget_entries
from app.main import create_app
from app.realtime import Channel
from tests.core import calling, notes
from tests.core.issuer import AUDIENCE, Issuer, payload
from tests.core.setting_probe import TO, router
from tests.core.upstream import Play, Upstream, response
from tests.process import running
from tests.processes.checks import CHECKS, Serve, database_of, sets
from tests.processes.test_watchdog import HOLDING, hold
from tests.redis import OwnRedis, free_port
from tests.server import DEADLINE, RunningServer, Socket
from tests.smtp import mail_server

FREE_PORT = 20_000 + os.getpid() % 10_000
#: Looked at by features of AUTH_MODE=local alone: their tests are beside these, and go with them.
LOCAL = {
    *("email_check_dns", "password_workers", "session_days", "session_max_days"),
    "sign_in_providers",
}
TESTED = set(Settings.model_fields) - (set() if local else LOCAL)

for _file in sorted(Path(__file__).parent.glob("*/setting_checks.py")):
    import_module(f"tests.processes.{_file.parent.name}.setting_checks")


async def get(server: RunningServer, path: str, **kwargs: Any) -> Any:
    async with server.client() as http:
        return await http.get(path, **kwargs)


async def opens(server: RunningServer, *, path: str = "/probe/bare", **kwargs: Any) -> bool:
    """Whether a handshake is accepted."""
    try:
        async with server.socket(path, **kwargs):
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
    assert set(Settings.model_fields) >= LOCAL
    assert set(CHECKS) == TESTED


@pytest.mark.parametrize("name", sorted(TESTED))
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
    wrong = [await get(server, "/api/v1/tickets") for server in servers]
    assert [answered.headers["allow"] for answered in wrong] == ["POST", "POST"]
    assert wrong[0].json()["instance"] == "/behind/a/proxy/api/v1/tickets"
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
        server = serve(max_body_bytes=limit)
        async with server.client(server.token()) as http:
            answered = await http.post("/api/v1/tickets", json={"path": "x" * 2000})
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


@sets("drain_seconds")
async def _(serve: Serve) -> None:
    for seconds in (0.0, 1.0):
        settings = serve(router).settings.model_dump() | {"drain_seconds": seconds}
        with RunningServer(Settings(**settings), router) as server:
            await get(server, "/health/live")
            started = time.monotonic()
        assert (time.monotonic() - started > 1) is bool(seconds)


@sets("ws_max_connections")
async def _(serve: Serve) -> None:
    for limit, second in ((1, False), (2, True)):
        server = serve(router, ws_max_connections=limit)
        async with server.socket("/probe/bare"):
            assert await opens(server) is second


@sets("rate_limit")
async def _(serve: Serve) -> None:
    for rate, status in (("1/minute", 429), ("", 200)):
        server = serve(router, rate_limit=rate)
        assert (await get(server, "/probe/client")).status_code == 200
        assert (await get(server, "/probe/client")).status_code == status


@sets("ws_max_per_user")
async def _(serve: Serve) -> None:
    for limit, second in ((1, False), (0, True)):
        server = serve(router, ws_max_per_user=limit)
        headers = {"Authorization": f"Bearer {server.token()}"}
        async with server.socket("/probe/user", headers=headers):
            assert await opens(server, path="/probe/user", headers=headers) is second


@sets("ws_max_per_address")
async def _(serve: Serve) -> None:
    for limit, second in ((1, False), (0, True)):
        server = serve(router, ws_max_per_address=limit)
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


asking = APIRouter()


@asking.websocket("/asking")
@raises(Forbidden)
class AskedChannel(Channel):
    """Refuses its client as soon as it is asked again."""

    async def authorise(self) -> None:
        """Refuse."""
        raise Forbidden


@sets("ws_authorise_seconds")
async def _(serve: Serve) -> None:
    async with serve(asking, ws_authorise_seconds=0.05).socket("/asking") as socket:
        assert (await socket.ending())[0] == 4403
    async with serve(asking, ws_authorise_seconds=60).socket("/asking") as socket:
        assert (await socket.ask("ping"))["type"] == "pong"


@sets("database_url")
async def _(serve: Serve) -> None:
    server = serve(notes.router)
    file = Path(str(server.settings.database.database))
    other = shutil.copy(file, file.with_name("other.db"))
    first = await notes.write_over_rest(server, "Hello.", "once")
    elsewhere = serve(notes.router, database_url=SecretStr(f"sqlite:///{other}"))
    for each, known in ((server, True), (elsewhere, False)):
        again = await notes.write_over_rest(each, "Hello.", "once")
        assert again.status_code == 201
        assert (again.json() == first.json()) is known


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
        database = database_of(server)
        async with database.reading() as session:
            await session.execute(select(1))
            assert (await _error(database.ping()) is None) is second
        await database.dispose()


async def _error(work: Awaitable[None]) -> AppError | None:
    """The registered error that awaiting ends in."""
    try:
        await work
    except Exception as error:
        return to_app_error(error)
    return None


@sets("database_timeout_seconds")
async def _(serve: Serve) -> None:
    database = database_of(serve(database_pool_size=1, database_timeout_seconds=0.3))
    async with database.reading() as session:
        await session.execute(select(1))
        started = time.monotonic()
        assert isinstance(await _error(database.ping()), Unavailable)
        assert 0.2 < time.monotonic() - started < 2
    await database.dispose()


@sets("idempotency_hours")
async def _(serve: Serve) -> None:
    for hours in (1, 48):
        server = serve(notes.router, idempotency_hours=hours)
        headers = {"Idempotency-Key": f"{hours}"}
        async with server.client(server.token()) as http:
            await http.post(notes.PATH, json={"text": "Hello."}, headers=headers)
        database = database_of(server)
        async with database.reading() as session:
            row = await session.get_one(IdempotencyRow, ("1", f"{hours}"))
        await database.dispose()
        left = row.expires_at - datetime.now(UTC)
        assert timedelta(hours=hours - 0.5) < left <= timedelta(hours=hours)


@sets("audit_days")
async def _(serve: Serve) -> None:
    now = datetime.now(UTC)
    for days, kept in ((1, False), (3, True)):
        server = serve(audit_days=days, jobs_in_process=False)
        database = database_of(server)
        async with database.unit_of_work() as uow:
            audit(uow, f"probe.{days}")
            await uow.flush()
            await uow.execute(update(AuditRow).values(at=now - timedelta(days=2)))
        async with database.unit_of_work() as uow:
            await forget_entries(JobRun(uow, server.app.state, 1, 1))
        async with database.reading() as session:
            left = (await session.scalars(select(AuditRow.action))).all()
        await database.dispose()
        assert bool(left) is kept


@sets("redis_url")
async def _(serve: Serve) -> None:
    away = SecretStr(f"redis://127.0.0.1:{FREE_PORT}")
    for url, status in ((None, "ok"), (away, "degraded")):
        answered = await get(serve(redis_url=url), "/health/ready")
        assert answered.json()["status"] == status


@sets("redis_prefix")
async def _(serve: Serve) -> None:
    with OwnRedis() as redis:
        for prefix in ("ours", "theirs"):
            server = serve(redis_url=SecretStr(redis.url), redis_prefix=prefix)
            async with asyncio.timeout(5):
                while (await get(server, "/health/ready")).json()["status"] != "ok":
                    pass
        with redis.client() as client:
            channels = client.execute_command("PUBSUB", "SHARDCHANNELS")
    assert {name.split(b":")[0] for name in channels} == {b"ours", b"theirs"}


@sets("jobs_in_process")
async def _(serve: Serve) -> None:
    done: Queue[bool] = Queue()
    for in_process in (False, True):
        server = serve(jobs_in_process=in_process)

        async def note(in_process: bool = in_process) -> None:
            done.put(in_process)

        await _give_jobs(server, 3, note)
        assert (await get(server, "/health/ready")).status_code == 200
        assert in_process or done.empty()
    assert await _taken(done, 6) == [True] * 6


@sets("jobs_at_once")
async def _(serve: Serve) -> None:
    begun: Queue[int] = Queue()
    resume = threading.Event()
    for limit in (1, 3):

        async def wait(limit: int = limit) -> None:
            begun.put(limit)
            assert await asyncio.to_thread(resume.wait, DEADLINE)

        await _give_jobs(serve(jobs_at_once=limit), 3, wait)
    assert sorted(await _taken(begun, 4)) == [1, 3, 3, 3]
    assert begun.empty()
    resume.set()
    await _taken(begun, 2)


class ProbeJob(Job):
    """Nothing but a job."""

    name = "probe.job"


async def _give_jobs(
    server: RunningServer, number: int, work: Callable[[], Awaitable[None]]
) -> None:
    """Have a server that does jobs do `work` so many times."""
    routes = JobRoutes()

    @routes.on(ProbeJob)
    async def do(job: ProbeJob, run: JobRun) -> None:
        await work()

    server.app.state.jobs.routes.include(routes)
    database = database_of(server)
    async with database.unit_of_work() as uow:
        for _ in range(number):
            JobQueue(database, routes).enqueue(uow, ProbeJob())
    await database.dispose()


async def _taken(queue: Queue[Any], number: int) -> list[Any]:
    """So many things that another thread has put there."""
    return [await asyncio.to_thread(queue.get, timeout=DEADLINE) for _ in range(number)]


@sets("outbound_timeout_seconds")
async def _(serve: Serve) -> None:
    for seconds, status in ((0.1, 504), (5, 200)):
        assert (await _calls(serve, slow_answer, outbound_timeout_seconds=seconds))[0] == status


@sets("outbound_retries")
async def _(serve: Serve) -> None:
    for retries, status in ((0, 502), (1, 200)):
        called = await _calls(serve, response(503), response(200), outbound_retries=retries)
        assert called == (status, retries + 1)


@sets("outbound_token_hosts")
async def _(serve: Serve) -> None:
    for hosts, called in (("127.0.0.1", (200, 1)), ("elsewhere", (500, 0))):
        assert await _calls(serve, response(200), outbound_token_hosts=hosts) == called


async def slow_answer(writer: asyncio.StreamWriter) -> None:
    """Answer after a while."""
    await asyncio.sleep(0.3)
    writer.write(response(200))


async def _calls(serve: Serve, *plays: bytes | Play, **changed: Any) -> tuple[int, int]:
    """The status where another service is called, and how often that was."""
    server = serve(calling.router, **({"outbound_token_hosts": "127.0.0.1"} | changed))
    async with Upstream(*plays) as upstream, server.client(server.token()) as http:
        answered = await http.post("/outbound/call", json={"url": upstream.url})
    return answered.status_code, len(upstream.asked)


@sets("public_url")
async def _(serve: Serve) -> None:
    for url in ("https://a.example/app", "http://localhost:8000"):
        text = (await _mailed(serve(router, public_url=url))).get_body(("plain",))
        assert text
        assert f"\n{url}/#confirm?token=" in text.get_content()


@sets("smtp_url")
async def _(serve: Serve) -> None:
    async with mail_server() as smtp:
        server = serve(router, smtp_url=SecretStr(f"smtp://127.0.0.1:{smtp.port}"))
        await _causes_mail(server)
        assert (await smtp.next()).recipients == [TO]


@sets("mail_from")
async def _(serve: Serve) -> None:
    for sender in ("Ann <ann@a.example>", "b@b.example"):
        assert (await _mailed(serve(router, mail_from=sender)))["From"] == sender


async def _causes_mail(server: RunningServer) -> None:
    async with server.client() as http:
        assert (await http.post("/probe/mail")).status_code == 202


@sets("mail_directory")
async def _(serve: Serve) -> None:
    for _ in range(2):
        with TemporaryDirectory() as name:
            place = Path(name) / "mail"
            await _mailed(serve(router, mail_directory=place))
            assert len(list(place.glob("*.eml"))) == 1


async def _mailed(server: RunningServer) -> EmailMessage:
    """What was mailed, as a file."""
    files, written = server.app.state.mail.files, Queue[EmailMessage]()
    write = files.write

    async def watched(name: str, message: EmailMessage) -> None:
        await write(name, message)
        written.put(message)

    files.write = watched
    await _causes_mail(server)
    return await asyncio.to_thread(written.get, timeout=DEADLINE)


@sets("secret_key")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(
        serve, secret_key=SecretStr("another-secret-of-32-characters!")
    )


@sets("auth_mode")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        for mode, status in (("local", 200), ("oidc", 404)):
            server = await _taking(issuer, serve, auth_mode=mode)
            assert (await get(server, "/.well-known/jwks.json")).status_code == status


@sets("oidc_issuer")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer, Issuer() as other:
        for url, status in ((issuer.url, 200), (other.url, 401)):
            server = await _taking(issuer, serve, oidc_issuer=url)
            assert (await _told_of(server, issuer.token())).status_code == status


@sets("oidc_audience")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        for audience, status in ((AUDIENCE, 200), ("https://other.example", 401)):
            server = await _taking(issuer, serve, oidc_audience=audience)
            assert (await _told_of(server, issuer.token())).status_code == status


@sets("oidc_roles_claim")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        token = issuer.token({"roles": ["a"], "realm": {"roles": ["b"]}})
        for claim, role in (("roles", "a"), ("realm.roles", "b")):
            server = await _taking(issuer, serve, oidc_roles_claim=claim)
            assert (await _told_of(server, token)).json()["roles"] == [role]


@sets("oidc_scopes")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        for limited, scopes in ((True, ["a"]), (False, None)):
            server = await _taking(issuer, serve, oidc_scopes=limited)
            told = (await _told_of(server, issuer.token({"scope": "a"}))).json()
            assert told["scopes"] == scopes


@sets("oidc_client_id")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        for client in ("page", ""):
            server = await _taking(issuer, serve, oidc_client_id=client)
            listing = await get(server, "/pages.json")
            assert listing.json()["sign_in"]["client_id"] == client
            policy = listing.headers["content-security-policy"]
            assert (issuer.url in policy) is bool(client)


@sets("oidc_client_scope")
async def _(serve: Serve) -> None:
    async with Issuer() as issuer:
        for scope in ("openid profile", "openid rest:read"):
            server = await _taking(issuer, serve, oidc_client_scope=scope)
            assert (await get(server, "/pages.json")).json()["sign_in"]["scope"] == scope


async def _taking(issuer: Issuer, serve: Serve, **changed: Any) -> RunningServer:
    """A server that takes the issuer's tokens; it fetches the keys while it starts."""
    given = {"auth_mode": "oidc", "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
    return await asyncio.to_thread(serve, router, **(given | changed))


async def _told_of(server: RunningServer, token: str) -> Any:
    return await get(server, "/probe/me", headers={"Authorization": f"Bearer {token}"})


@sets("token_issuer")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(serve, token_issuer="somebody-else")


@sets("token_audience")
async def _(serve: Serve) -> None:
    await _refuses_the_others_tokens(serve, token_audience="somebody-else")


async def _refuses_the_others_tokens(serve: Serve, **changed: Any) -> None:
    ours, theirs = serve(router), serve(router, **changed)
    assert (await _told_of(ours, ours.token())).status_code == 200
    assert (await _told_of(theirs, ours.token())).status_code == 401


@sets("access_token_seconds")
async def _(serve: Serve) -> None:
    for seconds in (60, 900):
        told = payload(serve(access_token_seconds=seconds).token())
        assert told["exp"] - told["iat"] == seconds


@sets("token_leeway_seconds")
async def _(serve: Serve) -> None:
    servers = {
        status: serve(router, token_leeway_seconds=leeway, access_token_seconds=1)
        for leeway, status in ((30, 200), (0, 401))
    }
    tokens = {status: server.token() for status, server in servers.items()}
    await asyncio.sleep(1.1)  # until they have expired
    for status, server in servers.items():
        assert (await _told_of(server, tokens[status])).status_code == status


@sets("watchdog_seconds")
async def _(serve: Serve) -> None:
    for seconds, told in (("1", True), ("0", False)):
        with running(program=HOLDING, WATCHDOG_SECONDS=seconds) as process:
            await asyncio.to_thread(hold, process, 4)
        assert ("event loop held" in process.output) is told


@sets("log_level")
async def _(serve: Serve) -> None:
    assert "/health/live" in _written("info", "json")[1]
    assert "/health/live" not in _written("warning", "json")[1]


@sets("log_format")
async def _(serve: Serve) -> None:
    assert '"path": "/health/live"' in _written("info", "json")[1]
    assert '"path": "/health/live"' not in _written("info", "console")[1]


@sets("metrics_host")
async def _(serve: Serve) -> None:
    assert _has_metrics(METRICS_HOST="127.0.0.2") == {"127.0.0.1": False, "127.0.0.2": True}


@sets("metrics_port")
async def _(serve: Serve) -> None:
    assert _has_metrics() == {"127.0.0.1": True, "127.0.0.2": False}
    assert _has_metrics(METRICS_PORT="0") == {"127.0.0.1": False, "127.0.0.2": False}


def _has_metrics(**variables: str) -> dict[str, bool]:
    """At which of two addresses a process tells its metrics, unless told another port."""
    port = free_port()

    def answers(host: str) -> bool:
        try:
            answered = httpx2.get(f"http://{host}:{port}/metrics")
        except httpx2.ConnectError:
            return False
        return "duplex_connections" in answered.text

    with running(**({"METRICS_PORT": str(port)} | variables)):
        return {host: answers(host) for host in ("127.0.0.1", "127.0.0.2")}


@cache
def _written(level: str, form: str) -> tuple[str, str]:
    """The address that a process says it is at, and all that it writes about one request."""
    where = {"HOST": "127.0.0.2", "PORT": str(FREE_PORT)} if form == "console" else {}
    with running(LOG_LEVEL=level, LOG_FORMAT=form, **where) as process:
        process.get("/health/live")
    return process.line, process.output
