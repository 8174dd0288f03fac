"""The life of one WebSocket that a Channel serves: read, handle in order, write, end.

Three tasks, all owned by `run`: a reader that never waits for a handler, a worker that handles one
frame after the other, and the one writer. Everybody else only puts frames into the outbox.
"""

import asyncio
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core.auth import SUBPROTOCOL, Principal, authenticate
from app.core.boundary import error_of
from app.core.errors import (
    AppError,
    InvalidParameter,
    TokenExpired,
    UnsupportedMediaType,
    invalid,
    to_app_error,
)
from app.core.observability import report
from app.core.schemas import Schema
from app.realtime.errors import (
    InboxOverflow,
    SlowConsumer,
    SubjectChanged,
    TooManyErrors,
    UnknownMessageType,
)
from app.realtime.messages import (
    Encoded,
    Envelope,
    InvalidFrame,
    Message,
    decode,
    encode,
)

if TYPE_CHECKING:
    from app.realtime.channel import Channel

M = TypeVar("M", bound=Schema)

FLUSH_SECONDS = 5  # for what waits in the outbox when a socket is ended
CLOSE_SECONDS = 1


class Refresh(Schema):
    """The data of `auth.refresh`."""

    token: str


class Outbox:
    """Frames on their way to one client, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[Encoded] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def put(self, frame: Encoded) -> bool:
        """Add a frame; False, and nothing added, where that would exceed the limit."""
        if self._size + frame.size > self._limit:
            return False
        self._frames.append(frame)
        self._size += frame.size
        self._filled.set()
        self._drained.clear()
        return True

    def replace(self, frame: Encoded) -> None:
        """Drop all that waits, and let `frame` be the last."""
        self._frames.clear()
        self._size = 0
        self._limit = max(self._limit, frame.size)
        self.put(frame)

    async def drained(self) -> None:
        """Wait until every frame has been written."""
        await self._drained.wait()

    async def write_to(self, websocket: WebSocket) -> None:
        """Write frames as they come, for ever."""
        while True:
            await self._filled.wait()
            while self._frames:
                frame = self._frames.popleft()
                self._size -= frame.size
                if isinstance(frame.payload, bytes):
                    await websocket.send_bytes(frame.payload)
                else:
                    await websocket.send_text(frame.payload)
            self._filled.clear()
            self._drained.set()


class Connection:
    """Runs one Channel over its WebSocket."""

    def __init__(self, channel: "Channel") -> None:
        self.channel = channel
        self.websocket = channel.websocket
        self.id = uuid4().hex
        state = self.websocket.app.state
        self._hub = state.hub
        self._tokens = state.tokens
        self._settings = state.settings
        self._principal: Principal | None = getattr(self.websocket.state, "principal", None)
        self._inbox: asyncio.Queue[Encoded] = asyncio.Queue(self._settings.ws_inbox_frames)
        self._outbox = Outbox(self._settings.ws_outbox_bytes)
        self._strikes = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._farewell: AppError | None = None
        self._close_code = 1005

    @property
    def subject(self) -> str | None:
        """Who is connected, where they are signed in."""
        return self._principal.subject if self._principal else None

    def deliver(self, frame: Encoded) -> None:
        """Put a frame into the outbox; a client that lets it run over is closed."""
        if self._farewell is None and not self._outbox.put(frame):
            self.end(SlowConsumer())

    def end(self, exc: Exception, ref: Any = None) -> None:
        """Tell the client the error, once what waits has been written, and close. Does not wait."""
        if self._farewell is not None:
            return
        error, problem = error_of(self.websocket, exc)
        self._farewell = error
        self.websocket.state.error = error.code
        frame = encode("error", problem, ref=ref)
        if isinstance(error, SlowConsumer) or not self._outbox.put(frame):
            self._outbox.replace(frame)
        self._ended.set()

    async def run(self) -> None:
        """Serve the channel until either side ends it.

        An AppError before the handshake is accepted is raised, for the door to answer.
        """
        address = self.channel.address()
        self.deliver(self._welcome())  # before subscribing, or an event could be the first frame
        unsubscribe = self._hub.subscribe(address, self) if address else None
        try:
            if address:
                # Subscribed first and checked again then, so that no revocation falls in between.
                await self.channel.authorise()
            await self.websocket.accept(self._subprotocol())
            self._watch_expiry()
            try:
                await self._serve()
            finally:
                await self._close()
        finally:
            if unsubscribe:
                unsubscribe()
            if self._expiry:
                self._expiry.cancel()

    def _welcome(self) -> Encoded:
        expires_at = self._principal.expires_at if self._principal else None
        return encode("welcome", {"connection": self.id, "expires_at": expires_at})

    def _subprotocol(self) -> str | None:
        offered: list[str] = self.websocket.scope.get("subprotocols", [])
        spoken = (*self.channel.subprotocols, SUBPROTOCOL)
        # The client's order decides; `bearer` is only echoed where nothing else is spoken.
        chosen = [name for name in offered if name in spoken]
        return min(chosen, key=lambda name: name == SUBPROTOCOL, default=None)

    def _watch_expiry(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        if self._principal:
            left = (self._principal.expires_at - datetime.now(UTC)).total_seconds()
            left += self._settings.token_leeway_seconds
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(0.0, left), self.end, TokenExpired())

    async def _serve(self) -> None:
        tasks = [
            asyncio.create_task(part, name=f"{name} {self.id}")
            for name, part in (
                ("read", self._read()),
                ("work", self._work()),
                ("write", self._outbox.write_to(self.websocket)),
                ("end", self._ended.wait()),
            )
        ]
        reader, worker, writer, _ = tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await _stop(reader, worker)
            self._tell_of_crash(reader, worker)
            if self._farewell is not None and not writer.done():
                with suppress(TimeoutError):
                    slow = isinstance(self._farewell, SlowConsumer)
                    limit = CLOSE_SECONDS if slow else FLUSH_SECONDS
                    await asyncio.wait_for(self._outbox.drained(), limit)
        finally:
            await _stop(*tasks)

    def _tell_of_crash(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            exc = None if task.cancelled() else task.exception()
            if isinstance(exc, Exception) and not isinstance(exc, (WebSocketDisconnect, OSError)):
                self.end(exc)

    async def _close(self) -> None:
        if self._farewell is not None:
            self._close_code = self._farewell.close_code
            with suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                closing = self.websocket.close(self._close_code, self._farewell.code)
                await asyncio.wait_for(closing, CLOSE_SECONDS)
        try:
            await self.channel.closed(self._close_code)
        except Exception as exc:
            report(exc)

    async def _read(self) -> None:
        """Take frames as they come, so that pings are answered while a handler is busy."""
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._close_code = message.get("code") or 1005
                return
            text = message.get("text")
            frame = Encoded.of(message["bytes"] if text is None else text)
            try:
                self._inbox.put_nowait(frame)
            except asyncio.QueueFull:
                self._refuse(InboxOverflow(), _ref_in(frame))

    async def _work(self) -> None:
        try:
            await self.channel.opened()
        except Exception as exc:
            self.end(exc)
        while True:
            frame = await self._inbox.get()
            if self._farewell is not None:
                return  # who is being closed has nothing more done for them
            if isinstance(frame.payload, bytes):
                await self._handle(None, frame.payload)
                continue
            try:
                envelope = decode(frame.payload)
            except InvalidFrame as refused:
                self._refuse(refused.error, refused.ref)
            else:
                await self._handle(envelope, None)

    async def _handle(self, envelope: Envelope | None, data: bytes | None) -> None:
        ref = envelope.ref if envelope else None
        try:
            reply = await self._dispatch(envelope, data)
        except (InvalidParameter, UnknownMessageType, UnsupportedMediaType) as refused:
            self._refuse(refused, ref)
        except Exception as exc:
            error = to_app_error(exc)
            if error.status >= 500 and not error.retryable:
                self.end(exc, ref)
            else:
                self._strikes = 0  # the frame was valid, and only refused
                self._answer_error(exc, ref)
        else:
            self._strikes = 0
            if reply is not None:
                self.deliver(reply)

    async def _dispatch(self, envelope: Envelope | None, data: bytes | None) -> Encoded | None:
        handlers = self.channel.__handlers__
        if envelope is None:
            if handler := handlers.get(""):
                return _reply(await handler.function(self.channel, data), None)
            raise UnsupportedMediaType("This channel takes text frames.")
        if envelope.type == "ping":
            return encode("pong", ref=envelope.ref)
        if envelope.type == "auth.refresh":
            return await self._refresh(envelope)
        handler = handlers.get(envelope.type)
        if handler is None or handler.model is None:
            raise UnknownMessageType
        message = _validated(handler.model, envelope)
        return _reply(await handler.function(self.channel, message), envelope.ref)

    async def _refresh(self, envelope: Envelope) -> Encoded:
        token = _validated(Refresh, envelope).token
        principal = authenticate(self._tokens, token)
        if principal.subject != self.subject:
            raise SubjectChanged
        self.websocket.state.token = token
        self._principal = principal
        self._watch_expiry()
        try:
            await self.channel.authorise()
        except Exception as exc:
            self.end(exc, envelope.ref)
        return encode("auth.refreshed", {"expires_at": principal.expires_at}, ref=envelope.ref)

    def _answer_error(self, exc: Exception, ref: Any) -> None:
        _, problem = error_of(self.websocket, exc)
        self.deliver(encode("error", problem, ref=ref))

    def _refuse(self, error: AppError, ref: Any) -> None:
        """Answer a frame that was not valid, and count it; too many in a row end the socket."""
        self._answer_error(error, ref)
        self._strikes += 1
        if self._strikes >= self._settings.ws_max_strikes:
            self.end(TooManyErrors())


def _validated(model: type[M], envelope: Envelope) -> M:
    try:
        return model.model_validate({} if envelope.data is None else envelope.data)
    except ValidationError as error:
        raise invalid(error.errors(), prefix=("data",)) from None


def _ref_in(frame: Encoded) -> str | int | None:
    try:
        return decode(frame.payload).ref if isinstance(frame.payload, str) else None
    except InvalidFrame as refused:
        return refused.ref


def _reply(result: Any, ref: Any) -> Encoded | None:
    """What a handler returned, as a frame; nothing at all is acknowledged where it has a `ref`."""
    if result is None:
        return encode("ack", ref=ref) if ref is not None else None
    if isinstance(result, Message):
        return encode(result.type, result, ref=ref)
    return Encoded.of(result)


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
