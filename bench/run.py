"""`make bench`: fan-out and publish rate, this service and its peers one after the other.

Every round visits every service; what is printed is the median of the rounds.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

from app.core.observability import configure_logging
from bench import hot_topic
from bench.client import Job, Result
from bench.processes import REDIS, measure, postgresql, running, sqlite
from bench.tables import spread, table

DUPLEX, CHANNELS, SOCKETIO = "duplex", "django_channels", "python_socketio"
NAMES = {DUPLEX: "Duplex", CHANNELS: "Django Channels", SOCKETIO: "python-socketio"}


@dataclass(frozen=True)
class Service:
    """One of those that are compared."""

    module: str
    over_redis: bool = False
    processes: int = 1
    database: str = ""  # of Duplex: sqlite or postgresql

    @property
    def name(self) -> str:
        """What it is called."""
        return NAMES[self.module]

    @property
    def engine(self) -> str:
        """What carries its messages; only alike engines are compared."""
        if not self.over_redis:
            return "memory"
        return "Redis" if self.processes == 1 else f"Redis, {self.processes} processes"


SERVICES = (
    Service(DUPLEX, database="sqlite"),
    Service(CHANNELS),
    Service(SOCKETIO),
    Service(DUPLEX, over_redis=True, database="postgresql"),
    Service(CHANNELS, over_redis=True),
    Service(SOCKETIO, over_redis=True),
    Service(DUPLEX, over_redis=True, processes=2, database="postgresql"),
    Service(CHANNELS, over_redis=True, processes=2),
    Service(SOCKETIO, over_redis=True, processes=2),
)


@dataclass(frozen=True)
class Row:
    """One line of the results: a service, and what it did."""

    service: Service
    kind: str
    action: str


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    subscribers: int
    publishers: int
    burst: int
    seconds: float
    rounds: int


Results = dict[Row, list[Result]]


def jobs(service: Service, plan: Plan) -> Iterator[Job]:
    """What a service is asked to do on one visit; the servers are filled in later."""
    job = Job("fan_out", service.module, "say", (), (), plan.seconds, burst=plan.burst)
    yield replace(job, subscribers=plan.subscribers)
    if service.module == DUPLEX and service.processes > 1:
        yield replace(job, action="record", subscribers=plan.subscribers)
    if service.processes == 1:
        yield replace(job, kind="publish", publishers=plan.publishers)
        if service.module == DUPLEX:
            yield replace(job, kind="publish", action="record", publishers=plan.publishers)


def visit(service: Service, plan: Plan, databases: dict[str, str], results: Results) -> None:
    """Start a service, have it do everything once, end it."""
    arguments = [REDIS if service.over_redis else ""]
    if service.database:
        arguments.insert(0, databases[service.database])
    with running(service.module, *arguments, processes=service.processes) as servers:
        for job in jobs(service, plan):
            result = measure(
                replace(job, ports=servers.ports, pids=servers.pids, headers=servers.headers)
            )
            results[Row(service, job.kind, job.action)].append(result)
            note(f"  {service.name}, {service.engine}, {job.kind}, {job.action}: "
                 f"{result.rate:,.0f}/s, {result.cpu_us:.1f} µs")  # fmt: skip


def note(line: str) -> None:
    """Say how far it has come."""
    print(line, file=sys.stderr, flush=True)


def reference(row: Row, results: Results) -> list[Result]:
    """Duplex's results of the same engine, doing the same with no log."""
    return next(
        found
        for other, found in results.items()
        if other.service.module == DUPLEX
        and other.service.engine == row.service.engine
        and (other.kind, other.action) == (row.kind, "say")
    )


def columns(row: Row, results: Results) -> list[str]:
    """Rate, CPU, both as ratios to Duplex, and the spread."""
    mine, duplex = results[row], reference(row, results)
    rate, cpu = [each.rate for each in mine], [each.cpu_us for each in mine]
    return [
        f"{median(rate):,.0f}",
        f"{median(rate) / median(each.rate for each in duplex):.2f}",
        f"{median(cpu):.1f}",
        f"{median(cpu) / median(each.cpu_us for each in duplex):.2f}",
        f"{spread(rate)}, {spread(cpu)}",
    ]


def fan_out_table(results: Results, plan: Plan) -> str:
    """Fan-out, as Markdown."""
    title = (
        f"### Fan-out: 1 publisher, {plan.subscribers} subscribers, 200 bytes, "
        f"bursts of {plan.burst}"
    )
    head = ["service", "engine", "burst at the last, ms", "deliveries/s", "× Duplex"]
    head += ["server CPU, µs per delivery", "× Duplex", "spread"]
    rows = [
        [
            row.service.name + (", durable topic" if row.action == "record" else ""),
            row.service.engine,
            f"{median(each.burst_ms for each in found):.1f}",
            *columns(row, results),
        ]
        for row, found in results.items()
        if row.kind == "fan_out"
    ]
    return f"{title}\n\n{table(head, rows)}"


def publish_table(results: Results, plan: Plan) -> str:
    """Publish rate, as Markdown."""
    title = f"### Publishing: {plan.publishers} publishers, 1 subscriber, 200 bytes"
    head = ["service", "engine", "acknowledged", "messages/s", "× Duplex"]
    head += ["server CPU, µs per message", "× Duplex", "spread", "heard"]
    rows = []
    for row, found in results.items():
        if row.kind == "publish":
            committed = {"sqlite": "committed, SQLite", "postgresql": "committed, PostgreSQL"}
            said = committed[row.service.database] if row.action == "record" else "handled"
            heard = f"{median(each.heard for each in found):.0%}"
            rows.append([row.service.name, row.service.engine, said, *columns(row, results), heard])
    return f"{title}\n\n{table(head, rows)}"


def main() -> None:
    """Measure everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--publishers", type=int, default=16)
    parser.add_argument("--burst", type=int, default=10, help="messages sent at once")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="only see whether it works")
    given = parser.parse_args()
    plan = Plan(given.subscribers, given.publishers, given.burst, given.seconds, given.rounds)
    if given.smoke:
        plan = Plan(subscribers=10, publishers=2, burst=5, seconds=0.2, rounds=1)
    configure_logging(level="warning", json=True)

    began = time.monotonic()
    before = f"{os.cpu_count()} cores, load before it began {os.getloadavg()[0]:.1f}"
    results: Results = defaultdict(list)
    with sqlite() as file, postgresql() as server:
        databases = {"sqlite": file, "postgresql": server}
        for number in range(plan.rounds):
            note(f"round {number + 1} of {plan.rounds}")
            for service in SERVICES:
                visit(service, plan, databases, results)
        note("one hot topic")
        load = hot_topic.Load(plan.publishers, seconds=plan.seconds)
        hot = hot_topic.rounds({"PostgreSQL": server, "SQLite": file}, load, plan.rounds)
    tables = fan_out_table(results, plan), publish_table(results, plan), hot_topic.report(hot, load)
    print(f"{before}, {plan.rounds} rounds, {time.monotonic() - began:.0f} s", *tables, sep="\n\n")


if __name__ == "__main__":
    main()
