"""Work that a process does beside its requests: again and again, and at once when it is woken."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from app.core.observability import report


class Periodic:
    """Runs `work` every so many seconds, and as soon as somebody wakes it.

    An error is reported and the next turn comes as always: `run` ends only when it is cancelled.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], *, seconds: float) -> None:
        self.name = name
        self._work = work
        self._seconds = seconds
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let the next turn begin now."""
        self._woken.set()

    async def run(self) -> None:
        """Take turns for ever."""
        while True:
            self._woken.clear()
            try:
                await self._work()
            except Exception as exc:
                report(exc)
                await asyncio.sleep(min(1.0, self._seconds))  # whoever wakes it must not hurry it
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 may swallow the cancellation that ends this.
                async with asyncio.timeout(self._seconds):
                    await self._woken.wait()
