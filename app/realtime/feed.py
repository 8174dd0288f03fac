"""One topic in this process: its events put in order, for whoever is subscribed here.

Events come from commits in this process, from other processes over the backplane, and from the
log where those left a gap. A subscription begins by reading the log while what happens meanwhile
is kept for it; then both are merged, and from there on the feed's order is its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.errors import AppError
from app.core.metrics import count_delivery
from app.core.tracing import Tracing
from app.realtime.errors import PositionLost
from app.realtime.log import PAGE, EventLog, Stretch
from app.realtime.messages import START, Broadcast, Position, Publication
from app.realtime.topics import Address

GAP_SECONDS = 0.02  # two processes that commit in turn may be heard in the other order
MAX_HELD = 1_000


class Subscriber(Protocol):
    """One end of a subscription: takes broadcasts without waiting, and can be ended."""

    @property
    def subject(self) -> str | None:
        """Who it is, where they are signed in."""

    def deliver(self, broadcast: Broadcast) -> None:
        """Take something to send."""

    def end(self, error: AppError) -> None:
        """Tell the client the error and end what it has subscribed to."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a subscription begins.

    position: what is delivered comes after it; None where the topic is not durable.
    recovered: whether all that the client missed is delivered; None where it asked for nothing.
    """

    position: Position | None
    recovered: bool | None


class Subscription:
    """One subscriber of one topic. From its beginning nothing is lost: `open`, then `catch_up`."""

    def __init__(self, feed: "Feed", subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self._feed = feed
        self._position: Position | None = None
        self._read: Stretch | None = None
        self._kept: list[Broadcast] = []  # what happened while the log was read
        self._live = False

    async def open(self, since: Position | None = None) -> Opening:
        """Read from the log what came after `since`; without it, only where the topic is."""
        if not self._feed.address.topic.durable:
            return Opening(None, None if since is None else False)
        read = await self._feed.read(since)
        if since is not None and read.whole:
            self._read = read
            self._position = Position(read.head.epoch, since.offset)
            return Opening(self._position, recovered=True)
        self._read = Stretch(read.head, (), whole=True)
        self._position = read.head
        return Opening(self._position, recovered=None if since is None else False)

    async def catch_up(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Deliver what was missed, then what comes. Awaits `ready` before each that was missed.

        Ends the subscriber with PositionLost where the log no longer has what follows.
        """
        while self._read is not None:
            read, self._read = self._read, None
            if not read.whole or self._position is None:
                self._live = True
                self.lose()
                return
            for publication in read.events:
                await ready()
                self._advance(publication)
            if not self._merge(read.head):
                self._read = await self._feed.read(self._position)
        self._live = True
        if self._position is None:  # the topic has no log
            self._deliver_kept()
        self._kept.clear()

    def _merge(self, head: Position) -> bool:
        """Go on with what was kept; False where more has to be read first."""
        assert self._position is not None  # noqa: S101 - for the types: catch_up has looked
        self._deliver_kept()
        if self._position.offset < head.offset:
            return False
        self._feed.begin(head)
        self._live = self._position.offset >= (self._feed.offset or 0)
        return self._live

    def deliver(self, broadcast: Broadcast) -> None:
        """Take what the feed hands on."""
        if self._live:
            if not self._advance(broadcast):
                self.lose()
        elif len(self._kept) < MAX_HELD:  # beyond that the log has it
            self._kept.append(broadcast)

    def _deliver_kept(self) -> None:
        kept, self._kept = self._kept, []
        for broadcast in sorted(kept, key=_offset):
            self._advance(broadcast)

    def _advance(self, broadcast: Broadcast) -> bool:
        """Deliver it, unless it has been before; False where something before it is missing."""
        position = broadcast.position if isinstance(broadcast, Publication) else None
        if position is not None and self._position is not None:
            if position.offset != self._position.offset + 1:
                return position.offset <= self._position.offset
            self._position = position
        self.subscriber.deliver(broadcast)
        return True

    def lose(self) -> None:
        """Have the client start over, unless it is reading and will find out by itself."""
        if self._live:
            self.subscriber.end(PositionLost())

    def cancel(self) -> None:
        """End the subscription; nothing is delivered from here on."""
        self._live = False
        self._feed.leave(self)


class Feed:
    """The events of one topic, in order, handed to the subscriptions of this process."""

    def __init__(
        self,
        address: Address[Any],
        log: EventLog,
        spawn: Callable[..., Any],
        closed: Callable[[], None],
        tracing: Tracing | None = None,
    ) -> None:
        self.address = address
        self.subscriptions: set[Subscription] = set()
        self.offset: int | None = None  # of the last event handed on; None until it is known
        self.epoch = ""
        self._log = log
        self._spawn = spawn
        self._closed = closed
        self._tracing = tracing or Tracing({})
        self._held: dict[int, Publication] = {}  # those that came before their predecessors
        self._gap: asyncio.TimerHandle | None = None
        self._filling = False
        self._behind: tuple[float, int] | None = None  # since when (monotonic), and up to where

    def join(self, subscriber: Subscriber) -> Subscription:
        """A subscription that keeps, from now on, what it cannot deliver yet."""
        subscription = Subscription(self, subscriber)
        self.subscriptions.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """Forget a subscription; with the last one the feed closes."""
        if subscription in self.subscriptions:
            self.subscriptions.discard(subscription)
            if not self.subscriptions:
                self._forget_held()
                self._closed()

    async def read(self, position: Position | None) -> Stretch:
        """A page of the log after `position`; nothing but the head where there is none."""
        while True:
            stretch = await self._log.since(self.address, position, limit=PAGE)
            if stretch.head != START:
                return stretch
            await self._log.begin(self.address.name)  # so that clients are told its epoch

    def begin(self, head: Position) -> None:
        """Learn from the log where the topic is, unless that is known."""
        if self.offset is None:
            self.epoch, self.offset = head.epoch, head.offset
            self._drain()
        elif head.epoch != self.epoch:
            self.lose()
            self.epoch, self.offset = head.epoch, head.offset

    def arrived(self, broadcast: Broadcast) -> None:
        """Take an event as it comes, in whatever order, however often."""
        position = broadcast.position if isinstance(broadcast, Publication) else None
        if position is None:
            self._hand_on(broadcast)
            return
        assert isinstance(broadcast, Publication)  # noqa: S101 - for the types
        if self.offset is not None and position.epoch != self.epoch:
            self._start_filling()  # the log says which epoch it is
        elif self.offset is None or position.offset > self.offset:
            following = self.offset is not None and position.offset == self.offset + 1
            if following or len(self._held) < MAX_HELD:
                self._held[position.offset] = broadcast
            if self.offset is None:
                self._hand_on(broadcast)  # to be kept by those who are reading the log
            self._drain()
            self._watch_gap()

    def arrived_from_elsewhere(self, publication: Publication) -> None:
        """Take an event of another process, or of the log: in the trace of who published it."""
        with self._tracing.deliver(self.address.topic.pattern, publication.trace):
            self.arrived(publication)

    def _drain(self) -> None:
        """Hand on what has come, as far as there is no gap."""
        if self.offset is None:
            return
        while following := self._held.pop(self.offset + 1, None):
            self.offset += 1
            self._hand_on(following)
        if self._held and min(self._held) <= self.offset:
            self._held = {at: held for at, held in self._held.items() if at > self.offset}

    def _hand_on(self, broadcast: Broadcast) -> None:
        subscriptions = tuple(self.subscriptions)
        for subscription in subscriptions:
            subscription.deliver(broadcast)
        if isinstance(broadcast, Publication) and (
            self.offset is not None or not broadcast.position
        ):
            count_delivery(len(subscriptions), time.time() - broadcast.at)

    def _watch_gap(self) -> None:
        if self._held and self.offset is not None and self._gap is None:
            loop = asyncio.get_running_loop()
            self._gap = loop.call_later(GAP_SECONDS, self._look_at_gap)

    def _look_at_gap(self) -> None:
        self._gap = None
        if self._held:
            self._start_filling()

    def check(self, before: Position | None, head: Position | None) -> None:
        """Compare with the log's `head`, read while the feed was at least at `before`."""
        if before is None or head is None or self.offset is None:
            return
        if self._behind and (head.epoch != self.epoch or self.offset >= self._behind[1]):
            self._behind = None
        if head.epoch != self.epoch or head.offset < before.offset:
            self.lose()
            self.epoch, self.offset = head.epoch, head.offset
        elif head.offset > self.offset:
            self._behind = self._behind or (time.monotonic(), head.offset)
            self._start_filling()

    def lag(self) -> tuple[float, int]:
        """How long it has been behind the log, in seconds, and how many events; zero for neither.

        As it was found by the last check that saw more in the log than had come here.
        """
        if self._behind is None or self.offset is None or self.offset >= self._behind[1]:
            return 0.0, 0
        return time.monotonic() - self._behind[0], self._behind[1] - self.offset

    @property
    def position(self) -> Position | None:
        """How far the feed has come; None before it is known."""
        return None if self.offset is None else Position(self.epoch, self.offset)

    def _start_filling(self) -> None:
        if not self._filling and self.subscriptions:
            self._filling = True
            self._spawn(self._fill(), name=f"fill {self.address.name}")

    async def _fill(self) -> None:
        """Read from the log what has not come, until there is no gap."""
        try:
            while self.subscriptions and self.position is not None:
                read = await self.read(self.position)
                if not read.whole:
                    self.lose()
                    self.epoch, self.offset = read.head.epoch, read.head.offset
                    return
                for publication in read.events:
                    self.arrived_from_elsewhere(publication)
                if not read.events or _offset(read.events[-1]) >= read.head.offset:
                    break
        finally:
            self._filling = False
        self._watch_gap()

    def lose(self) -> None:
        """Tell every live subscriber that it has to start over."""
        self._forget_held()
        for subscription in tuple(self.subscriptions):
            subscription.lose()

    def _forget_held(self) -> None:
        self._held.clear()
        if self._gap:
            self._gap.cancel()
            self._gap = None


def _offset(broadcast: Broadcast) -> int:
    position = broadcast.position if isinstance(broadcast, Publication) else None
    return position.offset if position else 0
