"""A feed by itself: its log is real, and what comes to it is told by the tests."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.exc import OperationalError

from app.core.db import SqlDatabase
from app.realtime import Address, Position
from app.realtime.errors import PositionLost
from app.realtime.feed import Feed, Opening
from app.realtime.log import EventLog, EventRow, Pending, Stretch, TopicRow
from app.realtime.messages import Publication
from tests.realtime.listening import Listener, at_once
from tests.realtime.probe import Said
from tests.server import DEADLINE

ELSEWHERE = "0" * 32  # an epoch that no topic here has


class WatchedLog(EventLog):
    """A log whose readings are counted, and can be held or made to fail."""

    def __init__(self, db: SqlDatabase) -> None:
        super().__init__(db)
        self.readings = 0
        self.failures = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.reading = asyncio.Event()

    async def since(
        self, address: Address[Any], position: Position | None, *, limit: int
    ) -> Stretch:
        """Read, and let nobody know before the test wants it."""
        self.readings += 1
        if self.failures:
            self.failures -= 1
            raise OperationalError("SELECT", {}, Exception("gone"))
        stretch = await super().since(address, position, limit=limit)
        self.reading.set()
        await self.go_on.wait()
        return stretch


class Stage:
    """A feed, its log, and what happens in them."""

    def __init__(self, db: SqlDatabase, address: Address[Said]) -> None:
        self.db = db
        self.address = address
        self.log = WatchedLog(db)
        self.tasks: list[asyncio.Task[None]] = []
        self.closed = 0
        self.feed = Feed(address, self.log, self._spawn, self._close)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))

    def _close(self) -> None:
        self.closed += 1

    async def record(self, *texts: str) -> list[Publication]:
        """Commit events, of which nobody is told yet."""
        events = [Said(text=text) for text in texts]
        address = self.address
        pending = [Pending(address, each, Publication.of(address.name, each)) for each in events]
        async with self.db.unit_of_work() as uow:
            uow.before_commit(lambda: self.log.record(uow, pending))
        return [each.publication for each in pending]

    async def happen(self, *texts: str) -> None:
        """Commit events, and tell the feed of them."""
        for publication in await self.record(*texts):
            self.feed.arrived(publication)

    async def listen(self, since: Position | None = None) -> tuple[Listener, Opening]:
        """Somebody new, to whom everything is delivered that happens from here on."""
        listener = Listener()
        subscription = self.feed.join(listener)
        opening = await subscription.open(since)
        await subscription.catch_up(at_once)
        return listener, opening

    async def execute(self, statement: Any) -> None:
        """Change what the log has, behind everybody's back."""
        async with self.db.unit_of_work() as uow:
            await uow.execute(statement)

    async def remove(self, *offsets: int) -> None:
        """Remove events from the log."""
        mine = EventRow.topic == self.address.name
        await self.execute(delete(EventRow).where(mine, EventRow.offset.in_(offsets)))

    async def begin_anew(self, *, head: int = 0) -> None:
        """Make another epoch of it, as a database that was restored and used would."""
        mine = update(TopicRow).where(TopicRow.name == self.address.name)
        await self.execute(mine.values(epoch=ELSEWHERE, head=head))

    async def settled(self) -> None:
        """Wait until nobody reads the log any more."""
        async with asyncio.timeout(DEADLINE):
            while self.feed._gap or any(not task.done() for task in self.tasks):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await asyncio.gather(*self.tasks, return_exceptions=True)


def lost(listener: Listener) -> bool:
    """Whether it was told that it has to start over."""
    return [type(each) for each in listener.endings] == [PositionLost]
