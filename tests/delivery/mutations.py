"""What delivery rests on, each left out once: every one of these has to be noticed.

`make mutations` runs the ledger with each in force.
"""

from collections.abc import Callable, Collection
from typing import Any

from app.core.db import UnitOfWork
from app.realtime.feed import Feed, Subscription
from app.realtime.hub import EventHub
from app.realtime.log import EventLog
from app.realtime.messages import Position


def merge_left_out() -> None:
    """A subscription goes live after it has read the log, and forgets what came meanwhile."""

    def merge(self: Subscription, head: Position) -> bool:
        self._kept.clear()
        self._feed.begin(head)
        self._live = True
        return True

    Subscription._merge = merge  # type: ignore[method-assign]
    Subscription._advance = _hand_on_unchecked  # type: ignore[method-assign]


def _hand_on_unchecked(self: Subscription, broadcast: Any) -> bool:
    self.subscriber.deliver(broadcast)
    return True


def sweep_left_out() -> None:
    """Nobody compares with the log what has been heard."""

    async def sweep(self: EventHub) -> None:
        return

    EventHub.sweep = sweep  # type: ignore[method-assign]


def offset_taken_early() -> None:
    """The offset is taken in a transaction of its own, before that of the event commits."""
    take_offsets = EventLog.take_offsets

    async def take_early(self: EventLog, uow: UnitOfWork, name: str, count: int) -> Position:
        async with self._db.unit_of_work() as own:
            return await take_offsets(self, own, name, count)

    EventLog.take_offsets = take_early  # type: ignore[method-assign]


def fence_left_out() -> None:
    """Nobody looks into the log once the backplane has confirmed a subscription."""

    def subscribed(self: EventHub, channels: Collection[str]) -> None:
        return

    EventHub.subscribed = subscribed  # type: ignore[method-assign]


def gap_left_open() -> None:
    """What arrives after a gap is handed on as if there were none."""

    def drain(self: Feed) -> None:
        for offset in sorted(self._held):
            self.offset = offset
            self._hand_on(self._held.pop(offset))

    Feed._drain = drain  # type: ignore[method-assign]
    Subscription._advance = _hand_on_unchecked  # type: ignore[method-assign]


#: Each with the faults of the ledger that show it.
MUTATIONS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "merge_left_out": (merge_left_out, ("clients cut",)),
    "sweep_left_out": (sweep_left_out, ("killed before it told",)),
    "offset_taken_early": (offset_taken_early, ("nothing", "clients cut")),
    "fence_left_out": (fence_left_out, ("Redis slow",)),
    "gap_left_open": (gap_left_open, ("nothing", "Redis hung")),
}


def apply(name: str) -> None:
    """Put the mutation of this name in force. Raises KeyError for another."""
    mutation, _ = MUTATIONS[name]
    mutation()
