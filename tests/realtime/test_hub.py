"""The hub: from a commit to the subscribers of every process, and nowhere from a rollback."""

import asyncio
import time
from datetime import datetime
from uuid import uuid4

import pytest
from sqlalchemy import select

from app.core.db import SqlDatabase
from app.core.errors import Forbidden
from app.core.revocations import RevocationRow
from app.realtime import Address, EventHub, Member, Position, Topic
from app.realtime.messages import START, Broadcast
from tests.realtime.conftest import NewHub
from tests.realtime.listening import Ether, Listener, at_once, listen
from tests.realtime.probe import Noise, Said, logged_events, probe_events

passing: Address[Said] = probe_events.at(room=1)
elsewhere: Address[Said] = probe_events.at(room=2)


async def say(
    hub: EventHub, database: SqlDatabase, address: Address[Said], *texts: str
) -> list[Said]:
    """Say it in one unit of work; what was said."""
    events = [Said(text=text) for text in texts]
    async with database.unit_of_work() as uow:
        for event in events:
            hub.publish(uow, address, event)
    return events


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
async def test_an_event_is_told_after_the_commit(
    hub: EventHub, database: SqlDatabase, room: Address[Said], *, durable: bool
) -> None:
    """Nobody hears of an event before its unit of work has been committed."""
    address, listener = room if durable else passing, Listener()
    await listen(hub, address, listener)
    async with database.unit_of_work() as uow:
        hub.publish(uow, address, Said(text="one"))
        hub.publish(uow, address, Said(text="two"))
        await uow.flush()
        assert listener.told == []
    assert listener.texts == ["one", "two"]
    offset = {"offset": 1} if durable else {}
    told = {"type": "said", "topic": address.name, "data": {"text": "one", "by": ""}}
    assert listener.frames[0] == told | offset


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
async def test_a_rollback_tells_nobody(
    hub: EventHub, database: SqlDatabase, room: Address[Said], *, durable: bool
) -> None:
    """What is rolled back is neither told nor revoked nor recorded."""
    address, listener = room if durable else passing, Listener("1")
    await listen(hub, address, listener)

    async def fail() -> None:
        async with database.unit_of_work() as uow:
            hub.publish(uow, address, Said(text="never"))
            hub.revoke(uow, address, "1", Forbidden())
            raise Forbidden

    with pytest.raises(Forbidden):
        await fail()
    assert (listener.told, listener.endings) == ([], [])
    assert (await hub.history(address, limit=10)).events == []


@pytest.mark.parametrize("durable", [False, True], ids=["passing", "durable"])
async def test_a_cancelled_unit_of_work_tells_nobody(
    hub: EventHub, database: SqlDatabase, room: Address[Said], *, durable: bool
) -> None:
    """A unit of work that is cancelled before its commit is not told."""
    address, listener = room if durable else passing, Listener()
    await listen(hub, address, listener)
    begun = asyncio.Event()

    async def work() -> None:
        async with database.unit_of_work() as uow:
            hub.publish(uow, address, Said(text="never"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert listener.told == []


async def test_an_event_knows_its_position_after_the_commit(
    hub: EventHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """What was published knows where it is; what is of no log is nowhere."""
    async with database.unit_of_work() as uow:
        events = [Said(text="one"), Said(text="two")]
        for event in events:
            hub.publish(uow, room, event)
            assert event.log_position is None
        of_no_log = Said(text="hi")
        hub.publish(uow, passing, of_no_log)
    async with database.reading() as session:
        head = await hub.position(session, room)
    assert head.offset == 2
    assert [each.log_position for each in events] == [Position(head.epoch, 1), head]
    assert of_no_log.log_position is None


async def test_the_position_is_of_the_moment_that_the_session_sees(
    hub: EventHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """What is read beside the data is the position of that data, whatever happens meanwhile."""
    await say(hub, database, room, "one")
    async with database.reading() as session:
        assert (await hub.position(session, room)).offset == 1
        await say(hub, database, room, "two")
        assert (await hub.position(session, room)).offset == 1
    async with database.reading() as session:
        assert (await hub.position(session, room)).offset == 2
        assert await hub.position(session, logged_events.at(room=uuid4())) == START


async def test_a_foreign_event_is_refused(
    hub: EventHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """An event that the topic does not have is an error of types, and a TypeError at run time."""
    with pytest.raises(TypeError, match="has no event Noise"):
        hub.emit(room, Noise())  # type: ignore[misc]
    async with database.unit_of_work() as uow:
        with pytest.raises(TypeError, match="has no event Noise"):
            hub.publish(uow, room, Noise())  # type: ignore[misc]


async def test_what_is_emitted_is_told_at_once_and_not_recorded(
    hub: EventHub, room: Address[Said]
) -> None:
    """It takes no offset, in a topic that has a log too."""
    listener = Listener()
    await listen(hub, room, listener)
    hub.emit(room, Said(text="typing"))
    assert (listener.texts, listener.offsets) == (["typing"], [])
    assert (await hub.history(room, limit=10)).events == []


async def test_a_frame_is_encoded_once_for_all(hub: EventHub) -> None:
    """Everyone is handed the same frame object, however many they are."""
    listeners = [Listener() for _ in range(100)]
    for listener in listeners:
        await listen(hub, passing, listener)
    hub.emit(passing, Said(text="hi"))
    assert len({id(listener.told[0].frame) for listener in listeners}) == 1


async def test_revoking_ends_one_person_on_one_topic(hub: EventHub, database: SqlDatabase) -> None:
    """Every subscription of the person to the topic is ended, after the commit, and no other."""
    ann, ann_too, bob = Listener("1"), Listener("1"), Listener("2")
    nobody, ann_elsewhere = Listener(None), Listener("1")
    for listener in (ann, ann_too, bob, nobody):
        await listen(hub, passing, listener)
    await listen(hub, elsewhere, ann_elsewhere)
    async with database.unit_of_work() as uow:
        hub.revoke(uow, passing, "1", Forbidden("Not you."))
        assert ann.endings == []
    for ended in (ann, ann_too):
        assert [(type(each), each.detail) for each in ended.endings] == [(Forbidden, "Not you.")]
    assert (bob.endings, nobody.endings, ann_elsewhere.endings) == ([], [], [])


async def test_what_was_ended_lately_is_known(
    hub: EventHub, database: SqlDatabase, room: Address[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was let in before, and comes only now, is refused; whoever was let in since is not.

    It is kept for a minute: nobody takes as long to subscribe.
    """
    before = time.monotonic()
    async with database.unit_of_work() as uow:
        hub.revoke(uow, room, "1", Forbidden("Not you."))
    with pytest.raises(Forbidden, match="Not you"):
        hub.check(room, "1", before)
    hub.check(room, "1", time.monotonic())
    hub.check(room, "2", before)
    hub.check(room, None, before)
    hub.check(passing, "1", before)
    monkeypatch.setattr("app.realtime.hub.MINUTE", 0)
    hub._end_subscriptions(passing.name, "1", Forbidden())
    hub.check(room, "1", before)
    assert len(hub._ended) == 1


async def test_a_revocation_is_recorded_for_the_other_processes(
    hub: EventHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """It is in the database with the error to tell, and expires."""
    async with database.unit_of_work() as uow:
        hub.revoke(uow, room, "auth0|bob", Forbidden("Not you."))
    async with database.reading() as session:
        query = select(RevocationRow).where(RevocationRow.key == room.name)
        row = (await session.scalars(query)).one()
    assert (row.subject, row.code, row.detail) == ("auth0|bob", "forbidden", "Not you.")
    assert row.expires_at > datetime.now(row.expires_at.tzinfo)


async def test_who_unsubscribes_hears_no_more(hub: EventHub) -> None:
    """After the last has gone nothing of the topic is left."""
    one, two = Listener(), Listener()
    leaving, _ = await listen(hub, passing, one)
    staying, _ = await listen(hub, passing, two)
    assert hub.count(passing) == 2
    leaving.cancel()
    leaving.cancel()
    hub.emit(passing, Said(text="hi"))
    assert (one.texts, two.texts) == ([], ["hi"])
    staying.cancel()
    assert hub.count(passing) == 0
    assert hub._feeds == {}


async def test_a_late_end_does_not_end_a_new_beginning(hub: EventHub) -> None:
    """Who leaves an old subscription leaves those alone who came since."""
    old, _ = await listen(hub, passing, Listener())
    old.cancel()
    late = Listener()
    await listen(hub, passing, late)
    old.cancel()
    hub.emit(passing, Said(text="hi"))
    assert late.texts == ["hi"]


async def test_a_listener_may_leave_while_it_is_told(hub: EventHub) -> None:
    """Leaving while an event is told disturbs nobody else."""

    class Leaver(Listener):
        def deliver(self, broadcast: Broadcast) -> None:
            super().deliver(broadcast)
            leaving.cancel()

    leaver, others = Leaver(), [Listener() for _ in range(5)]
    leaving, _ = await listen(hub, passing, leaver)
    for other in others:
        await listen(hub, passing, other)
    hub.emit(passing, Said(text="hi"))
    assert [len(listener.told) for listener in (leaver, *others)] == [1] * 6
    assert hub.count(passing) == 5


async def test_topics_are_told_apart(hub: EventHub) -> None:
    """An event reaches its own topic only, and a count of a topic nobody hears leaves nothing."""
    listener = Listener()
    await listen(hub, passing, listener)
    hub.emit(elsewhere, Said(text="hi"))
    assert listener.told == []
    assert hub.count(elsewhere) == 0
    assert set(hub._feeds) == {passing.name}


async def test_what_happens_before_the_beginning_is_told_at_it(
    hub: EventHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """From `subscribe` on nothing is lost, and nothing is told before it is asked for."""
    for address in (passing, room):
        listener = Listener()
        subscription = hub.subscribe(address, listener)
        await say(hub, database, address, "one")
        hub.emit(address, Said(text="passing"))
        await subscription.open(None if address is passing else START)
        assert listener.told == []
        await subscription.catch_up(at_once)
        assert sorted(listener.texts) == ["one", "passing"]
        subscription.cancel()


async def test_two_processes_hear_each_other(
    new_hub: NewHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """What one commits is told in both, durable or not, with the same frame."""
    ether = Ether()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    for address in (passing, room):
        heard = {hub: Listener() for hub in (here, there)}
        for hub, listener in heard.items():
            await listen(hub, address, listener)
        await say(here, database, address, "one")
        await say(there, database, address, "two")
        assert heard[here].frames == heard[there].frames
        assert heard[here].texts == ["one", "two"]


async def test_a_lost_message_is_found_by_the_next_event(
    new_hub: NewHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """The other process sees the gap, and reads what was lost from the log."""
    ether, listener = Ether(), Listener()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    await listen(there, room, listener)
    ether.losing = True
    await say(here, database, room, "one", "two")
    ether.losing = False
    await say(here, database, room, "three")
    assert listener.told == []
    assert await listener.hears(3) == ["one", "two", "three"]


async def test_a_lost_message_is_found_by_the_sweep(
    new_hub: NewHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """Where nothing follows, the comparison with the log finds it; with none, nothing is read."""
    ether, listener = Ether(), Listener()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    await listen(there, room, listener)
    await listen(there, passing, Listener())
    ether.losing = True
    await say(here, database, room, "one")
    await there.sweep()
    assert await listener.hears(1) == ["one"]
    await there.sweep()
    assert there._tasks == set()
    assert listener.texts == ["one"]


async def test_a_confirmed_subscription_looks_into_the_log(
    new_hub: NewHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """What happened before it was in force, or while it was not, is found without the sweep."""
    ether, listener = Ether(), Listener()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    await listen(there, room, listener)
    ether.losing = True
    await say(here, database, room, "one")
    ether.losing = False
    ether.reconnect()
    assert await listener.hears(1) == ["one"]


async def test_a_topic_that_nobody_hears_is_given_up(new_hub: NewHub, room: Address[Said]) -> None:
    """Its channel is unsubscribed with the last, and what still comes of it is nobody's."""
    ether = Ether()
    backplane = ether.backplane()
    hub = await new_hub(backplane)
    subscription, _ = await listen(hub, room, Listener())
    assert f"topic:{room.name}" in backplane.channels
    subscription.cancel()
    assert f"topic:{room.name}" not in backplane.channels
    hub.received(f"topic:{room.name}", b"[]")


async def test_a_revocation_wakes_the_other_processes(
    new_hub: NewHub, database: SqlDatabase, room: Address[Said]
) -> None:
    """They are told that there is one, and the database tells them which."""
    ether = Ether()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    listener = Listener("1")
    await listen(there, room, listener)
    await there._revocations.load()
    async with database.unit_of_work() as uow:
        here.revoke(uow, room, "1", Forbidden("Not you."))
    assert ("nodes", b"revoked") in ether.sent
    assert there._revocations.polling._woken.is_set()
    await there._revocations.poll()
    assert [each.detail for each in listener.endings] == ["Not you."]


async def test_who_is_there_is_known_in_every_process(new_hub: NewHub, room: Address[Said]) -> None:
    """Presence goes through the hub: who enters here is seen there, until they leave."""
    ether = Ether()
    here, there = [await new_hub(ether.backplane()) for _ in range(2)]
    leave = here.enter(room, Member(connection="a", subject="1"))
    assert [each.connection for each in there.presence(room)] == ["a"]
    leave()
    assert there.presence(room) == []


async def test_an_end_that_hangs_on_nothing(
    hub: EventHub, database: SqlDatabase, room: Address[Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still reads the log as the hub stops is cancelled, and awaited."""
    listener, reading = Listener(), asyncio.Event()
    await listen(hub, room, listener)

    async def read(*_: object) -> None:
        reading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(hub._feeds[room.name], "read", read)
    async with database.unit_of_work() as uow:
        await hub.log.take_offsets(uow, room.name, 1)
    await hub.sweep()
    await reading.wait()
    tasks = tuple(hub._tasks)
    await hub.stop()
    assert [task.cancelled() for task in tasks] == [True]


def test_a_topic_that_keeps_nothing_is_refused() -> None:
    """To keep no event, a topic is not durable."""
    with pytest.raises(ValueError, match="keeps nothing"):
        Topic[Said]("a", durable=True, keep=0)
