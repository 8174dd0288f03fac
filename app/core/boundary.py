"""Both doors' way out: any exception becomes the registered error, as HTTP or as frame and close.

Before a WebSocket is accepted, a browser (a client that sends Origin) is accepted, told in a frame
and closed with the code, since it cannot read a refused handshake; any other client, and whatever
`denies_handshake`, gets the HTTP status and problem+json.
"""

import asyncio
import json
import traceback
from contextlib import suppress
from typing import Any

import anyio
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from app.core.auth import CREDENTIAL_SUBPROTOCOLS
from app.core.connections import OpenConnection, OpenConnections
from app.core.errors import (
    AppError,
    InternalError,
    MalformedBody,
    Restarting,
    TokenExpired,
    UnsupportedMediaType,
    to_app_error,
)
from app.core.metrics import count_error
from app.core.observability import report

PROBLEM_JSON = "application/problem+json"

# What these cannot read in a bare WebSocket function is the client's doing.
READERS = {
    method.__code__
    for method in (WebSocket.receive_json, WebSocket.receive_text, WebSocket.receive_bytes)
}


class ProblemResponse(Response):
    """An error as `application/problem+json`."""

    media_type = PROBLEM_JSON

    def __init__(self, error: AppError, problem: dict[str, Any]) -> None:
        super().__init__(to_json(problem), error.status, headers=dict(error.headers))


def to_json(content: Any) -> bytes:
    """`content` as UTF-8 JSON; a lone surrogate, which UTF-8 cannot hold, becomes `?`."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def error_of(connection: HTTPConnection, exc: Exception) -> tuple[AppError, dict[str, Any]]:
    """The registered error for `exc` and its representation at this connection.

    In development an unexpected error carries its traceback. Under test, an error that the
    operation has not declared with `@raises` becomes an unexpected one.
    """
    error = to_app_error(exc)
    settings = connection.app.state.settings
    if settings.environment == "test" and not error.everywhere:
        declared = connection.app.state.declared_errors(connection.scope.get("endpoint"))
        if type(error) not in declared:
            exc = RuntimeError(f"{type(error).__name__} is raised and not declared with @raises")
            error = InternalError(str(exc))
    report(exc)
    count_error(error.code, "rest" if connection.scope["type"] == "http" else "ws")
    problem = error.problem(
        instance=connection.scope["path"],
        request_id=getattr(connection.state, "request_id", None),
    )
    problem["type"] = settings.root_path + problem["type"]  # it has to resolve behind a proxy
    if settings.environment == "development" and isinstance(error, InternalError):
        problem["traceback"] = traceback.format_exception(exc)
    return error, problem


async def answer(connection: HTTPConnection, exc: Exception) -> Response | None:
    """The exception handler of both doors: returns the HTTP response, or ends the WebSocket."""
    if isinstance(exc, WebSocketDisconnect):
        return None
    if isinstance(exc, HTTPException) and exc.status_code < 400 and isinstance(connection, Request):
        return await http_exception_handler(connection, exc)  # a redirect is no error
    error, problem = error_of(connection, exc)
    connection.state.error = error.code
    if isinstance(connection, WebSocket):
        await refuse(connection, error, problem)
        return None
    return ProblemResponse(error, problem)


async def refuse(websocket: WebSocket, error: AppError, problem: dict[str, Any]) -> None:
    """End a WebSocket with an error, wherever in its life it is."""
    with suppress(WebSocketDisconnect, OSError):
        if websocket.application_state == WebSocketState.CONNECTING:
            browser = "origin" in websocket.headers
            if error.denies_handshake or not browser:
                await websocket.send_denial_response(ProblemResponse(error, problem))
                return
            offered = websocket.scope.get("subprotocols", [])
            # A browser takes no answer that speaks none of what it has offered.
            known = (name for name in offered if name in CREDENTIAL_SUBPROTOCOLS)
            await websocket.accept(next(known, None))
        if websocket.application_state == WebSocketState.CONNECTED:
            frame = to_json({"type": "error", "data": problem})
            await websocket.send_text(frame.decode())
            await websocket.close(error.close_code, error.code)


class ErrorBoundary:
    """ASGI middleware: no exception passes, and no WebSocket ends without a close frame."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        request = Request(scope, receive)
        try:
            await self.app(scope, receive, watching_send)
        except (Exception, asyncio.CancelledError) as raised:
            exc = _reason(request, raised)
            if started and _nobody_reads(exc):
                return
            if started:
                report(exc)
                raise  # half an answer is out: the server cuts the connection
            response = await answer(request, exc)
            if response:
                await response(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A second WebSocket over the same connection, kept in the state that the first is in.
        shadow = WebSocket(scope, receive, send)
        run = _Run(shadow)
        exc: Exception | None = None
        try:
            await run.to_its_end(self.app)
        except WebSocketDisconnect:
            pass
        except (Exception, asyncio.CancelledError) as raised:
            exc = _blame(_reason(shadow, raised))
        try:
            await self._end(shadow, run.error or exc)
        finally:
            run.connections.discard(run.connection)

    async def _end(self, shadow: WebSocket, exc: Exception | None) -> None:
        """End a WebSocket whose application has returned, or raised `exc`, or was ended with it."""
        if exc is None and shadow.application_state == WebSocketState.CONNECTING:
            exc = RuntimeError("The endpoint returned and accepted nothing.")
        if shadow.client_state == WebSocketState.DISCONNECTED:
            if exc is not None and not _is_disconnect(exc):
                report(exc)
        elif exc is not None:
            await answer(shadow, exc)
        elif shadow.application_state == WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, OSError):
                await shadow.close()


class _Run:
    """An application at work on a WebSocket, which can be ended from outside.

    Until somebody takes the connection over (`scope["duplex.connection"].end = …`), its end is to
    cancel the application, and it ends by itself when the token of its principal expires.
    """

    def __init__(self, shadow: WebSocket) -> None:
        self.connections: OpenConnections = shadow.app.state.connections
        self.connection = OpenConnection(shadow.scope, self.end)
        self.error: AppError | None = None
        self._shadow = shadow
        self._timeout = asyncio.timeout(None)  # cancels the application when it is rescheduled
        self._expiry: asyncio.TimerHandle | None = None
        shadow.scope["duplex.connection"] = self.connection

    async def to_its_end(self, app: ASGIApp) -> None:
        """Run the application; raises what it raises, or TimeoutError where it was ended."""
        try:
            async with self._timeout:
                self.connections.add(self.connection)
                await app(self._shadow.scope, self._shadow.receive, self._send)
        finally:
            if self._expiry:
                self._expiry.cancel()

    def end(self, error: AppError) -> None:
        """Have the application cancelled, for the client to be told `error`. Does not wait."""
        if self.error is None:
            self.error = error
            with suppress(RuntimeError):  # it is at its end already
                self._timeout.reschedule(0)

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self._watch_expiry()
        try:
            await self._shadow.send(message)
        except OSError:  # Starlette says so once a socket is open, and not before
            raise WebSocketDisconnect(1006) from None

    def _watch_expiry(self) -> None:
        """Look at the principal when its token should have expired: there may be a newer one."""
        principal = self.connection.principal
        if principal is None or self.connection.end != self.end:
            return
        left = principal.seconds_left(self._shadow.app.state.settings.token_leeway)
        if left > 0:
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(left, self._watch_expiry)
        else:
            self.end(TokenExpired())


def _reason(connection: HTTPConnection, exc: BaseException) -> Exception:
    """What the client is told of `exc`: of a cancellation at the server's end, why."""
    if isinstance(exc, Exception):
        return exc
    if connection.app.state.connections.draining:
        return Restarting("It took longer than there was time for.")
    raise exc


def _blame(exc: Exception) -> Exception:
    """What a frame is that `receive_json()` and its like cannot read: the client's error."""
    if any(frame.f_code in READERS for frame, _ in traceback.walk_tb(exc.__traceback__)):
        if isinstance(exc, KeyError):
            return UnsupportedMediaType("This kind of frame is not taken here.")
        if isinstance(exc, (ValueError, RecursionError)):
            return MalformedBody()
    return exc


def _nobody_reads(exc: BaseException) -> bool:
    """Whether a response only met the end of its client, as FastAPI's server-sent events do."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_nobody_reads(each) for each in exc.exceptions)
    return isinstance(exc, anyio.BrokenResourceError)


def _is_disconnect(exc: Exception) -> bool:
    return isinstance(exc, (OSError, WebSocketDisconnect))
