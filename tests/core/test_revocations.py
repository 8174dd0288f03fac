"""Revocations: from the commit on, in every process, for as long as a token could be valid."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import exc as sa_exc

from app.core import revocations as module
from app.core.auth import CurrentUser, Principal
from app.core.connections import OpenConnection, OpenConnections
from app.core.db import Database, SqlDatabase
from app.core.errors import AppError, Forbidden, SessionRevoked, Unavailable
from app.core.revocations import RevocationRow, Revocations
from app.core.settings import Settings
from app.main import create_app
from app.realtime import Hub, Message, Topic, follow
from tests import doors
from tests.conftest import changed_settings, settings_for
from tests.redis import OwnRedis
from tests.server import RunningServer, Socket

KEEP = timedelta(minutes=1)
router = APIRouter(prefix="/probe")
router.include_router(doors.router)


@router.post("/end/{kind}/{key}")
async def end(db: Database, kind: str, key: str, request: Request) -> None:
    """Revoke a session, or a subject."""
    revocations: Revocations = request.app.state.revocations
    async with db.unit_of_work() as uow:
        if kind == "session":
            revocations.revoke_session(uow, key, "Over.")
        else:
            revocations.revoke_subject(uow, key, "Over.")


@router.get("/rest")
async def rest(user: CurrentUser) -> str:
    """Who asks."""
    return user.session


told = Topic[Message]("told", durable=True)


async def _events(
    request: Request, user: CurrentUser, hub: Hub, db: Database, late: bool = False
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    if late:  # the guards have let it in already
        async with db.unit_of_work() as uow:
            request.app.state.revocations.revoke_session(uow, user.session)
    async with follow(request, hub, told.at(), None) as events:
        yield events


@router.get("/stream", response_class=EventSourceResponse)
async def stream(
    events: Annotated[AsyncIterator[ServerSentEvent], Depends(_events)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events."""
    async for event in events:
        yield event


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """The test's database, on each engine."""
    database = SqlDatabase(settings.database, timeout=20)
    yield database
    await database.dispose()


def node(db: SqlDatabase, *, keep: timedelta = KEEP) -> Revocations:
    """Revocations as a process has them."""
    return Revocations(db, OpenConnections(), keep=keep)


def principal(
    session: str = "s", subject: str = "1", *, issued_at: datetime | None = None
) -> Principal:
    """Somebody whose token was issued a minute ago."""
    now = datetime.now(UTC)
    issued_at = issued_at or now - timedelta(minutes=1)
    return Principal(subject, "Ann", session, frozenset(), issued_at, now + timedelta(minutes=1))


def refused(revocations: Revocations, who: Principal) -> bool:
    """Whether somebody is refused."""
    try:
        revocations.check(who)
    except SessionRevoked:
        return True
    return False


async def revoke_session(revocations: Revocations, session: str = "s") -> None:
    """Revoke a session in a unit of work of its own."""
    async with revocations._db.unit_of_work() as uow:
        revocations.revoke_session(uow, session)


async def test_a_session_is_refused_once_it_is_committed(db: SqlDatabase) -> None:
    """Not before, and never where the unit of work is rolled back; no other session ever."""
    here = node(db)
    async with db.unit_of_work() as uow:
        here.revoke_session(uow, "s", "Why.")
        await uow.flush()
        assert not refused(here, principal())
    with pytest.raises(SessionRevoked) as raised:
        here.check(principal())
    assert raised.value.detail == "Why."
    assert raised.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    assert not refused(here, principal("other"))
    with suppress(ValueError):
        async with db.unit_of_work() as uow:
            here.revoke_session(uow, "other")
            await uow.flush()
            raise ValueError("undone")
    assert not refused(here, principal("other"))


async def test_a_subject_is_refused_what_was_issued_up_to_then(db: SqlDatabase) -> None:
    """In any session; a token of the same second too, since that is all it tells."""
    here = node(db)
    async with db.unit_of_work() as uow:
        here.revoke_subject(uow, "1")
    second = datetime.now(UTC).replace(microsecond=0)
    for issued_at, is_refused in (
        (second - timedelta(seconds=5), True),
        (here._ended["subject", "1"].revoked_at.replace(microsecond=0), True),
        (second + timedelta(seconds=1), False),
    ):
        assert refused(here, principal("a", issued_at=issued_at)) is is_refused
        assert not refused(here, principal("a", "2", issued_at=issued_at))
    later = node(db)
    await later.load()
    assert refused(later, principal("a"))
    assert not refused(later, principal("a", issued_at=second + timedelta(seconds=1)))


async def test_of_two_revocations_of_a_subject_the_later_counts(db: SqlDatabase) -> None:
    """Whichever is read first."""
    there = node(db)
    now = datetime.now(UTC)
    async with db.unit_of_work() as uow:
        for id_, age in ((1, 10), (2, 20)):
            at = now - timedelta(seconds=age)
            uow.add(
                RevocationRow(id=id_, kind="subject", key="1", revoked_at=at, expires_at=now + KEEP)
            )
    await there.load()
    assert refused(there, principal(issued_at=now - timedelta(seconds=10)))
    assert not refused(there, principal(issued_at=now - timedelta(seconds=9)))


async def test_another_process_finds_what_is_new(db: SqlDatabase) -> None:
    """With its detail, by reading on."""
    here, there = node(db), node(db)
    await there.load()
    await revoke_session(here)
    assert not refused(there, principal())
    await there.poll()
    assert refused(there, principal())


async def test_a_process_that_is_woken_reads_at_once(
    db: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for its next turn."""
    monkeypatch.setattr(module, "POLL_SECONDS", 3600)
    here, there = node(db), node(db)
    await there.load()
    here.on_recorded = there.wake
    ended = asyncio.Event()
    there.on_subscription_revoked = lambda *_: ended.set()
    polling = asyncio.create_task(there.polling.run())
    await asyncio.sleep(0)
    async with db.unit_of_work() as uow:
        here.revoke_subscription(uow, "rooms:7", "1", Forbidden())
    await asyncio.wait_for(ended.wait(), 10)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)


async def test_what_is_committed_late_is_found(db: SqlDatabase) -> None:
    """An id below one that was read by the next reading, one far below it by the reload."""
    there = node(db)
    now = datetime.now(UTC)

    async def appear(id_: int) -> None:
        async with db.unit_of_work() as uow:
            row = {"kind": "session", "key": f"{id_}", "revoked_at": now, "expires_at": now + KEEP}
            uow.add(RevocationRow(id=id_, **row))

    await there.load()
    await appear(1_000)
    await there.poll()
    await appear(1_000 - module.OVERLAP + 1)
    await appear(1)
    await there.poll()
    assert refused(there, principal(f"{1_000 - module.OVERLAP + 1}"))
    assert not refused(there, principal("1"))
    there._reload_at = time.monotonic()
    await there.poll()
    assert refused(there, principal("1"))


async def test_the_own_revocations_hide_nobody_elses(
    db: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ids this process takes between two readings."""
    monkeypatch.setattr(module, "OVERLAP", 1)
    here, there = node(db), node(db)
    await there.load()
    await revoke_session(here)
    for number in range(5):
        await revoke_session(there, f"{number}")
    await there.poll()
    assert refused(there, principal())


async def test_a_long_list_is_read_in_pages(
    db: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, before the process takes tokens."""
    monkeypatch.setattr(module, "PAGE", 2)
    here, there = node(db), node(db)
    async with db.unit_of_work() as uow:
        for number in range(5):
            here.revoke_session(uow, f"{number}")
    await there.load()
    assert all(refused(there, principal(f"{number}")) for number in range(5))


async def test_memory_and_reading_end_where_tokens_do(db: SqlDatabase) -> None:
    """What has expired is forgotten, and not read again."""
    here, there = node(db, keep=timedelta(0)), node(db)
    async with db.unit_of_work() as uow:
        for number in range(5):
            here.revoke_session(uow, f"{number}")
        here.revoke_subscription(uow, "rooms:7", "1", Forbidden())
    for each in (here, there):
        await each.load()
        assert (each._ended, each._known) == ({}, {})


async def test_a_revoked_subscription_is_passed_on_once_in_each_process(db: SqlDatabase) -> None:
    """With the error by its code; newer code's, which is not known here, is a refusal."""
    here, there = node(db), node(db)
    told: list[tuple[str, str, str, type[AppError], str | None]] = []

    def listen(name: str) -> Callable[[str, str, AppError], None]:
        return lambda topic, subject, error: told.append(
            (name, topic, subject, type(error), error.detail)
        )

    here.on_subscription_revoked, there.on_subscription_revoked = listen("here"), listen("there")
    async with db.unit_of_work() as uow:
        here.revoke_subscription(uow, "rooms:7", "auth0|bob", Unavailable("Later."))
        assert told == []
    assert told == [("here", "rooms:7", "auth0|bob", Unavailable, "Later.")]
    async with db.unit_of_work() as uow:
        now = datetime.now(UTC)
        row = RevocationRow(kind="topic", key="rooms:8", subject="1", code="of.tomorrow")
        row.detail, row.revoked_at, row.expires_at = "Because.", now, now + KEEP
        uow.add(row)
    for _ in range(2):
        await there.poll()
    assert told[1:] == [
        ("there", "rooms:7", "auth0|bob", Unavailable, "Later."),
        ("there", "rooms:8", "1", Forbidden, "Because."),
    ]
    assert not refused(there, principal("rooms:7"))


async def test_others_are_told_once_for_a_commit(db: SqlDatabase) -> None:
    """However much was revoked, and after it has taken effect here."""
    here = node(db)
    told: list[bool] = []
    here.on_recorded = lambda: told.append(refused(here, principal("4")))
    async with db.unit_of_work() as uow:
        for number in range(5):
            here.revoke_session(uow, f"{number}")
        assert told == []
    assert told == [True]
    await here.poll()
    assert told == [True]


async def test_connections_of_the_session_end(db: SqlDatabase) -> None:
    """Those whose principal is refused, and none besides; in another process as well."""
    ended: list[str] = []

    def connection(name: str, who: Principal | None) -> OpenConnection:
        scope = {"state": {"principal": who} if who else {}}
        return OpenConnection(scope, lambda error: ended.append(f"{name}: {error.detail}"))

    here, there = node(db), node(db)
    for each in (here, there):
        for name, who in (
            ("Ann", principal("a", "1")),
            ("Ann elsewhere", principal("b", "1")),
            ("Ann later", principal("c", "1", issued_at=datetime.now(UTC) + timedelta(seconds=2))),
            ("Bob", principal("d", "2")),
            ("nobody", None),
        ):
            each._connections.add(connection(name, who))
    async with db.unit_of_work() as uow:
        here.revoke_session(uow, "a", "Ended.")
        here.revoke_subject(uow, "2", "Gone.")
    assert sorted(ended) == ["Ann: Ended.", "Bob: Gone."]
    await there.poll()
    assert sorted(ended) == ["Ann: Ended."] * 2 + ["Bob: Gone."] * 2


async def test_without_the_list_the_process_does_not_start(tmp_path: Path) -> None:
    """It would let in who was signed out."""
    app = create_app(settings_for(f"sqlite:///{tmp_path / 'empty.db'}"))
    with pytest.raises(sa_exc.OperationalError):
        async with app.router.lifespan_context(app):
            raise AssertionError("it has started")


async def do_end(server: RunningServer, kind: str, key: str) -> None:
    """Revoke through a server."""
    async with server.client() as client:
        assert (await client.post(f"/probe/end/{kind}/{key}")).status_code == 200


async def opened(stack: AsyncExitStack, server: RunningServer, token: str) -> list[Socket]:
    """A channel's socket and a bare one, of a program and of a page."""
    return [
        await stack.enter_async_context(opens(f"/probe/{path}", token))
        for path in ("channel", "bare")
        for opens in (server.socket, server.browser_socket)
    ]


async def told_within(sockets: list[Socket], seconds: float) -> None:
    """All are told that their session has ended, and closed, in time."""

    async def told(socket: Socket) -> None:
        code, reason, frames = await socket.ending()
        assert (code, reason) == (4401, "session_revoked")
        assert (frames[-1]["type"], frames[-1]["data"]["detail"]) == ("error", "Over.")

    async with asyncio.timeout(seconds):
        await asyncio.gather(*(told(socket) for socket in sockets))


async def alive(sockets: list[Socket]) -> None:
    """All are open."""
    async with asyncio.timeout(5):
        for socket in sockets:
            await (await socket.connection.ping())


def tokens(server: RunningServer, subject: str, *sessions: str) -> list[str]:
    """A token of each of somebody's sessions."""
    issue: Callable[..., str] = server.app.state.tokens.issue
    return [issue(subject, session=session) for session in sessions]


async def code_of(server: RunningServer, token: str) -> Any:
    """The code of the error that a token gets over REST, or None."""
    async with server.client(token) as client:
        answer = await client.get("/probe/rest")
    return None if answer.is_success else answer.json()["code"]


async def test_sockets_of_a_session_are_told_and_closed(
    serve: Callable[..., RunningServer],
) -> None:
    """Within a second, by 4401; those of the person's other session stay."""
    server = serve(router)
    gone, stays = tokens(server, "1", "a", "b")
    async with AsyncExitStack() as stack:
        of_a, of_b = await opened(stack, server, gone), await opened(stack, server, stays)
        await alive([*of_a, *of_b])
        await do_end(server, "session", "a")
        await told_within(of_a, 1)
        await alive(of_b)
        assert await code_of(server, gone) == "session_revoked"
        assert await code_of(server, stays) is None
        await do_end(server, "subject", "1")
        await told_within(of_b, 1)
        assert await code_of(server, stays) == "session_revoked"


async def test_a_stream_of_a_session_ends(serve: Callable[..., RunningServer]) -> None:
    """With the error as its last event; or it does not begin, if that was before it was open."""
    server = serve(router)
    token, late = tokens(server, "1", "a", "b")
    async with server.client(token) as client, client.stream("GET", "/probe/stream") as response:
        lines = response.aiter_lines()
        async with asyncio.timeout(5):
            assert await anext(lines) == "event: welcome"
            await do_end(server, "session", "a")
            rest_of_it = [line async for line in lines]
    assert "event: problem" in rest_of_it
    assert '"code": "session_revoked"' in str(rest_of_it)
    async with server.client(late) as client:
        answer = await client.get("/probe/stream?late=true", timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")


async def test_a_token_of_an_ended_session_refreshes_no_socket(
    serve: Callable[..., RunningServer],
) -> None:
    """It is refused in a frame as it is in a header; the socket goes on with the token it has."""
    server = serve(router)
    gone, stays = tokens(server, "1", "a", "b")
    await do_end(server, "session", "a")
    async with server.socket("/probe/channel", stays) as socket:
        answer = await socket.ask("auth.refresh", {"token": gone})
        assert (answer["type"], answer["data"]["code"]) == ("error", "session_revoked")
        assert (await socket.ask("ping"))["type"] == "pong"


async def test_another_process_closes_its_sockets_within_a_second(
    serve: Callable[..., RunningServer], engine: str
) -> None:
    """With nothing between the two but the database; and refuses the token from then on."""
    first, second = serve(router), serve(router)
    gone, stays = tokens(first, "1", "a", "b")
    async with AsyncExitStack() as stack:
        of_a, of_b = await opened(stack, second, gone), await opened(stack, second, stays)
        await alive([*of_a, *of_b])
        await do_end(first, "session", "a")
        await told_within(of_a, 1.5)  # a second, and what a busy machine adds
        assert await code_of(second, gone) == "session_revoked"
        await alive(of_b)


async def test_with_redis_nobody_waits_for_the_next_reading(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is woken, and reads from the database what it is about."""
    monkeypatch.setattr(module, "POLL_SECONDS", 3600)
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(OwnRedis())
        own = changed_settings(settings, {"redis_url": redis.url})
        first, second = (stack.enter_context(RunningServer(own, router)) for _ in range(2))
        (gone,) = tokens(first, "1", "a")
        sockets = await opened(stack, second, gone)
        await alive(sockets)
        async with asyncio.timeout(10):
            while not all(each.app.state.backplane.connected for each in (first, second)):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        await do_end(first, "session", "a")
        await told_within(sockets, 1)


async def test_a_restart_forgets_nothing(settings: Settings) -> None:
    """A token that was refused is refused by whatever process comes next, from its first answer."""
    with RunningServer(settings, router) as server:
        gone, stays = tokens(server, "1", "a", "b")
        (signed_out,) = tokens(server, "2", "c")
        await do_end(server, "session", "a")
        await do_end(server, "subject", "2")
    with RunningServer(settings, router) as server:
        for token, code in (
            (gone, "session_revoked"),
            (signed_out, "session_revoked"),
            (stays, None),
        ):
            assert await code_of(server, token) == code
