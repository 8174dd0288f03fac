"""The client, a process of its own: `python -m bench.client <job as JSON>`.

It plays every subscriber and every publisher, reads the CPU time of the servers where a
measurement begins and ends, and prints its result as JSON.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.dialects import DIALECTS, Dialect
from bench.sockets import Failed, Socket, Tally, close

MARK = "deliver-me-"  # in every text that is published, and in nothing else
AT_ONCE = 50  # handshakes
WARM_UP = 0.2  # part of the time that is measured afterwards
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """What to do, with which servers."""

    kind: str  # fan_out or publish
    dialect: str
    action: str
    ports: Sequence[int]
    pids: Sequence[int]
    seconds: float
    subscribers: int = 1
    publishers: int = 1
    burst: int = 10
    text_bytes: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What was measured: deliveries, or acknowledged messages."""

    operations: int
    seconds: float
    cpu_seconds: float
    burst_ms: float = 0.0  # of deliveries: from sending a burst until the last has all of it
    heard: float = 1.0  # the part of what was acknowledged that a subscriber heard

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the servers' CPU for one operation."""
        return self.cpu_seconds / self.operations * 1e6


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that processes have used, in user and kernel mode (proc(5), fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Client:
    """The sockets of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._dialect: Dialect = DIALECTS[job.dialect]
        self._text = (MARK + "x" * job.text_bytes)[: job.text_bytes]
        self._number = 0
        self.heard = Tally()
        self.acknowledged = Tally()
        self.on_acknowledged: Callable[[Socket], None] = lambda _: None
        self.sockets: list[Socket] = []

    def message(self) -> str:
        """The next message of a publisher."""
        self._number += 1
        return self._dialect.publication(self._job.action, self._number, self._text)

    async def subscribe(self, count: int) -> None:
        """Open `count` sockets that hear what is published, spread over the servers."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                port = self._job.ports[number % len(self._job.ports)]
                socket = await self._open(port, self._dialect.listen[self._job.action])
                for said, awaited in self._dialect.joining:
                    socket.send(said)
                    await socket.expect(awaited)
            mark, tally = MARK.encode(), self.heard

            def on_frame(payload: bytes) -> None:
                if mark in payload:
                    tally.add()
                else:
                    self._other(socket, payload)

            socket.on_frame = on_frame

        await asyncio.gather(*(one(number) for number in range(count)))

    async def publisher(self) -> Socket:
        """A socket that publishes, at the first server."""
        socket = await self._open(self._job.ports[0], self._dialect.speak)
        expected, tally = self._dialect.acknowledged, self.acknowledged

        def on_frame(payload: bytes) -> None:
            if payload.startswith(expected):
                tally.add()
                self.on_acknowledged(socket)
            else:
                self._other(socket, payload)

        socket.on_frame = on_frame
        return socket

    async def _open(self, port: int, path: str) -> Socket:
        socket = await Socket.connect(port, path, self._job.headers)
        for said, awaited in self._dialect.greeting:
            if said:
                socket.send(said)
            await socket.expect(awaited)
        socket.on_lost = self._fail
        self.sockets.append(socket)
        return socket

    def _other(self, socket: Socket, payload: bytes) -> None:
        if self._dialect.ping and payload == self._dialect.ping:
            socket.send(self._dialect.pong)
        else:
            self._fail(f"not awaited: {payload[:200]!r}")

    def _fail(self, why: str) -> None:
        self.heard.fail(why)
        self.acknowledged.fail(why)


async def fan_out(job: Job) -> Result:
    """One publisher sends bursts, the next one when every subscriber has all of the last."""
    client = Client(job)
    await client.subscribe(job.subscribers)
    publisher = await client.publisher()
    taken: list[float] = []

    async def bursts(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            goal = client.heard.count + job.burst * job.subscribers
            publisher.send(*(client.message() for _ in range(job.burst)))
            await client.heard.reach(goal)
            taken.append(time.perf_counter() - began)

    await bursts(job.seconds * WARM_UP)
    taken.clear()
    cpu, began, heard = cpu_seconds(job.pids), time.perf_counter(), client.heard.count
    await bursts(job.seconds)
    result = Result(
        operations=client.heard.count - heard,
        seconds=time.perf_counter() - began,
        cpu_seconds=cpu_seconds(job.pids) - cpu,
        burst_ms=statistics.median(taken) * 1000,
    )
    await close(client.sockets)
    return result


async def publish(job: Job) -> Result:
    """Publishers that send the next message when the last one has been acknowledged."""
    client = Client(job)
    await client.subscribe(job.subscribers)
    sockets = [await client.publisher() for _ in range(job.publishers)]
    goes_on = True
    sent = 0

    def send(socket: Socket) -> None:
        nonlocal sent
        if goes_on:
            sent += 1
            socket.send(client.message())

    client.on_acknowledged = send
    for socket in sockets:
        send(socket)
    await asyncio.sleep(job.seconds * WARM_UP)
    cpu, began, before = cpu_seconds(job.pids), time.perf_counter(), client.acknowledged.count
    await asyncio.sleep(job.seconds)
    count, seconds = client.acknowledged.count - before, time.perf_counter() - began
    used = cpu_seconds(job.pids) - cpu
    goes_on = False
    await client.acknowledged.reach(sent)
    with suppress(Failed):  # a peer drops what a subscriber has no room for: `heard` tells
        await client.heard.reach(sent * job.subscribers, SETTLE_SECONDS)
    heard = client.heard.count / (sent * job.subscribers)
    await close(client.sockets)
    return Result(operations=count, seconds=seconds, cpu_seconds=used, heard=heard)


def main() -> None:
    """Do the job."""
    job = Job(**json.loads(sys.argv[1]))
    try:
        result = asyncio.run((fan_out if job.kind == "fan_out" else publish)(job))
    except Failed as failed:
        sys.exit(f"{job.dialect}, {job.kind}, {job.action}: {failed}")
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
