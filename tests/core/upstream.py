"""Another service, which answers as a test wants it to."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import httpx2

from tests.server import DEADLINE

Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request, as it arrived."""

    method: str
    target: str
    headers: httpx2.Headers
    body: bytes


def response(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """An answer, as it is sent."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Content-Length": str(len(body)), "Connection": "close"} | named
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def hang(writer: asyncio.StreamWriter) -> None:
    """Say nothing, until the client leaves."""
    await writer.drain()
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Send a long answer, a byte at a time."""
    writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""


class Upstream:
    """A server on a free port. It plays what it was given, the last of it for ever."""

    def __init__(self, *plays: bytes | Play) -> None:
        self.plays = list(plays)
        self.asked: list[Asked] = []
        self.open = 0
        self.most_open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def all_left(self) -> None:
        """Wait until nobody is connected."""
        if self._tasks:
            _, connected = await asyncio.wait(self._tasks, timeout=DEADLINE)
            assert not connected

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; whether another may follow on this connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = httpx2.Headers([(n, v) for n, _, v in (line.partition(": ") for line in lines)])
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.asked.append(Asked(method, target, headers, body))
        play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
        if isinstance(play, bytes):
            writer.write(play)
        else:
            await play(writer)
        await writer.drain()
        return isinstance(play, bytes) and b"keep-alive" in play
