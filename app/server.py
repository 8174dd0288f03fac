"""uvicorn, with limits and registered errors where its own defaults have neither."""

import asyncio
import base64
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.core.boundary import PROBLEM_JSON, to_json
from app.core.errors import AppError, HeadersTooLarge, MalformedRequest, RequestTimeout
from app.core.http import MAX_HEADER_BYTES, MAX_HEADERS
from app.core.settings import Settings

UNREAD_MILLISECONDS = 10_000
HEADER_SECONDS = 10
MAX_HEADER_LINE = 8_000


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
        ws="websockets-sansio",
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
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


class DuplexServer(uvicorn.Server):
    """uvicorn's server, which says where it is once it can be reached."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(config(app, settings))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address."""
        await super().startup(sockets=sockets)
        if self.started and sockets:
            print(f"Duplex is at {_url(sockets[0].getsockname())} (Ctrl-C ends it)", flush=True)  # noqa: T201 - for a person


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
