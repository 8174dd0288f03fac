"""A WebSocket of the client: RFC 6455 and no more of it than a measurement needs.

It costs a few microseconds a frame, the same for every service: a client that costs more than the
server would be what is measured.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
SECONDS = 10  # for whatever a service is waited for


class Failed(Exception):
    """A service did something else than it is measured for."""


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A frame as clients send it, masked with zeros: the server unmasks it all the same."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BBI", 0x80 | opcode, 0x80 | size, 0) + payload
    return struct.pack("!BBHI", 0x80 | opcode, 0x80 | 126, size, 0) + payload


class Tally:
    """Counts, and lets somebody wait for a number."""

    def __init__(self) -> None:
        self.count = 0
        self._goal = -1
        self._reached: asyncio.Future[None] | None = None

    def add(self) -> None:
        """Count one more."""
        self.count += 1
        if self.count == self._goal and self._reached and not self._reached.done():
            self._reached.set_result(None)

    def fail(self, why: str) -> None:
        """Let whoever waits know that it will not be."""
        if self._reached and not self._reached.done():
            self._reached.set_exception(Failed(why))

    async def reach(self, goal: int, seconds: float = SECONDS) -> None:
        """Wait until `goal` have been counted. Raises Failed."""
        if self.count >= goal:
            return
        self._goal, self._reached = goal, asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._reached, seconds)
        except TimeoutError:
            raise Failed(f"{self.count} of {goal} came within {seconds:.0f} s") from None


class Socket(asyncio.Protocol):
    """One connection. Frames go to `on_frame`, once that is set; before, to `expect`."""

    def __init__(self) -> None:
        self.on_frame: Callable[[bytes], None] | None = None
        self.on_lost: Callable[[str], None] = lambda _: None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._early: deque[bytes] = deque()
        self._came = asyncio.Event()
        self._rest = b""
        self._open = False
        self._transport: asyncio.Transport

    @classmethod
    async def connect(cls, port: int, path: str, headers: Mapping[str, str]) -> "Socket":
        """Open one; what the server says first is left for `expect`. Raises Failed."""
        loop = asyncio.get_running_loop()
        transport, socket = await loop.create_connection(cls, "127.0.0.1", port)
        given = {
            "Host": f"127.0.0.1:{port}",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        transport.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take frames apart; what is half there waits for the rest."""
        if self._rest:
            data = self._rest + data
        at, end = 0 if self._open else self._answer(data), len(data)
        while self._open and end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126 and end - at >= 4:
                size, start = (data[at + 2] << 8) | data[at + 3], at + 4
            if start + size > end:
                break
            self._take(data[at] & 0x0F, data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        if not self.closed.done():
            self.closed.set_result(None)
        self._came.set()
        self.on_lost(f"a socket was closed: {self._rest[:200]!r}")

    def send(self, *texts: str) -> None:
        """Send text frames, together."""
        self._transport.write(b"".join(frame(text.encode()) for text in texts))

    async def expect(self, part: str) -> None:
        """Wait for a frame that has `part` in it. Raises Failed where the socket ends before."""
        async with asyncio.timeout(SECONDS):
            while True:
                while self._early:
                    if part.encode() in self._early.popleft():
                        return
                if self.closed.done():
                    raise Failed(f"refused: {self._rest[:300]!r}")
                self._came.clear()
                await self._came.wait()

    async def close(self) -> None:
        """Close it, and wait until the server has."""
        self.on_lost = lambda _: None
        self.on_frame = lambda _: None
        self._transport.write(frame(struct.pack("!H", 1000), CLOSE))
        await asyncio.wait_for(self.closed, SECONDS)

    def _answer(self, data: bytes) -> int:
        head, found, _ = data.partition(b"\r\n\r\n")
        self._open = bool(found) and head.startswith(b"HTTP/1.1 101")
        return len(head) + len(found) if self._open else 0

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._transport.write(frame(payload, PONG))
        elif opcode == CLOSE:
            self.on_lost(f"the server closed a socket: {payload!r}")
            self._transport.write(frame(payload, CLOSE))
        elif self.on_frame is not None:
            self.on_frame(payload)
        else:
            self._early.append(payload)
            self._came.set()


async def close(sockets: Iterable[Socket]) -> None:
    """Close them all."""
    await asyncio.gather(*(socket.close() for socket in sockets))
