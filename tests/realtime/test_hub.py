"""The hub: from a commit to the outboxes, and nowhere from a rollback."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from app.core.db import SqlDatabase
from app.core.errors import AppError, Forbidden
from app.core.settings import Settings
from app.realtime.hub import EventHub
from app.realtime.messages import Encoded
from app.realtime.topics import Topic
from tests.realtime.probe import Noise, Said

room = Topic[Said]("room:{id}").at(id=1)
elsewhere = Topic[Said]("room:{id}").at(id=2)


class Listener:
    """A subscriber that keeps what it hears."""

    def __init__(self, subject: str | None = None) -> None:
        self.subject = subject
        self.frames: list[Encoded] = []
        self.endings: list[AppError] = []

    def deliver(self, frame: Encoded) -> None:
        """Keep the frame."""
        self.frames.append(frame)

    def end(self, error: AppError) -> None:
        """Keep the error."""
        self.endings.append(error)


@pytest.fixture
def hub() -> EventHub:
    """A hub of this test's own."""
    return EventHub()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """The database, in the loop of the test."""
    opened = SqlDatabase(settings.database)
    yield opened
    await opened.dispose()


async def test_an_event_is_told_after_the_commit(hub: EventHub, database: SqlDatabase) -> None:
    """Nobody hears of an event before its unit of work has been committed."""
    listener = Listener()
    hub.subscribe(room, listener)
    async with database.unit_of_work() as uow:
        hub.publish(uow, room, Said(text="one"))
        hub.publish(uow, room, Said(text="two"))
        await uow.flush()
        assert listener.frames == []
    told = [json.loads(frame.payload) for frame in listener.frames]
    assert [frame["data"]["text"] for frame in told] == ["one", "two"]
    assert told[0] == {"type": "said", "topic": "room:1", "data": {"text": "one", "by": ""}}


async def test_a_rollback_tells_nobody(hub: EventHub, database: SqlDatabase) -> None:
    """What is rolled back is neither told nor revoked."""
    listener = Listener("1")
    hub.subscribe(room, listener)

    async def fail() -> None:
        async with database.unit_of_work() as uow:
            hub.publish(uow, room, Said(text="never"))
            hub.revoke(uow, room, "1", Forbidden())
            raise Forbidden

    with pytest.raises(Forbidden):
        await fail()
    assert (listener.frames, listener.endings) == ([], [])


async def test_a_cancelled_unit_of_work_tells_nobody(hub: EventHub, database: SqlDatabase) -> None:
    """A unit of work that is cancelled before its commit is not told."""
    listener = Listener()
    hub.subscribe(room, listener)
    begun = asyncio.Event()

    async def work() -> None:
        async with database.unit_of_work() as uow:
            hub.publish(uow, room, Said(text="never"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert listener.frames == []


async def test_a_foreign_event_is_refused(hub: EventHub, database: SqlDatabase) -> None:
    """An event that the topic does not have is an error of types, and a TypeError at run time."""
    with pytest.raises(TypeError, match="has no event Noise"):
        hub.emit(room, Noise())  # type: ignore[misc]
    async with database.unit_of_work() as uow:
        with pytest.raises(TypeError, match="has no event Noise"):
            hub.publish(uow, room, Noise())  # type: ignore[misc]


async def test_a_frame_is_encoded_once_for_all(hub: EventHub) -> None:
    """Everyone is handed the same frame object, however many they are."""
    listeners = [Listener() for _ in range(100)]
    for listener in listeners:
        hub.subscribe(room, listener)
    hub.emit(room, Said(text="hi"))
    assert len({id(listener.frames[0]) for listener in listeners}) == 1


async def test_revoking_ends_one_person_on_one_topic(hub: EventHub, database: SqlDatabase) -> None:
    """Every subscription of the person to the topic is ended, after the commit, and no other."""
    ann, ann_too, bob = Listener("1"), Listener("1"), Listener("2")
    nobody, ann_elsewhere = Listener(None), Listener("1")
    for listener in (ann, ann_too, bob, nobody):
        hub.subscribe(room, listener)
    hub.subscribe(elsewhere, ann_elsewhere)
    error = Forbidden()
    async with database.unit_of_work() as uow:
        hub.revoke(uow, room, "1", error)
        assert ann.endings == []
    assert (ann.endings, ann_too.endings) == ([error], [error])
    assert (bob.endings, nobody.endings, ann_elsewhere.endings) == ([], [], [])


async def test_who_unsubscribes_hears_no_more(hub: EventHub) -> None:
    """After the last has gone nothing of the topic is left."""
    one, two = Listener(), Listener()
    leave_one, leave_two = hub.subscribe(room, one), hub.subscribe(room, two)
    assert hub.count(room) == 2
    leave_one()
    leave_one()
    hub.emit(room, Said(text="hi"))
    assert (len(one.frames), len(two.frames)) == (0, 1)
    leave_two()
    assert hub.count(room) == 0
    assert hub._subscribers == {}


async def test_a_late_end_does_not_end_a_new_beginning(hub: EventHub) -> None:
    """Who leaves an old subscription leaves those alone who came since."""
    leave = hub.subscribe(room, Listener())
    leave()
    late = Listener()
    hub.subscribe(room, late)
    leave()
    hub.emit(room, Said(text="hi"))
    assert len(late.frames) == 1


async def test_a_listener_may_leave_while_it_is_told(hub: EventHub) -> None:
    """Leaving while an event is told disturbs nobody else."""

    class Leaver(Listener):
        def deliver(self, frame: Encoded) -> None:
            super().deliver(frame)
            leave()

    leaver, others = Leaver(), [Listener() for _ in range(5)]
    leave = hub.subscribe(room, leaver)
    for other in others:
        hub.subscribe(room, other)
    hub.emit(room, Said(text="hi"))
    assert [len(listener.frames) for listener in (leaver, *others)] == [1] * 6
    assert hub.count(room) == 5


async def test_topics_are_told_apart(hub: EventHub) -> None:
    """An event reaches its own topic only, and a count of a topic nobody hears leaves nothing."""
    listener = Listener()
    hub.subscribe(room, listener)
    hub.emit(elsewhere, Said(text="hi"))
    assert listener.frames == []
    assert hub.count(elsewhere) == 0
    assert set(hub._subscribers) == {"room:1"}
