"""uvicorn, with limits and registered errors where its own defaults have neither."""

import asyncio
import base64
import faulthandler
import select
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from http import HTTPStatus
from types import FrameType
from typing import Any
from uuid import uuid4

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.core.boundary import PROBLEM_JSON, to_json
from app.core.connections import OpenConnections
from app.core.errors import AppError, HeadersTooLarge, MalformedRequest, RequestTimeout, Restarting
from app.core.http import MAX_HEADER_BYTES, MAX_HEADERS
from app.core.observability import log
from app.core.settings import Settings
from app.realtime.wire import websocket_protocol

UNREAD_MILLISECONDS = 10_000
HEADER_SECONDS = 10
MAX_HEADER_LINE = 8_000
OVERTIME_SECONDS = 5  # until a process that has not ended as it should is ended
AT_ONCE_SECONDS = 5  # for the application to end in after a second signal
ENDED_PER_SECOND = 500  # connections that are told of a restart: they come back as fast
QUIET_ROUNDS = 5  # of the loop, which takes three until who is accepted counts as connected
ACCEPTING_ROUNDS = 100  # of the loop, to take who has connected before the address is given up
FIRST_REQUEST_SECONDS = 0.5  # for who has connected just before
CLOSING_SECONDS = 1  # for the other side to answer a close frame


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError where the address cannot be had.

    A peer that acknowledges nothing for ten seconds is cut off by the kernel, with its buffers
    (RFC 5482); uvicorn would wait for it for ever.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(AttributeError, OSError):  # Linux has it, other systems do not
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
        sock.bind((host, port))
        sock.listen(2048)
        sock.set_inheritable(True)
    except OSError:
        sock.close()
        raise
    return sock


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for headers so long and takes so many of them.

    What is not HTTP gets a registered error too, though no application ever sees it.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait(True)

    def data_received(self, data: bytes) -> None:
        """Take what has come; wait where it is half a header."""
        super().data_received(data)
        self._wait(self._has_half_a_header())

    def on_response_complete(self) -> None:
        """Take the next request of this connection, which may be there in part already."""
        super().on_response_complete()
        self._wait(self._has_half_a_header())

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._wait(False)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand over what the WebSocket parser takes; to the rest it says little or nothing."""
        headers = dict(event.headers)
        longest = max(len(name) + len(value) for name, value in event.headers)
        if len(event.headers) > MAX_HEADERS or longest > MAX_HEADER_LINE:
            self._refuse(HeadersTooLarge())
        elif event.method != b"GET" or not _is_key(headers.get(b"sec-websocket-key", b"")):
            self._refuse(MalformedRequest("This is no WebSocket handshake (RFC 6455)."))
        elif headers.get(b"sec-websocket-version") != b"13":
            self._refuse(
                MalformedRequest(
                    "Version 13 of WebSocket is spoken here.",
                    headers={"Sec-WebSocket-Version": "13"},
                )
            )
        else:
            self._wait(False)
            super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 cannot parse."""
        self._refuse(MalformedRequest())

    def _has_half_a_header(self) -> bool:
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _wait(self, wanted: bool) -> None:
        """Wait for headers from now on, if not since before; or do not."""
        if wanted and self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self._refuse, RequestTimeout())
        elif not wanted and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, error: AppError) -> None:
        if self.transport.is_closing():
            return
        request_id = uuid4().hex
        body = to_json(error.problem(instance=None, request_id=request_id))
        headers = {
            "content-type": PROBLEM_JSON,
            "content-length": str(len(body)),
            "x-request-id": request_id,
            "connection": "close",
            **error.headers,
        }
        with suppress(h11.LocalProtocolError):  # an answer may be under way
            parts = (
                h11.Response(
                    status_code=error.status,
                    headers=list(headers.items()),
                    reason=HTTPStatus(error.status).phrase,
                ),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except ValueError:
        return False


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """What uvicorn is run with, in production and in the tests alike."""
    return uvicorn.Config(
        app,
        http=HttpProtocol,  # on h11, which limits headers; httptools takes them without end
        ws=websocket_protocol(),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws_max_size=settings.ws_max_message_bytes,
        # Compression costs 34 KB a connection, and lets a small frame become a large one.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ws_ping_seconds,
        ws_ping_timeout=settings.ws_ping_seconds,
        root_path=settings.root_path,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        server_header=False,
        access_log=False,
        log_config=None,
    )


class DuplexServer(uvicorn.Server):
    """uvicorn's server, which tells every connection of its end before it ends.

    SIGINT and SIGTERM end it in good order, a second one at once. `exit_code` is 0, or after a
    second signal 128 + its number, as a shell has it.

    Args:
        started: called when it can be reached.
        lock: entered before anything starts, left after everything has ended.
    """

    def __init__(
        self,
        app: FastAPI,
        settings: Settings,
        *,
        started: Callable[[], None] = lambda: None,
        lock: AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        super().__init__(config(app, settings))
        self.exit_code = 0
        self._settings = settings
        self._connections: OpenConnections = app.state.connections
        self._on_started = started
        self._lock = lock or nullcontext()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes; raises what entering the lock raises."""
        self._loop = asyncio.get_running_loop()
        self._forced = asyncio.Event()
        async with self._lock:
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in good order, or at once where that was asked for before.

        uvicorn's own would raise the signal again at the end, and a container that was stopped
        would look like one that failed.
        """
        if self.should_exit:
            self.force_exit = True
            self.exit_code = 128 + sig
            self._loop.call_soon_threadsafe(self._forced.set)
            _exit_in(AT_ONCE_SECONDS)
        else:
            self.should_exit = True
            _exit_in(self._settings.shutdown_seconds + OVERTIME_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more sockets, end those there are, finish requests; cut what is left."""
        self._connections.draining = True
        # From now on no proxy keeps a connection, on which it could still send as it is closed.
        self.server_state.default_headers.append((b"connection", b"close"))
        log.info("ending", connections=len(self._connections))
        ending = asyncio.create_task(self._end(sockets), name="shutdown")
        forced = asyncio.create_task(self._forced.wait(), name="second signal")
        try:
            await asyncio.wait((ending, forced), return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await ending
            else:
                ending.cancel()
                self._cut(self.server_state.connections)
                for task in self.server_state.tasks:
                    task.cancel()
                await self.lifespan.shutdown()
        finally:
            ending.cancel()
            forced.cancel()
            await asyncio.gather(ending, forced, return_exceptions=True)

    async def _end(self, sockets: list[socket.socket] | None) -> None:
        budget = self._settings.shutdown_seconds
        step = min(1, budget / 5)  # after the sockets for requests, after those for the application
        deadline = self._loop.time() + budget - step
        await self._drain(deadline - step)
        self._cut(each for each in self._websockets() if each.transport.get_write_buffer_size())
        await self._give_up_the_address(sockets or [], deadline)
        left = max(0, deadline - self._loop.time())
        self.config.timeout_graceful_shutdown = left  # type: ignore[assignment] # a float will do
        await super().shutdown(sockets)
        self._cut(self.server_state.connections)

    async def _drain(self, deadline: float) -> None:
        """Tell every connection, spread out for them to come back spread out; wait for their end.

        A load balancer has DRAIN_SECONDS before that to see that the process is not ready.
        """
        await asyncio.sleep(self._settings.drain_seconds)
        longest = (deadline - self._loop.time()) / 2
        seconds = min(len(self._connections) / ENDED_PER_SECOND, longest)
        await self._connections.drain(Restarting(), seconds=seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._connections.none_left()
        deadline = min(deadline, self._loop.time() + CLOSING_SECONDS)
        while self._websockets() and self._loop.time() < deadline:  # noqa: ASYNC110 - uvicorn's set
            await asyncio.sleep(0.02)

    async def _give_up_the_address(self, sockets: list[socket.socket], deadline: float) -> None:
        """Listen no longer, and give who is connected already a moment to ask.

        A connection that waits to be accepted would be reset, and one that has sent nothing yet
        closed: a proxy repeats no POST that it has begun to send (RFC 9110, 9.2.2).
        """
        quiet = 0
        for _ in range(ACCEPTING_ROUNDS):
            quiet = 0 if select.select(sockets, [], [], 0)[0] else quiet + 1
            if quiet == QUIET_ROUNDS:
                break
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        deadline = min(deadline, self._loop.time() + FIRST_REQUEST_SECONDS)
        while self._unasked() and self._loop.time() < deadline:  # noqa: ASYNC110 - uvicorn's set
            await asyncio.sleep(0.01)

    def _unasked(self) -> bool:
        """Whether a connection has not asked for anything yet."""
        return any(getattr(each, "cycle", 0) is None for each in self.server_state.connections)

    def _websockets(self) -> list[Any]:
        kind = self.config.ws_protocol_class or ()
        return [each for each in self.server_state.connections if isinstance(each, kind)]

    def _cut(self, connections: Iterable[Any]) -> None:
        """Abort what there is no more time for: who does not read would be waited for for ever."""
        doomed = list(connections)
        for connection in doomed:
            connection.transport.abort()
        if doomed:
            log.warning("connections cut off", number=len(doomed))


def _exit_in(seconds: float) -> None:
    """End this process then, whatever it does, and write down what that was.

    Nothing on the event loop can, where a function holds it. The alarm is for where nobody reads
    what is written; alone it would not do, as it spares the first process of a container.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def announce(sock: socket.socket) -> None:
    """Print where a person finds what listens on `sock`."""
    print(f"Duplex is at {_url(sock.getsockname())} (Ctrl-C ends it)", flush=True)  # noqa: T201 - for a person


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
