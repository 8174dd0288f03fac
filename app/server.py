"""uvicorn, with limits where its own defaults have none."""

import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from app.core.settings import Settings

UNREAD_MILLISECONDS = 10_000
MAX_HEADER_BYTES = 16_384


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


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """What uvicorn is run with, in production and in the tests alike."""
    return uvicorn.Config(
        app,
        http="h11",  # it limits headers; httptools takes them without end
        ws="websockets-sansio",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws_max_size=settings.ws_max_message_bytes,
        # Compression costs 34 KB a connection, and lets a small frame become a large one.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ws_ping_seconds,
        ws_ping_timeout=settings.ws_ping_seconds,
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
        self.address = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address."""
        await super().startup(sockets=sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
            self.address = f"http://{f'[{shown}]' if shown.count(':') > 1 else shown}:{port}"
            print(f"Duplex is at {self.address} (Ctrl-C ends it)", flush=True)  # noqa: T201
