"""Reminders: posts that come later, to rooms that still take them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from app.core.db import SqlDatabase
from app.core.jobs import JobRow
from app.core.settings import Settings
from tests.features.rooms.people import Person, code
from tests.server import DEADLINE, RunningServer

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """A server of the test's own: its jobs are all there are."""
    return serve()


async def remind(person: Person, room: int, text: Any, in_seconds: Any = 0) -> httpx2.Response:
    """The answer to somebody who wants the room reminded."""
    body = {"text": text, "in_seconds": in_seconds}
    return await person.do("POST", f"/{room}/reminders", json=body)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """The database of the server, over connections of the test's own."""
    database = SqlDatabase(settings.database)
    yield database
    await database.dispose()


async def let_time_pass(database: SqlDatabase) -> None:
    """Let every reminder be due."""
    async with database.unit_of_work() as uow:
        due = update(JobRow).where(JobRow.name == "rooms.reminder")
        await uow.execute(due.values(run_at=datetime.now(UTC)))


async def waiting(database: SqlDatabase) -> list[JobRow]:
    """The reminders that are still to come."""
    async with database.reading() as session:
        rows = await session.scalars(select(JobRow).where(JobRow.name == "rooms.reminder"))
        return list(rows)


async def test_a_reminder_is_a_post(ann: Person, bob: Person) -> None:
    """By whoever wanted it: heard by the members, and kept."""
    room = await ann.create()
    await bob.join(room)
    async with ann.socket(room) as socket:
        await socket.until("welcome")
        assert (await remind(bob, room, "The kettle!")).status_code == 202
        heard = (await socket.until("posted"))["data"]
    assert (heard["author"], heard["text"]) == (bob.shown, "Reminder: The kettle!")
    assert (await ann.history(room))["items"] == [heard]


async def test_a_reminder_waits_for_its_time(database: SqlDatabase, ann: Person) -> None:
    """It is there, for then, and the room hears nothing of it before."""
    room = await ann.create()
    before = datetime.now(UTC)
    async with ann.socket(room) as socket:
        await socket.until("welcome")
        assert (await remind(ann, room, "Later.", 3600)).status_code == 202
        assert (await remind(ann, room, "Now.")).status_code == 202
        assert (await socket.until("posted"))["data"]["text"] == "Reminder: Now."
        (later,) = await waiting(database)
        assert timedelta(0) <= later.run_at - before - timedelta(hours=1) < timedelta(minutes=1)
        await let_time_pass(database)
        assert (await socket.until("posted"))["data"]["text"] == "Reminder: Later."


async def test_whoever_may_not_post_any_more_reminds_nobody(
    database: SqlDatabase, ann: Person, bob: Person
) -> None:
    """Of somebody who left, and of an archived room, it is dropped."""
    left, archived, open_room = [await ann.create() for _ in range(3)]
    for room in (left, archived, open_room):
        await bob.join(room)
        assert (await remind(bob, room, "Too late?", 3600)).status_code == 202
    await bob.do("DELETE", f"/{left}/members/me")
    await ann.do("POST", f"/{archived}/archive")
    await let_time_pass(database)
    async with asyncio.timeout(DEADLINE):
        while jobs := await waiting(database):
            assert {job.error for job in jobs} == {None}
    assert len((await ann.history(open_room))["items"]) == 1
    for room in (left, archived):
        assert (await ann.history(room))["items"] == []


async def test_only_who_may_post_may_remind(ann: Person, bob: Person) -> None:
    """A stranger, and anybody in an archived room, is refused at once."""
    room = await ann.create()
    assert code(await remind(bob, room, "Hello.")) == "rooms.not_a_member"
    assert code(await remind(ann, 77, "Hello.")) == "rooms.not_found"
    await ann.do("POST", f"/{room}/archive")
    assert code(await remind(ann, room, "Hello.")) == "rooms.read_only"


@pytest.mark.parametrize(
    ("text", "in_seconds"),
    [
        ("", 0),
        ("x" * 1001, 0),
        ("x", -1),
        ("x", 366 * 24 * 3600 + 1),
        ("x", 10**400),
        ("x", "soon"),
    ],
)
async def test_a_reminder_that_makes_no_sense_is_refused(
    ann: Person, text: str, in_seconds: Any
) -> None:
    """Without a word, with too many, in the past, or in another age."""
    room = await ann.create()
    answer = await remind(ann, room, text, in_seconds)
    assert (answer.status_code, code(answer)) == (422, "invalid_parameter")


async def test_a_reminder_that_another_process_posts_is_heard(
    serve: Callable[..., RunningServer],
) -> None:
    """Whoever is connected to a process that does no jobs hears it all the same."""
    serving, _ = serve(jobs_in_process=False), serve()
    async with serving.client() as client:
        ann = Person(serving, client, "1", "Ann")
        room = await ann.create()
        async with ann.socket(room) as socket:
            await socket.until("welcome")
            await remind(ann, room, "The kettle!")
            assert (await socket.until("posted"))["data"]["text"] == "Reminder: The kettle!"
