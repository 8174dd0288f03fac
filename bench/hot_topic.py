"""The ceiling of one durable topic: transactions a second that publish to it, on both databases.

Each transaction publishes one event and does nothing else. Those of one topic take their offsets
under the lock of its row and wait for one another's commits; those of different topics do not.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median

from app.core.observability import configure_logging
from app.main import create_app
from bench.processes import environment, postgresql, program, sqlite
from bench.servers import settings_for
from bench.servers.duplex import Said, recorded
from bench.tables import spread, table

WARM_UP = 0.2
TEXT = "x" * 200


@dataclass(frozen=True)
class Load:
    """So many publishers, for so long."""

    publishers: int = 16
    processes: int = 2
    seconds: float = 1.5


@dataclass
class Measured:
    """Transactions a second in each round, on one topic and on as many as there are publishers."""

    one: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)


async def publish(database: str, publishers: int, seconds: float) -> None:
    """Be one of the processes: a line of topics comes in, the number of transactions goes out."""
    app = create_app(settings_for(database, pool_size=publishers))
    hub, db = app.state.hub, app.state.database

    async def publisher(topic: str, end: float) -> int:
        address = recorded.at(group=topic)
        committed = 0
        while True:
            async with db.unit_of_work() as uow:
                hub.publish(uow, address, Said(text=TEXT))
            if time.monotonic() > end:
                return committed
            committed += 1

    async def all_of_them(topics: list[str], lasting: float) -> int:
        end = time.monotonic() + lasting
        return sum(await asyncio.gather(*(publisher(topic, end) for topic in topics)))

    async with app.router.lifespan_context(app):
        await all_of_them([f"warm-up-{os.getpid()}"] * publishers, seconds * WARM_UP)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(await all_of_them(json.loads(line), seconds), flush=True)


@contextmanager
def publishing(database: str, load: Load) -> Iterator[Callable[[bool], float]]:
    """Start the processes; what is given takes whether the topic is one, and measures."""
    share = max(1, load.publishers // load.processes)
    job = json.dumps([database, share, load.seconds])
    with ExitStack() as stack:
        started = [
            stack.enter_context(program("bench.hot_topic", "--job", job, env=environment()))
            for _ in range(load.processes)
        ]
        pipes = [(each.stdin, each.stdout) for each in started if each.stdin and each.stdout]
        if any(answers.readline() != "ready\n" for _, answers in pipes):
            raise SystemExit("bench: a publisher did not start")

        def measure(hot: bool) -> float:
            for process, (commands, _) in enumerate(pipes):
                topics = ["hot" if hot else f"cool-{process}-{each}" for each in range(share)]
                commands.write(json.dumps(topics) + "\n")
                commands.flush()
            return sum(int(answers.readline()) for _, answers in pipes) / load.seconds

        yield measure


def rounds(databases: dict[str, str], load: Load, count: int) -> dict[str, Measured]:
    """Measure each database, one topic and many in turn, `count` times."""
    measured = {name: Measured() for name in databases}
    for name, url in databases.items():
        with publishing(url, load) as measure:
            for _ in range(count):
                measured[name].one.append(measure(True))
                measured[name].many.append(measure(False))
    return measured


def report(measured: dict[str, Measured], load: Load) -> str:
    """The results as a table."""
    title = f"### One hot topic: {load.publishers} publishers in {load.processes} processes"
    head = ["database", "one topic, tx/s", f"{load.publishers} topics, tx/s", "ratio", "spread"]
    lines: Iterable[list[str]] = (
        [
            name,
            f"{median(each.one):,.0f}",
            f"{median(each.many):,.0f}",
            f"{median(each.one) / median(each.many):.2f}",
            f"{spread(each.one)}, {spread(each.many)}",
        ]
        for name, each in measured.items()
    )
    return f"{title}\n\n{table(head, lines)}"


def main() -> None:
    """Measure, or be one of the processes that publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishers", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    configure_logging(level="warning", json=True)
    if given.job:
        asyncio.run(publish(*json.loads(given.job)))
        return
    load = Load(given.publishers, given.processes, given.seconds)
    with sqlite() as on_file, postgresql() as on_server:
        databases = {"PostgreSQL": on_server, "SQLite": on_file}
        print(report(rounds(databases, load, given.rounds), load))


if __name__ == "__main__":
    main()
