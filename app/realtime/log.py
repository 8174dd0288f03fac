"""The event log: outbox and history at once.

Events are written in the transaction that caused them, as its last statements, each with its
topic's next offset. The topic's row stays locked until the commit, so the order of offsets is the
order of commits; several topics are taken in the order of their names, so no two transactions
wait for each other. What is committed can always be told, whatever happens to the process.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import Any
from uuid import uuid4

from sqlalchemy import BigInteger, String, Text, and_, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, SqlDatabase, UnitOfWork, upsert
from app.core.observability import report
from app.realtime.messages import START, Message, Position, Publication
from app.realtime.topics import Address

PAGE = 200
TRIMMED_AT_ONCE = 5_000


class TopicRow(Base):
    """How far a topic has come. Its offsets are taken under this row's lock."""

    __tablename__ = "event_topics"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(32))
    head: Mapped[int] = mapped_column(BigInteger)


class EventRow(Base):
    """One event, as its subscribers were told of it."""

    __tablename__ = "event_log"

    topic: Mapped[str] = mapped_column(String(512), primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    data: Mapped[str] = mapped_column(Text)  # JSON
    expires_at: Mapped[datetime] = mapped_column(index=True)
    trace: Mapped[str | None] = mapped_column(String(64))  # of whoever published it


@dataclass(frozen=True, slots=True)
class Pending:
    """An event that waits for its unit of work to commit."""

    address: Address[Any]
    event: Message
    publication: Publication


@dataclass(frozen=True, slots=True)
class Stretch:
    """Events of a topic, one after the other without a gap, and the head when they were read.

    `whole` is false where the first of them, or all, are gone: nothing can be said of what was.
    """

    head: Position
    events: Sequence[Publication]
    whole: bool


class UpgradeFailed(Exception):
    """A stored event is of a form that its model's `upgrade` does not take."""


class EventLog:
    """The log of a database.

    Args:
        db: where it is.
    """

    def __init__(self, db: SqlDatabase) -> None:
        self._db = db
        self._grown: dict[str, tuple[int, int]] = {}  # topic: head, keep; since the last trim

    async def record(self, uow: UnitOfWork, pending: Iterable[Pending]) -> None:
        """Write events at the end of `uow`'s transaction, and give each its position."""
        rows, now = [], datetime.now(UTC)
        by_topic = sorted(pending, key=lambda each: each.address.name)  # stable: in their order
        for name, group in groupby(by_topic, key=lambda each: each.address.name):
            events = list(group)
            head = await self.take_offsets(uow, name, len(events))
            first = head.offset - len(events) + 1
            for offset, each in enumerate(events, first):
                each.publication.position = Position(head.epoch, offset)
                each.publication.at = now.timestamp()
                each.event.with_log_position(head.epoch, offset)
                rows.append(_row(each, offset, now))
            grown = (head.offset, events[0].address.topic.keep)
            uow.after_commit(partial(self._grown.__setitem__, name, grown))
        await (await uow.connection()).execute(insert(EventRow), rows)

    async def take_offsets(self, uow: UnitOfWork, name: str, count: int) -> Position:
        """The topic's head after `count` more events; nobody else takes any before the commit."""
        connection = await uow.connection()
        statement = (
            upsert(connection.dialect, TopicRow)
            .values(name=name, epoch=uuid4().hex, head=count)
            .on_conflict_do_update(
                index_elements=[TopicRow.name], set_={"head": TopicRow.head + count}
            )
            .returning(TopicRow.epoch, TopicRow.head)
        )
        epoch, offset = (await connection.execute(statement)).one()
        return Position(epoch, offset)

    async def head(self, session: AsyncSession, name: str) -> Position:
        """Where a topic is, in the moment that `session` sees."""
        query = select(TopicRow.epoch, TopicRow.head).where(TopicRow.name == name)
        row = (await session.execute(query)).one_or_none()
        return Position(*row) if row else START

    async def heads(self, names: Collection[str]) -> Mapping[str, Position]:
        """Where topics are; those that never had an event are left out."""
        found: dict[str, Position] = {}
        wanted = list(names)
        async with self._db.reading() as session:
            for first in range(0, len(wanted), 500):
                some = wanted[first : first + 500]
                rows = await session.execute(select(TopicRow).where(TopicRow.name.in_(some)))
                found |= {row.name: Position(row.epoch, row.head) for row in rows.scalars()}
        return found

    async def begin(self, name: str) -> None:
        """Give a topic that had no event yet its epoch; changes nothing for another."""
        async with self._db.unit_of_work() as uow:
            await self.take_offsets(uow, name, 0)

    async def renew(self) -> None:
        """Give every topic a new epoch: whoever has read up to somewhere has to start over."""
        async with self._db.unit_of_work() as uow:
            await uow.execute(update(TopicRow).values(epoch=uuid4().hex))

    async def since(
        self, address: Address[Any], position: Position | None, *, limit: int
    ) -> Stretch:
        """The first `limit` events after `position`, oldest first; none where there is no position.

        `whole` is false for a position of another epoch, ahead of the topic, farther back than the
        topic keeps, or whose next event has been removed.
        """
        async with self._db.reading() as session:
            head = await self.head(session, address.name)
            if position is None:
                return Stretch(head, (), whole=True)
            missed = head.offset - position.offset
            same = position.epoch == head.epoch or position == START
            if not same or not 0 <= missed <= address.topic.keep:
                return Stretch(head, (), whole=False)
            try:
                events = await self._read(session, address, position.offset, limit)
            except UpgradeFailed as exc:
                report(exc)
                return Stretch(head, (), whole=False)
        offsets = [each.position.offset for each in events if each.position]
        expected = range(position.offset + 1, position.offset + 1 + min(missed, limit))
        return Stretch(head, events, whole=offsets == list(expected))

    async def history(
        self,
        address: Address[Any],
        *,
        since: Position | None = None,
        limit: int,
        reverse: bool = False,
    ) -> Stretch:
        """At most `limit` events that are kept; with 0 only the head.

        Forward: the first after `since`, or the oldest there are. In reverse: the last before it,
        or the last there are, the newest first. `whole` is false where `since` is a position of
        which nothing can be said any more.
        """
        if since is not None and not reverse:
            return await self.since(address, since, limit=limit)
        async with self._db.reading() as session:
            head = await self.head(session, address.name)
            if since is not None and (since.epoch != head.epoch or since.offset > head.offset + 1):
                return Stretch(head, (), whole=False)
            edge = since.offset if since else (head.offset + 1 if reverse else 0)
            events = await self._read(session, address, edge, limit, reverse=reverse)
        return Stretch(head, events, whole=True)

    async def _read(
        self,
        session: AsyncSession,
        address: Address[Any],
        edge: int,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[Publication]:
        column = EventRow.offset
        beyond, order = (column < edge, column.desc()) if reverse else (column > edge, column)
        columns = (EventRow.offset, EventRow.type, EventRow.version, EventRow.data)
        query = (
            select(*columns, TopicRow.epoch, EventRow.expires_at, EventRow.trace)
            .join(TopicRow, TopicRow.name == EventRow.topic)
            .where(and_(EventRow.topic == address.name, beyond))
            .order_by(order)
            .limit(limit)
        )
        return [
            Publication(
                *(address.name, kind, _upgraded(address, kind, version, data)),
                Position(epoch, offset),
                at=(expires_at - address.topic.keep_for).timestamp(),
                trace=trace,
            )
            for offset, kind, version, data, epoch, expires_at, trace in await session.execute(
                query
            )
        ]

    async def trim(self) -> None:
        """Remove what is older, or more, than its topic keeps."""
        grown = dict(self._grown)
        self._grown.clear()
        async with self._db.unit_of_work() as uow:
            for name, (head, keep) in sorted(grown.items()):
                old = and_(EventRow.topic == name, EventRow.offset <= head - keep)
                await uow.execute(delete(EventRow).where(old))
        key = (EventRow.topic, EventRow.offset)
        expired = (
            select(*key)
            .where(EventRow.expires_at < datetime.now(UTC))
            .order_by(*key)
            .limit(TRIMMED_AT_ONCE)
            .with_for_update(skip_locked=True)  # another process may be at it
        )
        removed = TRIMMED_AT_ONCE
        while removed == TRIMMED_AT_ONCE:
            async with self._db.unit_of_work() as uow:
                some = delete(EventRow).where(tuple_(*key).in_(expired))
                removed = (await (await uow.connection()).execute(some)).rowcount


def _row(each: Pending, offset: int, now: datetime) -> dict[str, Any]:
    return {
        "topic": each.address.name,
        "offset": offset,
        "type": each.event.type,
        "version": each.event.schema_version,
        "data": each.publication.data.decode(),
        "trace": each.publication.trace,
        "expires_at": now + each.address.topic.keep_for,
    }


def _upgraded(address: Address[Any], kind: str, version: int, data: str) -> bytes:
    """A stored event as today's model writes it; one that is newer, or unknown, as it is stored."""
    model = next((event for event in address.topic.events if event.type == kind), None)
    if model is None or version >= model.schema_version:
        return data.encode()
    try:
        upgraded = model.model_validate(model.upgrade(json.loads(data), version))
    except Exception as exc:
        raise UpgradeFailed(f"{kind} of version {version} cannot be read any more") from exc
    return upgraded.model_dump_json().encode()
