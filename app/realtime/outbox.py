"""Frames on their way to one client, bounded in bytes, and what happens when they are too many."""

import asyncio
from collections import OrderedDict
from enum import StrEnum
from itertools import count
from typing import NamedTuple

from starlette.websockets import WebSocket

from app.realtime.messages import Broadcast, Encoded


class Overflow(StrEnum):
    """What a channel does about a client that reads more slowly than it is sent to."""

    #: It is told `realtime.slow_consumer` and closed. The only one that fits a durable topic.
    EVICT = "evict"
    #: It loses the broadcasts that have waited longest; replies and errors are never dropped.
    DROP_OLDEST = "drop_oldest"
    #: Of broadcasts about the same thing (Message.latest_by) only the newest waits; else evict.
    COALESCE = "coalesce"


class Waiting(NamedTuple):
    """A frame in the outbox; `latest` is the key that a newer one replaces it by."""

    frame: Encoded
    is_broadcast: bool
    latest: str | None


class Outbox:
    """What waits for one client.

    Args:
        limit: bytes that may wait.
        overflow: what gives way when they would be more.
    """

    def __init__(self, limit: int, overflow: Overflow = Overflow.EVICT) -> None:
        self._limit = limit
        self._overflow = overflow
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        self._latest: dict[str, int] = {}
        self._numbers = count()
        self._size = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def size(self) -> int:
        """The bytes that wait."""
        return self._size

    def tell(self, broadcast: Broadcast) -> bool:
        """Add a broadcast as the policy has it; False where the client has to be closed."""
        latest = broadcast.latest if self._overflow is Overflow.COALESCE else None
        if latest is not None and latest in self._latest:
            self._remove(self._latest[latest])
        frame = broadcast.frame
        if self._overflow is Overflow.DROP_OLDEST:
            self._make_room(frame.size)
            if self._size + frame.size > self._limit:
                return True  # no room beside what may not be dropped: this one is
        return self._add(Waiting(frame, is_broadcast=True, latest=latest))

    def put(self, frame: Encoded) -> bool:
        """Add a reply or an error; False, and nothing added, where that would exceed the limit."""
        if self._overflow is Overflow.DROP_OLDEST:
            self._make_room(frame.size)
        return self._add(Waiting(frame, is_broadcast=False, latest=None))

    def replace(self, frame: Encoded) -> None:
        """Drop all that waits, and let `frame` be the last."""
        self._waiting.clear()
        self._latest.clear()
        self._size = 0
        self._limit = max(self._limit, frame.size)
        self.put(frame)

    async def drained(self) -> None:
        """Wait until every frame has been written."""
        await self._drained.wait()

    async def write_to(self, websocket: WebSocket) -> None:
        """Write frames as they come, for ever."""
        while True:
            await self._filled.wait()
            while self._waiting:
                frame = self._remove(next(iter(self._waiting)))
                if isinstance(frame.payload, bytes):
                    await websocket.send_bytes(frame.payload)
                else:
                    await websocket.send_text(frame.payload)
            self._filled.clear()
            self._drained.set()

    def _add(self, waiting: Waiting) -> bool:
        if self._size + waiting.frame.size > self._limit:
            return False
        number = next(self._numbers)
        self._waiting[number] = waiting
        if waiting.latest is not None:
            self._latest[waiting.latest] = number
        self._size += waiting.frame.size
        self._filled.set()
        self._drained.clear()
        return True

    def _remove(self, number: int) -> Encoded:
        waiting = self._waiting.pop(number)
        if waiting.latest is not None:
            del self._latest[waiting.latest]
        self._size -= waiting.frame.size
        return waiting.frame

    def _make_room(self, size: int) -> None:
        while self._size + size > self._limit:
            oldest = (number for number, each in self._waiting.items() if each.is_broadcast)
            number = next(oldest, None)
            if number is None:
                return
            self._remove(number)
