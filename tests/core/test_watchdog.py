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


async def _asked(dog: Watchdog, times: int) -> None:
    """Wait until it has asked the loop so often."""
    for _ in range(times):
        async with asyncio.timeout(10):
            while dog._answered.is_set():  # noqa: ASYNC110 - a thread's
                await asyncio.sleep(0.001)
            while not dog._answered.is_set():  # noqa: ASYNC110 - a thread's
                await asyncio.sleep(0.001)


async def test_a_loop_that_runs_is_left_alone(told: list[str]) -> None:
    """Nothing is told, and the thread ends when it is stopped, or with the loop."""
    dog = Watchdog(0.5, ends=False)
    dog.start()
    await _asked(dog, 5)
    dog.stop()
    assert told == []
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
    Watchdog(0.5, ends=False).stop()  # where it was never started


async def test_a_held_loop_is_told_of_once_and_then_that_it_is_free(told: list[str]) -> None:
    """Each time that it is held."""
    dog = Watchdog(0.1, ends=False)
    dog.start()
    for _ in range(2):
        time.sleep(1)  # noqa: ASYNC251 - that is what it is about
        await _asked(dog, 2)
    dog.stop()
    assert told == ["event loop held", "event loop free"] * 2
