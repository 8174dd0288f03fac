"""Work that is done again and again ends when it is told to, whatever happens at that moment."""

import asyncio

import pytest

from app.core.background import Periodic
from tests.server import DEADLINE


@pytest.mark.parametrize("steps", range(5))
async def test_it_ends_when_it_is_cancelled_as_it_is_woken(steps: int) -> None:
    """`asyncio.wait_for` of Python 3.11 swallows a cancellation that comes with the result."""

    async def work() -> None:
        """Nothing."""

    periodic = Periodic("work", work, seconds=60)
    task = asyncio.create_task(periodic.run())
    for _ in range(5):
        await asyncio.sleep(0)
    periodic.wake()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=DEADLINE / 10)
    ended = task.done()
    task.cancel()
    assert ended
