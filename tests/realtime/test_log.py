"""The event log: its order is the order of commits, on each database, and nothing of it is half."""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, text, update

from app.core.db import SqlDatabase, UnitOfWork
from app.realtime import Address, Message, Position, Topic
from app.realtime.log import EventLog, EventRow, Pending, Stretch, TopicRow
from app.realtime.messages import START, Publication
from tests.realtime.probe import Said, logged_events
from tests.server import DEADLINE

brief_events = Topic[Said]("brief:{room}", durable=True, keep=3)
on_postgresql = pytest.mark.parametrize("shared_url", ["postgresql"], indirect=True)


@pytest.fixture
def log(database: SqlDatabase) -> EventLog:
    """The log of the database."""
    return EventLog(database)


def publish(log: EventLog, uow: UnitOfWork, address: Address[Said], *texts: str) -> list[Said]:
    """Have the log record events at the end of the unit of work, as the hub does."""
    events = [Said(text=text) for text in texts]
    pending = [Pending(address, each, Publication.of(address.name, each)) for each in events]
    uow.before_commit(lambda: log.record(uow, pending))
    return events


async def record(log: EventLog, address: Address[Said], *texts: str) -> list[Said]:
    """Record events in one unit of work."""
    async with log._db.unit_of_work() as uow:
        return publish(log, uow, address, *texts)


def offsets(events: Iterable[Publication]) -> list[int]:
    """Where they are."""
    return [each.position.offset for each in events if each.position]


def offset_of(event: Message) -> int:
    """Where it is."""
    assert event.log_position
    return event.log_position.offset


async def kept(database: SqlDatabase, address: Address[Any]) -> list[int]:
    """The offsets of the rows that there are."""
    query = select(EventRow.offset).where(EventRow.topic == address.name).order_by(EventRow.offset)
    async with database.reading() as session:
        return list(await session.scalars(query))


async def undo(log: EventLog, address: Address[Said], *texts: str) -> None:
    """Record events in a unit of work that fails after that, right before its commit."""

    async def fail() -> None:
        raise KeyError

    async with log._db.unit_of_work() as uow:
        publish(log, uow, address, *texts)
        uow.before_commit(fail)


class TestRecording:
    """Writing events, and their offsets."""

    async def test_the_first_event_is_number_one(self, log: EventLog, room: Address[Said]) -> None:
        """A topic begins with its first event, in an epoch of its own; then each is one more."""
        first, second = await record(log, room, "a", "b")
        (third,) = await record(log, room, "c")
        (other,) = await record(log, logged_events.at(room=uuid4()), "a")
        assert [offset_of(each) for each in (first, second, third, other)] == [1, 2, 3, 1]
        epochs = [each.log_position.epoch for each in (first, third, other) if each.log_position]
        assert epochs[0] == epochs[1] != epochs[2]
        assert len(epochs[0]) == 32

    async def test_events_of_one_unit_are_in_their_order(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """In each topic as they were published, however they were mixed."""
        other = logged_events.at(room=uuid4())
        events = []
        async with log._db.unit_of_work() as uow:
            pending = []
            for number in range(20):
                address = (room, other)[number % 3 == 0]
                event = Said(text=str(number))
                events.append((address, event))
                pending.append(Pending(address, event, Publication.of(address.name, event)))
            uow.before_commit(lambda: log.record(uow, pending))
        for address in (room, other):
            mine = [event for where, event in events if where == address]
            assert [offset_of(event) for event in mine] == list(range(1, len(mine) + 1))
            stored = await log.since(address, START, limit=100)
            assert [each.data for each in stored.events] == [
                event.model_dump_json().encode() for event in mine
            ]

    async def test_a_rollback_leaves_no_gap(self, log: EventLog, room: Address[Said]) -> None:
        """What a transaction that failed had taken is taken again."""
        await record(log, room, "a")
        with pytest.raises(KeyError):
            await undo(log, room, "never", "ever")
        assert offset_of((await record(log, room, "b"))[0]) == 2
        assert await kept(log._db, room) == [1, 2]

    async def test_a_later_transaction_waits_for_the_one_before(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """Whoever has taken an offset commits before anybody takes the next: no inversion."""
        taken, go_on, committed = asyncio.Event(), asyncio.Event(), list[str]()

        async def hold() -> None:
            taken.set()
            await go_on.wait()

        async def work(name: str, *, holding: bool) -> Said:
            async with log._db.unit_of_work() as uow:
                (event,) = publish(log, uow, room, name)
                if holding:
                    uow.before_commit(hold)
                uow.after_commit(lambda: committed.append(name))
            return event

        first = asyncio.create_task(work("first", holding=True))
        await taken.wait()
        second = asyncio.create_task(work("second", holding=False))
        done, _ = await asyncio.wait([second], timeout=0.2)
        assert (done, committed) == (set(), [])
        assert offsets((await log.since(room, START, limit=10)).events) == []
        go_on.set()
        assert [offset_of(await first), offset_of(await second)] == [1, 2]
        assert committed == ["first", "second"]

    @on_postgresql
    async def test_who_begins_first_and_commits_last_is_last(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """The offset is taken at the end of the transaction, not where the event is published."""
        async with log._db.unit_of_work() as uow:
            await uow.execute(select(func.count()).select_from(TopicRow))
            (slow,) = publish(log, uow, room, "slow")
            (quick,) = await record(log, room, "quick")
        assert [offset_of(quick), offset_of(slow)] == [1, 2]

    async def test_many_at_once_leave_no_gap_and_share_no_offset(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """The log of a topic is 1, 2, 3 … in the order of commits, some rolled back between."""
        committed: list[str] = []

        async def work(number: int) -> None:
            name = str(number)
            async with log._db.unit_of_work() as uow:
                publish(log, uow, room, name)
                if number % 4 == 3:
                    raise KeyError
                uow.after_commit(lambda: committed.append(name))

        failed = await asyncio.gather(*map(work, range(40)), return_exceptions=True)
        assert {type(each) for each in failed} == {type(None), KeyError}
        stored = await log.since(room, START, limit=100)
        assert offsets(stored.events) == list(range(1, 31))
        texts = [Said.model_validate_json(each.data).text for each in stored.events]
        assert sorted(texts) == sorted(committed)
        assert stored.whole

    @on_postgresql
    async def test_opposite_orders_of_topics_do_not_deadlock(self, log: EventLog) -> None:
        """Whatever the order of publishing, the topics are taken in one."""
        topics = [logged_events.at(room=uuid4()) for _ in range(4)]

        async def work(seed: int) -> None:
            order = random.Random(seed).sample(topics, len(topics))
            async with log._db.unit_of_work() as uow:
                pending = []
                for address in order:
                    event = Said(text=str(seed))
                    pending.append(Pending(address, event, Publication.of(address.name, event)))
                uow.before_commit(lambda: log.record(uow, pending))

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*map(work, range(60)))
        assert {(await log.since(each, None, limit=1)).head.offset for each in topics} == {60}

    async def test_beginning_many_times_at_once_is_beginning_once(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """A topic without events gets one epoch, whoever asks, and keeps it."""
        await asyncio.gather(*(log.begin(room.name) for _ in range(8)))
        heads = await log.heads([room.name])
        assert heads[room.name].offset == 0
        (event,) = await record(log, room, "a")
        await log.begin(room.name)
        assert event.log_position == Position(heads[room.name].epoch, 1)
        assert await log.heads([room.name]) == {room.name: event.log_position}


class TestReading:
    """Reading events back."""

    async def test_what_comes_after_a_position_comes_in_pages(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """The oldest first, at most so many, each where it is, with the head of that moment."""
        events = await record(log, room, *"abcdefg")
        position = events[1].log_position
        assert position
        page = await log.since(room, position, limit=3)
        assert (offsets(page.events), page.head.offset, page.whole) == ([3, 4, 5], 7, True)
        assert {each.position and each.position.epoch for each in page.events} == {position.epoch}
        assert [(each.topic, each.type) for each in page.events] == [(room.name, "said")] * 3
        page = await log.since(room, page.events[-1].position, limit=3)
        assert (offsets(page.events), page.whole) == ([6, 7], True)
        page = await log.since(room, page.events[-1].position, limit=3)
        assert (offsets(page.events), page.whole) == ([], True)

    async def test_without_a_position_only_the_head_is_read(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """Where the topic is, and nothing of what was."""
        assert await log.since(room, None, limit=10) == Stretch(START, (), whole=True)
        (event,) = await record(log, room, "a")
        assert event.log_position
        assert await log.since(room, None, limit=10) == Stretch(event.log_position, (), whole=True)

    async def test_half_is_not_whole(self, log: EventLog, room: Address[Said]) -> None:
        """Where the first that follows is gone, or one between, it is said."""
        events = await record(log, room, *"abcdef")
        first = events[0].log_position
        async with log._db.unit_of_work() as uow:
            await uow.execute(
                text('DELETE FROM event_log WHERE topic = :topic AND "offset" = 4'),
                {"topic": room.name},
            )
        assert (await log.since(room, first, limit=2)).whole is True  # as far as it goes
        assert (await log.since(room, first, limit=3)).whole is False
        assert (await log.since(room, events[2].log_position, limit=1)).whole is False
        assert (await log.since(room, events[3].log_position, limit=10)).whole is True

    async def test_history_goes_back_from_the_end_or_a_position(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """The newest first; what was before a position does not have it."""
        events = await record(log, room, *"abcde")
        last = await log.history(room, limit=2, reverse=True)
        assert [each.data for each in last.events] == [
            b'{"text":"e","by":""}',
            b'{"text":"d","by":""}',
        ]
        assert (last.head, last.whole) == (events[4].log_position, True)
        before = await log.history(room, since=events[3].log_position, limit=10, reverse=True)
        assert offsets(before.events) == [3, 2, 1]
        none = await log.history(room, since=events[0].log_position, limit=10, reverse=True)
        assert (offsets(none.events), none.whole) == ([], True)

    async def test_history_goes_forward_from_the_beginning_or_a_position(
        self, log: EventLog, room: Address[Said]
    ) -> None:
        """The oldest that are kept first; with no limit at all, only the head."""
        events = await record(log, room, *"abcde")
        assert offsets((await log.history(room, limit=2)).events) == [1, 2]
        after = await log.history(room, since=events[2].log_position, limit=10)
        assert (offsets(after.events), after.whole) == ([4, 5], True)
        only_head = await log.history(room, limit=0)
        assert (only_head.events, only_head.head) == ([], events[4].log_position)

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_history_of_another_epoch_is_not_told(
        self, log: EventLog, room: Address[Said], *, reverse: bool
    ) -> None:
        """A position of another epoch, or ahead of the topic, says nothing of what was."""
        (event,) = await record(log, room, "a")
        assert event.log_position
        for nowhere in (Position("0" * 32, 1), Position(event.log_position.epoch, 3)):
            told = await log.history(room, since=nowhere, limit=10, reverse=reverse)
            assert (offsets(told.events), told.whole) == ([], False)

    async def test_heads_of_many_topics_are_read_in_parts(
        self, log: EventLog, database: SqlDatabase
    ) -> None:
        """More than one statement takes; those that never had an event are left out."""
        mark = uuid4().hex
        names = [f"logged:{mark}-{number}" for number in range(1200)]
        async with database.unit_of_work() as uow:
            rows = [{"name": name, "epoch": "e", "head": 3} for name in names[:1100]]
            await uow.execute(insert(TopicRow), rows)
        assert await log.heads(names) == dict.fromkeys(names[:1100], Position("e", 3))
        assert await log.heads([]) == {}


class TestRetention:
    """What is removed, and when."""

    async def test_what_is_more_than_a_topic_keeps_is_removed(self, log: EventLog) -> None:
        """The newest stay, in the topics that have grown."""
        address, small = brief_events.at(room=uuid4()), brief_events.at(room=uuid4())
        await record(log, address, *"abcd")
        await record(log, address, "e")
        await record(log, small, *"ab")
        assert await kept(log._db, address) == [1, 2, 3, 4, 5]
        await log.trim()
        assert await kept(log._db, address) == [3, 4, 5]
        assert await kept(log._db, small) == [1, 2]
        (event,) = await record(log, address, "f")
        assert offset_of(event) == 6

    async def test_only_topics_that_have_grown_are_looked_at(
        self, log: EventLog, database: SqlDatabase
    ) -> None:
        """A trim of a process that wrote nothing removes nothing by count."""
        address = brief_events.at(room=uuid4())
        await record(log, address, *"abcde")
        await EventLog(database).trim()
        assert await kept(database, address) == [1, 2, 3, 4, 5]
        await log.trim()
        await EventLog(database).trim()
        assert await kept(database, address) == [3, 4, 5]

    async def test_nothing_is_counted_that_was_rolled_back(self, log: EventLog) -> None:
        """A transaction that did not commit makes no topic lose anything."""
        address = brief_events.at(room=uuid4())
        await record(log, address, *"abc")
        with pytest.raises(KeyError):
            await undo(log, address, *"defgh")
        await log.trim()
        assert await kept(log._db, address) == [1, 2, 3]

    async def test_what_is_older_than_its_topic_keeps_is_removed(
        self, log: EventLog, database: SqlDatabase, room: Address[Said]
    ) -> None:
        """Each event at its own time, as its topic says; the topic stays where it is."""
        await record(log, room, *"abc")
        await self._age(database, room, below=3)
        await log.trim()
        assert await kept(database, room) == [3]
        assert offset_of((await record(log, room, "d"))[0]) == 4

    async def test_an_event_expires_after_as_long_as_its_topic_says(
        self, log: EventLog, database: SqlDatabase
    ) -> None:
        """Neither sooner nor later."""
        short = Topic[Said]("short:{room}", durable=True, keep_for=timedelta(hours=2))
        address = short.at(room=uuid4())
        await record(log, address, "a")
        async with database.reading() as session:
            query = select(EventRow.expires_at).where(EventRow.topic == address.name)
            left = (await session.scalars(query)).one() - datetime.now(UTC)
        assert timedelta(hours=2) - timedelta(seconds=DEADLINE) < left <= timedelta(hours=2)

    async def test_however_many_have_expired_all_are_removed(
        self,
        log: EventLog,
        database: SqlDatabase,
        room: Address[Said],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In transactions of a bearable size, one after the other."""
        monkeypatch.setattr("app.realtime.log.TRIMMED_AT_ONCE", 4)
        await record(log, room, *(str(number) for number in range(10)))
        await self._age(database, room, below=10)
        await log.trim()
        assert await kept(database, room) == [10]

    @on_postgresql
    async def test_two_processes_that_trim_do_not_wait_for_each_other(
        self, log: EventLog, database: SqlDatabase, room: Address[Said]
    ) -> None:
        """What another is removing is left to it."""
        await record(log, room, *"abc")
        await self._age(database, room, below=4)
        async with database.unit_of_work() as uow:
            at_it = select(EventRow).where(EventRow.topic == room.name).with_for_update()
            assert len((await uow.scalars(at_it)).all()) == 3
            async with asyncio.timeout(DEADLINE):
                await log.trim()
        assert await kept(database, room) == [1, 2, 3]
        await log.trim()
        assert await kept(database, room) == []

    async def _age(self, database: SqlDatabase, address: Address[Any], *, below: int) -> None:
        old = update(EventRow).where(EventRow.topic == address.name, EventRow.offset < below)
        async with database.unit_of_work() as uow:
            await uow.execute(old.values(expires_at=datetime(2020, 1, 1, tzinfo=UTC)))


class Measured(Message):
    """A temperature, in its third form: the second had no unit, the first called it `degrees`."""

    type = "measured"
    schema_version: ClassVar[int] = 3
    celsius: float
    taken: datetime

    @classmethod
    def upgrade(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Rename what has had other names."""
        if version < 2:
            data["value"] = data.pop("degrees")
        if version < 3:
            data["celsius"] = data.pop("value")
        return data


measured_events = Topic[Said | Measured]("measured:{room}", durable=True)
AT = "2030-01-01T00:00:00Z"


class TestVersions:
    """Events that were stored by other code than today's."""

    async def _stored(self, log: EventLog, kind: str, version: int, data: str) -> bytes:
        """What is read of an event that is in the log in this form."""
        address = measured_events.at(room=uuid4())
        async with log._db.unit_of_work() as uow:
            head = await log.take_offsets(uow, address.name, 1)
            row = {"topic": address.name, "offset": 1, "type": kind, "version": version}
            row |= {"data": data, "expires_at": datetime(2100, 1, 1, tzinfo=UTC)}
            await uow.execute(insert(EventRow), [row])
        (read,) = (await log.since(address, START, limit=10)).events
        assert (read.type, read.position) == (kind, Position(head.epoch, 1))
        assert [each.data for each in (await log.history(address, limit=1)).events] == [read.data]
        return read.data

    @pytest.mark.parametrize(("version", "name"), [(1, "degrees"), (2, "value"), (3, "celsius")])
    async def test_an_old_event_is_read_as_todays(
        self, log: EventLog, version: int, name: str
    ) -> None:
        """It passes `upgrade` with its version, and is what the model writes today."""
        stored = f'{{"{name}":20.5,"taken":"{AT}"}}'
        expected = f'{{"celsius":20.5,"taken":"{AT}"}}'.encode()
        assert await self._stored(log, "measured", version, stored) == expected

    async def test_todays_event_is_passed_as_it_is_stored(self, log: EventLog) -> None:
        """It is not even parsed."""
        assert await self._stored(log, "measured", 3, "not even JSON") == b"not even JSON"

    async def test_a_newer_event_is_passed_as_it_is_stored(self, log: EventLog) -> None:
        """A process of the release before does not know better."""
        stored = '{"kelvin":293.65}'
        assert await self._stored(log, "measured", 4, stored) == stored.encode()

    async def test_an_unknown_event_is_passed_as_it_is_stored(self, log: EventLog) -> None:
        """A topic that no longer has it has no say in what was."""
        stored = '{"by":"Ann"}'
        assert await self._stored(log, "removed", 1, stored) == stored.encode()

    async def test_an_event_is_stored_with_its_version(self, log: EventLog) -> None:
        """What is written today says so."""
        address = measured_events.at(room=uuid4())
        event = Measured.model_validate({"celsius": 20.5, "taken": AT})
        async with log._db.unit_of_work() as uow:
            pending = Pending(address, event, Publication.of(address.name, event))
            uow.before_commit(lambda: log.record(uow, [pending]))
        async with log._db.reading() as session:
            row = (
                await session.scalars(select(EventRow).where(EventRow.topic == address.name))
            ).one()
        assert (row.type, row.version) == ("measured", 3)
