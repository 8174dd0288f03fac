"""What is measured now and then, not counted as it happens: gauges, the event loop's lag."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import Gauge

from app.core.background import Periodic
from app.core.metrics import JOBS_PARKED, JOBS_READY, LOOP_LAG

SAMPLE_SECONDS = 5.0
LAG_SECONDS = 0.25
LAGS = 80  # that are looked back on: 20 seconds, so that no scrape every 15 misses one


class LoopLag:
    """Measures how late the event loop is: as late is everything else in this process."""

    name = "loop lag"

    def __init__(self) -> None:
        self._lags: deque[float] = deque(maxlen=LAGS)

    async def run(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(max(0.0, loop.time() - due))
            LOOP_LAG.set(max(self._lags))


def sampling(
    gauges: Mapping[Gauge, Callable[[], float]],
    backlog: Callable[[], Awaitable[tuple[int, int]]],
) -> Periodic:
    """Sets gauges every SAMPLE_SECONDS.

    Args:
        gauges: each with what tells its value.
        backlog: asks the database how many jobs are ready, and how many parked. While it does not
            answer, those two stay what they were.
    """

    async def sample() -> None:
        for gauge, value in gauges.items():
            gauge.set(value())
        ready, parked = await backlog()
        JOBS_READY.set(ready)
        JOBS_PARKED.set(parked)

    return Periodic("metrics", sample, seconds=SAMPLE_SECONDS)
