"""What the metrics of this process say, and how much more they say later.

They are those of every server in this process, so a test looks at what is added.
"""

import asyncio
from collections.abc import Mapping

from app.core.metrics import REGISTRY
from tests.server import DEADLINE

Series = tuple[str, frozenset[tuple[str, str]]]


def value(name: str, /, **labels: str) -> float:
    """What one series has; 0 where there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def all_series() -> Mapping[Series, float]:
    """Every series there is, with its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
    }


def names() -> set[str]:
    """What the metrics are called in queries; a histogram is in three series."""
    found = set()
    for metric in REGISTRY.collect():
        if metric.type == "counter":
            found.add(f"{metric.name}_total")
        elif metric.type == "histogram":
            found.update(f"{metric.name}_{part}" for part in ("bucket", "sum", "count"))
        else:
            found.add(metric.name)
    return found


class Added:
    """How much a series has grown since this was made."""

    def __init__(self, name: str, /, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = value(name, **labels)

    def __call__(self) -> float:
        """How much that is."""
        return value(self._name, **self._labels) - self._before

    async def reaches(self, amount: float) -> None:
        """Wait until it is as much: the server counts after its client has the answer."""
        async with asyncio.timeout(DEADLINE):
            while self() < amount:  # noqa: ASYNC110 - counted in another thread
                await asyncio.sleep(0.005)
        assert self() == amount
