"""The watchdog within a process: it is quiet while the loop runs, and ends with it."""

import asyncio
import threading
import time

import pytest

from app.core import watchdog
from app.core.watchdog import Watchdog


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told, in the order of telling."""
    events: list[str] = []
    monkeypatch.setattr(watchdog, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "_tell", lambda _, event, **fields: events.append(event))
    return events


class Counted(Watchdog):
    """A watchdog that counts how often it has asked the loop."""

    asked = 0

    def _ask(self) -> bool:
        self.asked += 1
        return super()._ask()

    async def has_asked(self, times: int) -> None:
        """Wait until it has asked so often from now on."""
        wanted = self.asked + times
        async with asyncio.timeout(20):
            while self.asked < wanted:  # noqa: ASYNC110 - it is a thread's
                await asyncio.sleep(0.005)


async def test_a_loop_that_runs_is_left_alone(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told, and the thread ends when it is stopped, or with the loop."""
    monkeypatch.setattr(watchdog, "TELL_SECONDS", 10)
    dog = Counted(10, ends=False)
    dog.start()
    await dog.has_asked(5)
    dog.stop()
    assert told == []
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
    Watchdog(0.5, ends=False).stop()  # where it was never started


async def test_a_held_loop_is_told_of_once_and_then_that_it_is_free(told: list[str]) -> None:
    """Each time that it is held."""
    dog = Counted(0.5, ends=False)
    dog.start()
    for _ in range(2):
        time.sleep(2)  # noqa: ASYNC251 - that is what it is about
        await dog.has_asked(2)
    dog.stop()
    times = max(2, len(told) // 2)  # a machine that is busy may hold it, too
    assert told == ["event loop held", "event loop free"] * times
