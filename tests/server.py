"""The real server, run in a thread: what a client sees on the wire is what tests look at."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from types import TracebackType
from typing import Any, Self

import httpx2
from fastapi import APIRouter, FastAPI
from sqlalchemy.engine import make_url
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.main import create_app
from app.server import DuplexServer, listen

#: Shared by the clients: to load the certificates of the world takes each 20 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
DEADLINE = 15  # seconds: long past what any answer takes, short of the test's own time limit


class _ObservedServer(DuplexServer):
    def __init__(self, app: FastAPI, settings: Settings, observer: threading.Event) -> None:
        super().__init__(app, settings)
        self._observer = observer

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        finally:
            self._observer.set()

    async def main_loop(self) -> None:
        """Serve until told to end, at once; uvicorn looks every tenth of a second."""
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1)

    def end(self) -> None:
        """End the server, from another thread."""
        self.should_exit = True
        with suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._told.set)


class RunningServer:
    """The service on a free port, configured as in production, with routers of a test's own."""

    def __init__(self, settings: Settings, *routers: APIRouter) -> None:
        self.settings = settings
        self.app: FastAPI = create_app(settings)
        for router in routers:
            self.app.include_router(router)
        self._socket = listen("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        self._started = threading.Event()
        self._server = _ObservedServer(self.app, settings, self._started)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(DEADLINE)
        assert self._server.started, "the server did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.end()
        self._thread.join(15)
        assert not self._thread.is_alive(), "the server did not end"

    def client(self, token: str | None = None, **kwargs: Any) -> httpx2.AsyncClient:
        """An HTTP client of this server, signed in where a token is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(
            base_url=self.url, headers=headers, timeout=20, verify=NO_TLS, **kwargs
        )

    async def has_no_client(self) -> bool:
        """Whether nobody is connected, as far as the server knows."""
        return not self._server.server_state.connections

    def token(self, subject: str = "1", *, name: str = "Ann", **claims: Any) -> str:
        """An access token of this server's, for somebody who need not have an account."""
        token: str = self.app.state.tokens.issue(
            subject, name=name, session=f"session-{subject}", **claims
        )
        return token

    @contextmanager
    def database_at(self, url: str, *, timeout: float = 5) -> Iterator[None]:
        """Let requests find another database for a while: without one no server starts."""
        kept = self.app.state.database
        self.app.state.database = SqlDatabase(make_url(url), timeout=timeout)
        self.app.state.readiness.forget()
        try:
            yield
        finally:
            self.app.state.database = kept
            self.app.state.readiness.forget()

    async def exchange(self, sent: bytes) -> bytes:
        """Send bytes as they are over a connection of their own; all that comes until its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(DEADLINE):
                writer.write(sent)
                return await reader.read()
        finally:
            writer.close()

    @asynccontextmanager
    async def socket(
        self, path: str, token: str | None = None, **kwargs: Any
    ) -> "AsyncIterator[Socket]":
        """A WebSocket as a program opens it; raises InvalidStatus where it is denied."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= kwargs.pop("headers", {})
        kwargs.setdefault("open_timeout", 2 * DEADLINE)
        async with connect(
            self.ws_url + path, additional_headers=headers, proxy=None, **kwargs
        ) as connection:
            yield Socket(connection)

    def browser_socket(
        self, path: str, token: str | None = None, **kwargs: Any
    ) -> "AbstractAsyncContextManager[Socket]":
        """A WebSocket as a page of this server opens it: an Origin, and the token as protocol."""
        protocols = ["bearer", token] if token else None
        return self.socket(path, origin=self.url, subprotocols=protocols, **kwargs)


class Socket:
    """A WebSocket of a client, in terms of frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        #: Types of frames that are passed over, wherever frames are read.
        self.unheard: frozenset[str] = frozenset()

    async def send(
        self,
        kind: str,
        data: Any = None,
        *,
        ref: str | int | None = None,
        key: str | None = None,
    ) -> None:
        """Send the frame `{type, ref, key, data}`."""
        frame = {"type": kind, "ref": ref, "key": key, "data": data}
        await self.raw(json.dumps({k: v for k, v in frame.items() if v is not None}))

    async def raw(self, frame: str | bytes) -> None:
        """Send a frame as it is."""
        await self.connection.send(frame)

    async def frame(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(DEADLINE):
            return await self._next()

    async def _next(self) -> dict[str, Any]:
        while True:
            frame: dict[str, Any] = json.loads(await self.connection.recv())
            if frame["type"] not in self.unheard:
                return frame

    async def until(self, kind: str) -> dict[str, Any]:
        """The next frame of this type; those before it are passed over."""
        async with asyncio.timeout(DEADLINE):
            while True:
                frame = await self.frame()
                if frame["type"] == kind:
                    return frame

    async def ask(
        self, kind: str, data: Any = None, *, ref: str | int = "r", key: str | None = None
    ) -> dict[str, Any]:
        """Send a frame and return the one that answers it."""
        await self.send(kind, data, ref=ref, key=key)
        async with asyncio.timeout(DEADLINE):
            while True:
                frame = await self.frame()
                if frame.get("ref") == ref:
                    return frame

    async def ending(self) -> tuple[int, str, list[dict[str, Any]]]:
        """The close code, its reason, and the frames that came before it."""
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE):
            try:
                while True:
                    frames.append(await self._next())
            except ConnectionClosed:
                code = self.connection.close_code
                assert code is not None
                return code, self.connection.close_reason or "", frames
