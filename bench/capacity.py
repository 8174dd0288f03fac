"""What one replica holds: `python -m bench.capacity`.

One server with PostgreSQL and Redis; sockets that follow a durable topic are opened in steps, left
alone, and then told something. Of each step it prints what the server needed: memory (of the
process, and of the kernel for its sockets), CPU time of a handshake, of holding a socket for a
second and of telling it one event, and how long one event took to reach all of them.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client, Job, cpu_seconds
from bench.processes import REDIS, Running, postgresql, running

PAGE_BYTES = 4096
EVENTS = 5


@dataclass(frozen=True)
class Step:
    """What the server needed with so many sockets."""

    sockets: int
    process_bytes: float  # more than without any, for one socket
    kernel_bytes: float  # the same, of all sockets of this machine, of which the client has half
    handshake_us: float
    holding_us: float  # for one socket in one second
    event_us: float  # to one socket
    reached_ms: float  # median, from sending an event until the last socket has it

    def row(self) -> str:
        """A row of the table."""
        return (
            f"| {self.sockets:,} | {self.process_bytes / 1000:.0f} KB "
            f"| {self.kernel_bytes / 1000:.1f} KB | {self.handshake_us / 1000:.2f} ms "
            f"| {self.holding_us:.0f} µs | {self.event_us:.0f} µs | {self.reached_ms:.0f} ms |"
        )


def process_bytes(pid: int) -> int:
    """Memory of a process that no other shares (proc(5), smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def kernel_bytes() -> int:
    """Memory of the buffers of TCP on this machine."""
    fields = next(
        line.split()
        for line in Path("/proc/net/sockstat").read_text().splitlines()
        if line.startswith("TCP:")
    )
    return int(fields[fields.index("mem") + 1]) * PAGE_BYTES


async def measure(service: Running, sizes: Sequence[int], seconds: float) -> list[Step]:
    """Open sockets up to each size, and measure there."""
    job = Job(
        "hold", "duplex", "record", service.ports, service.pids, seconds, headers=service.headers
    )
    client = Client(job)
    publisher = await client.publisher()
    [pid] = service.pids
    own, kernel = process_bytes(pid), kernel_bytes()
    steps, held = [], 0
    for size in sizes:
        cpu = cpu_seconds(job.pids)
        await client.subscribe(size - held)
        shaking = cpu_seconds(job.pids) - cpu
        added, held = size - held, size
        cpu, began = cpu_seconds(job.pids), time.perf_counter()
        await asyncio.sleep(seconds)
        holding = (cpu_seconds(job.pids) - cpu) / (time.perf_counter() - began)
        grown, kernel_grown = process_bytes(pid) - own, max(0, kernel_bytes() - kernel)
        taken, cpu = [], cpu_seconds(job.pids)
        for _ in range(EVENTS):
            began, goal = time.perf_counter(), client.heard.count + size
            publisher.send(client.message())
            await client.heard.reach(goal, 60)
            taken.append(time.perf_counter() - began)
        telling = cpu_seconds(job.pids) - cpu
        steps.append(
            Step(
                sockets=size,
                process_bytes=grown / size,
                kernel_bytes=kernel_grown / size,
                handshake_us=shaking / added * 1e6,
                holding_us=holding / size * 1e6,
                event_us=telling / EVENTS / size * 1e6,
                reached_ms=sorted(taken)[EVENTS // 2] * 1000,
            )
        )
    return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, nargs="+", default=[1000, 4000, 8000])
    parser.add_argument("--seconds", type=float, default=45, help="how long they are left alone")
    given = parser.parse_args()
    with postgresql() as url, running("duplex", url, REDIS) as service:
        steps = asyncio.run(measure(service, given.sockets, given.seconds))
    print("| sockets | memory each | kernel, both ends | handshake | held for 1 s ", end="")
    print("| told one event | told all |\n|---|---|---|---|---|---|---|")
    for step in steps:
        print(step.row())


if __name__ == "__main__":
    main()
