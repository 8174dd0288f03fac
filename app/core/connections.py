"""Every WebSocket and stream that is open in this process, so that it can be ended from outside."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app.core.auth import Principal
from app.core.errors import AppError, Restarting


@dataclass(eq=False, slots=True)
class OpenConnection:
    """A WebSocket, or a response that goes on; `end` tells its client an error and closes it.

    `end` returns at once. Whoever takes a connection over replaces it.
    """

    scope: Any
    end: Callable[[AppError], None]

    @property
    def principal(self) -> Principal | None:
        """Whose it is; a refreshed token counts."""
        principal: Principal | None = self.scope["state"].get("principal")
        return principal


class OpenConnections:
    """The open connections of this process."""

    def __init__(self) -> None:
        self._open: set[OpenConnection] = set()
        self._none = asyncio.Event()
        self._none.set()
        #: The process is about to end: it takes no other connection, and is not ready.
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(tuple(self._open))

    def add(self, connection: OpenConnection) -> None:
        """Count a connection in. Raises Restarting where the process is about to end."""
        if self.draining:
            raise Restarting
        self._open.add(connection)
        self._none.clear()

    def discard(self, connection: OpenConnection) -> None:
        """Count it out, whether it was in or not."""
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    async def none_left(self) -> None:
        """Wait until there is none."""
        await self._none.wait()

    async def drain(self, error: AppError, *, seconds: float) -> None:
        """End every connection and take no other: the first at once, the last within `seconds`."""
        self.draining = True
        loop = asyncio.get_running_loop()
        started = loop.time()
        waiting = list(self)
        for number, connection in enumerate(waiting):
            left = started + seconds * number / len(waiting) - loop.time()
            if left > 0:  # or it is late, as a sleep is never shorter than a millisecond
                await asyncio.sleep(left)
            connection.end(error)
