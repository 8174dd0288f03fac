"""A write with a key is done once, whichever door it comes through, on each database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select, update

from app.core.db import SqlDatabase
from app.core.errors import Forbidden
from app.core.idempotency import IdempotencyKeyReused, IdempotencyKeys, IdempotencyRow
from app.core.settings import Settings
from app.realtime.log import EventRow
from tests.core import notes
from tests.core.notes import write_over_rest
from tests.server import RunningServer


class Draft(BaseModel):
    """What is sent."""

    text: str
    more: dict[str, int] = {}


class Answer(BaseModel):
    """What is answered."""

    number: int


class Counting:
    """Work that counts how often it was done."""

    def __init__(self) -> None:
        self.done = 0

    async def __call__(self) -> Answer:
        self.done += 1
        return Answer(number=self.done)


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """The test's database, on each engine."""
    database = SqlDatabase(settings.database, timeout=20)
    yield database
    await database.dispose()


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The service, with notes."""
    return serve(notes.router)


async def written(db: SqlDatabase) -> list[str]:
    """The notes that there are."""
    async with db.reading() as session:
        return list(await session.scalars(select(EventRow.data).where(EventRow.topic == "notes")))


async def once(
    db: SqlDatabase,
    work: Any,
    key: str | None = "k",
    *,
    operation: str = "count",
    body: BaseModel | None = None,
    keep: timedelta = timedelta(hours=1),
) -> Answer:
    """What `work` answers, in a unit of work of its own."""
    async with db.unit_of_work() as uow:
        return await IdempotencyKeys(keep).once(
            uow, "1", key, work, operation=operation, body=body, answer=Answer
        )


async def test_the_same_key_gets_the_first_answer_again(db: SqlDatabase) -> None:
    """The work is done once, also by another process later; another key is another request."""
    work = Counting()
    answers = [await once(db, work, key) for key in ("a", "a", "b", "a", "b")]
    assert [answer.number for answer in answers] == [1, 1, 2, 1, 2]


async def test_without_a_key_work_just_runs(db: SqlDatabase) -> None:
    """Each time, and nothing is kept of it."""
    work = Counting()
    assert [(await once(db, work, None)).number for _ in range(3)] == [1, 2, 3]
    async with db.reading() as session:
        assert (await session.scalars(select(IdempotencyRow))).all() == []


async def test_a_key_stands_for_an_operation_and_a_body(db: SqlDatabase) -> None:
    """Another of either is refused; the order of a body's members does not matter."""
    work = Counting()
    first = Draft(text="Hello.", more={"a": 1, "b": 2})
    await once(db, work, body=first)
    same = Draft(more={"b": 2, "a": 1}, text="Hello.")
    assert (await once(db, work, body=same)).number == 1
    for body in (None, Draft(text="Hello"), Draft(text="Hello.", more={"a": 1})):
        with pytest.raises(IdempotencyKeyReused):
            await once(db, work, body=body)
    with pytest.raises(IdempotencyKeyReused):
        await once(db, work, body=first, operation="another")
    assert work.done == 1


async def test_a_failure_leaves_the_key_free(db: SqlDatabase) -> None:
    """What was rolled back has not happened, be it an error or a cancellation."""
    work = Counting()

    async def fail() -> Answer:
        raise Forbidden

    with pytest.raises(Forbidden):
        await once(db, fail)
    began = asyncio.Event()

    async def wait() -> Answer:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    leaving = asyncio.create_task(once(db, wait))
    await began.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await once(db, work, operation="another")).number == 1


async def test_the_second_waits_for_the_first(db: SqlDatabase) -> None:
    """It gets the first's answer once that is committed; does the work itself if that fails."""
    for fails, expected in ((False, 1), (True, 2)):
        began, go_on = asyncio.Event(), asyncio.Event()
        first_work, second_work = Counting(), Counting()
        second_work.done = 1

        async def slow(
            began: asyncio.Event = began,
            go_on: asyncio.Event = go_on,
            fails: bool = fails,
            work: Counting = first_work,
        ) -> Answer:
            began.set()
            await go_on.wait()
            if fails:
                raise Forbidden
            return await work()

        key = f"fails: {fails}"
        first = asyncio.create_task(once(db, slow, key))
        await began.wait()
        second = asyncio.create_task(once(db, second_work, key))
        done, _ = await asyncio.wait([second], timeout=0.2)
        assert not done
        go_on.set()
        assert (await second).number == expected
        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Forbidden) is (
            fails
        )


async def test_a_key_is_free_again_after_its_time(db: SqlDatabase) -> None:
    """Even before anybody has cleaned up; it may stand for something else then."""
    work = Counting()
    await once(db, work)
    async with db.unit_of_work() as uow:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await uow.execute(update(IdempotencyRow).values(expires_at=past, epoch="e", offset=7))
    assert (await once(db, work, operation="another")).number == 2
    assert (await once(db, work, operation="another")).number == 2
    async with db.reading() as session:
        row = await session.get_one(IdempotencyRow, ("1", "k"))
    assert row.expires_at > datetime.now(UTC)
    assert (row.epoch, row.offset) == (None, None)


async def test_a_position_that_is_known_only_at_the_end_is_kept(db: SqlDatabase) -> None:
    """The answer is stored after the hooks of the work that made it."""

    async def work() -> notes.Noted:
        noted = notes.Noted(id="1", text="Hello.")

        async def record() -> None:
            noted.with_log_position("epoch", 7)

        uow.before_commit(record)
        return noted

    keys = IdempotencyKeys(timedelta(hours=1))
    for _ in range(2):
        async with db.unit_of_work() as uow:
            noted = await keys.once(
                uow, "1", "k", work, operation="note", body=None, answer=notes.Noted
            )
        position = noted.log_position
        assert position is not None
        assert (position.epoch, position.offset) == ("epoch", 7)


async def test_a_repeated_request_is_answered_as_the_first(
    server: RunningServer, db: SqlDatabase
) -> None:
    """Over REST with its status, in a frame with its offset; nobody hears of it twice."""
    async with (
        server.socket(f"{notes.PATH}/ws", server.token()) as socket,
        server.socket(f"{notes.PATH}/ws", server.token("2")) as other,
    ):
        await socket.until("welcome")
        first = await write_over_rest(server, "Hello.", "a key")
        again = await write_over_rest(server, "Hello.", "a key")
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        heard = await socket.until("noted")
        replies = [await socket.ask("note", {"text": "Hello."}, key="a key") for _ in range(2)]
        assert [reply["data"] for reply in replies] == [first.json()] * 2
        assert [reply["offset"] for reply in replies] == [heard["offset"]] * 2
        framed = await socket.ask("note", {"text": "Other."}, key="another key")
        last = await write_over_rest(server, "Other.", "another key")
        assert (last.status_code, last.json()) == (201, framed["data"])
        told = [await other.until("noted") for _ in range(2)]
        assert [frame["data"]["text"] for frame in told] == ["Hello.", "Other."]
        assert (await other.ask("ping"))["type"] == "pong"
    assert len(await written(db)) == 2


async def test_a_key_is_its_subjects_own(server: RunningServer, db: SqlDatabase) -> None:
    """Somebody else's same key is another request."""
    answers = [
        (await write_over_rest(server, text, "a key", subject=subject)).json()
        for subject, text in (("1", "Hello."), ("2", "Goodbye."), ("1", "Hello."))
    ]
    assert answers[0] == answers[2] != answers[1]
    assert len(await written(db)) == 2


async def test_another_request_with_the_key_is_refused_at_both_doors(
    server: RunningServer, db: SqlDatabase
) -> None:
    """With 422, and the socket lives on."""
    await write_over_rest(server, "Hello.", "a key")
    for text, board in (("Goodbye.", ""), ("Hello.", "another")):
        refused = await write_over_rest(server, text, "a key", board=board)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    async with server.socket(f"{notes.PATH}/ws", server.token()) as socket:
        refusal = await socket.ask("note", {"text": "Goodbye."}, key="a key")
        assert (refusal["type"], refusal["data"]["code"]) == ("error", "idempotency_key_reused")
        assert (await socket.ask("ping"))["type"] == "pong"
    assert len(await written(db)) == 1


async def test_what_was_refused_may_be_asked_again_with_the_key(
    server: RunningServer, db: SqlDatabase
) -> None:
    """The first try left nothing behind, not even its key."""
    assert (await write_over_rest(server, "no", "a key")).status_code == 403
    async with server.socket(f"{notes.PATH}/ws", server.token()) as socket:
        assert (await socket.ask("note", {"text": "no"}, key="a key"))["type"] == "error"
    assert (await write_over_rest(server, "yes", "a key")).status_code == 201
    assert len(await written(db)) == 1


async def test_of_twenty_at_once_one_is_done(server: RunningServer, db: SqlDatabase) -> None:
    """Half of them through a socket each; all get the one answer."""

    async def in_a_frame() -> Any:
        async with server.socket(f"{notes.PATH}/ws", server.token()) as socket:
            return (await socket.ask("note", {"text": "Hello."}, key="a key"))["data"]

    async def over_rest() -> Any:
        return (await write_over_rest(server, "Hello.", "a key")).json()

    doors = (in_a_frame, over_rest)
    answers = await asyncio.gather(*(doors[number % 2]() for number in range(20)))
    assert "id" in answers[0]
    assert answers == [answers[0]] * 20
    assert len(await written(db)) == 1


async def test_a_key_is_printable_and_short(server: RunningServer) -> None:
    """255 characters of ASCII, at both doors; what is wrong with another is said."""
    assert (await write_over_rest(server, "Hello.", "a" * 255)).status_code == 201
    async with (
        server.client(server.token()) as client,
        server.socket(f"{notes.PATH}/ws", server.token()) as socket,
    ):
        for key in ("", "a" * 256, "schl\xfcssel", "a\tb"):
            headers = {b"Idempotency-Key": key.encode("latin-1")}
            refused = await client.post(notes.PATH, json={"text": "Hello."}, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
            assert refused.json()["errors"][0]["loc"] == ["header", "Idempotency-Key"]
            answer = await socket.ask("note", {"text": "Hello."}, key=key)
            assert (answer["type"], answer["data"]["code"]) == ("error", "invalid_parameter")
            assert answer["data"]["errors"][0]["loc"] == ["key"]


async def test_the_documents_tell_of_the_key(server: RunningServer) -> None:
    """The header is a parameter, the error among the operation's; a page elsewhere may send it."""
    async with server.client() as client:
        operation = (await client.get("/openapi.json")).json()["paths"][notes.PATH]["post"]
    header = next(each for each in operation["parameters"] if each["in"] == "header")
    assert (header["name"], header["required"]) == ("Idempotency-Key", False)
    examples = operation["responses"]["422"]["content"]["application/problem+json"]["examples"]
    assert "idempotency_key_reused" in examples


async def test_a_page_of_elsewhere_may_send_a_key(serve: Callable[..., RunningServer]) -> None:
    """The preflight of an allowed origin says so."""
    headers = {
        "Origin": "https://friend.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "idempotency-key",
    }
    server = serve(notes.router, allowed_origins="https://friend.example")
    async with server.client() as client:
        assert (await client.options(notes.PATH, headers=headers)).status_code == 200
