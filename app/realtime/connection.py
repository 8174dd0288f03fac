"""The life of one WebSocket that a Channel serves: read, handle in order, write, end.

Three tasks, all owned by `run`: a reader that never waits for a handler, a worker that handles one
frame after the other, and the one writer. Everybody else only puts frames into the outbox.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from uuid import uuid4

from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from app.core.auth import Principal, authenticate
from app.core.boundary import error_of
from app.core.errors import (
    AppError,
    InvalidParameter,
    RateLimited,
    TokenExpired,
    UnsupportedMediaType,
    invalid,
    to_app_error,
)
from app.core.limits import Limit, Limits
from app.core.metrics import count_eviction, count_frame
from app.core.observability import report
from app.core.schemas import Schema
from app.core.tracing import Tracing
from app.realtime.errors import (
    InboxOverflow,
    SlowConsumer,
    SubjectChanged,
    TooManyErrors,
    UnknownMessageType,
)
from app.realtime.feed import Opening, Subscription
from app.realtime.handshake import chosen_subprotocol
from app.realtime.messages import (
    Broadcast,
    Encoded,
    Envelope,
    InvalidFrame,
    Message,
    decode,
    encode,
)
from app.realtime.outbox import Outbox
from app.realtime.presence import Member
from app.realtime.topics import Address

if TYPE_CHECKING:
    from app.realtime.channel import Channel

M = TypeVar("M", bound=Schema)
Outcome = Literal["ok", "refused", "limited", "failed"]

PRESENT_AT_MOST = 500  # members in one answer
FLUSH_SECONDS = 5  # for what waits in the outbox when a socket is ended
CLOSE_SECONDS = 1
BUILT_IN = frozenset({"ping", "auth.refresh", "presence"})
UNREAD = "unread"  # counted as the type of a frame that nobody looked into


class Refresh(Schema):
    """The data of `auth.refresh`."""

    token: str


class Connection:
    """Runs one Channel over its WebSocket."""

    def __init__(self, channel: "Channel") -> None:
        self.channel = channel
        self.websocket = channel.websocket
        self.id = uuid4().hex
        state = self.websocket.app.state
        self._hub = state.hub
        self._verifier = state.verifier
        self._revocations = state.revocations
        self._limits: Limits = state.limits
        self._settings = state.settings
        self._tracing: Tracing = state.tracing
        self._principal: Principal | None = getattr(self.websocket.state, "principal", None)
        # None: the guards are asked again.
        self._inbox: asyncio.Queue[Encoded | None] = asyncio.Queue(self._settings.ws_inbox_frames)
        self._outbox = Outbox(self._settings.ws_outbox_bytes, channel.overflow)
        self._template = state.template_of(self.websocket.scope["endpoint"])
        self._subscription: Subscription | None = None
        self._leave: Callable[[], None] | None = None
        self._strikes = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._recheck: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._farewell: AppError | None = None
        self._close_code = 1005

    @property
    def subject(self) -> str | None:
        """Who is connected, where they are signed in."""
        return self._principal.subject if self._principal else None

    def deliver(self, broadcast: Broadcast) -> None:
        """Take a broadcast; a client that lets too much wait is treated as its channel declares."""
        if self._farewell is None and not self._outbox.tell(broadcast):
            self.end(SlowConsumer())

    def _send(self, frame: Encoded) -> None:
        if self._farewell is None and not self._outbox.put(frame):
            self.end(SlowConsumer())

    def end(self, exc: Exception, ref: Any = None) -> None:
        """Tell the client the error, once what waits has been written, and close. Does not wait."""
        if self._farewell is not None:
            return
        error, problem = error_of(self.websocket, exc)
        self._farewell = error
        if isinstance(error, SlowConsumer):
            count_eviction("outbox")
        self.websocket.state.error = error.code
        frame = encode("error", problem, ref=ref)
        if isinstance(error, SlowConsumer) or not self._outbox.put(frame):
            self._outbox.replace(frame)
        self._ended.set()

    async def run(self) -> None:
        """Serve the channel until either side ends it.

        An AppError before the handshake is accepted is raised, for the door to answer.
        """
        if admit := self.websocket.scope.get("duplex.admit"):
            admit()  # before anything is written: a writer could tell nobody of the refusal
        await self._count(self.channel.handshakes)
        opened = self.websocket.scope.get("duplex.connection")
        if opened is not None:
            opened.end = self.end  # from here on this knows best how to
        address = self.channel.address()
        self._hub.outboxes.add(self._outbox)
        try:
            opening = await self._subscribe(address) if address else Opening(None, None)
            self._send(self._welcome(opening))
            if self.websocket.application_state == WebSocketState.CONNECTING:  # or it proved first
                spoken = self.channel.subprotocols
                await self.websocket.accept(chosen_subprotocol(self.websocket, spoken))
            self._watch_expiry()
            self._watch_guards()
            try:
                await self._serve()
            finally:
                await self._close()
        finally:
            self._hub.outboxes.discard(self._outbox)
            for timer in (self._expiry, self._recheck):
                if timer:
                    timer.cancel()
            if self._leave:
                self._leave()
            if self._subscription:
                self._subscription.cancel()

    async def _subscribe(self, address: Address[Any]) -> Opening:
        self._subscription = self._hub.subscribe(address, self)
        # Subscribed first and checked again then, so that no revocation falls in between.
        await self.channel.authorise()
        return await self._subscription.open(self.channel.since)

    def _welcome(self, opening: Opening) -> Encoded:
        expires_at = self._principal.expires_at if self._principal else None
        data: dict[str, Any] = {"connection": self.id, "expires_at": expires_at}
        if opening.position:
            data |= {"epoch": opening.position.epoch, "offset": opening.position.offset}
        if opening.recovered is not None:
            data["recovered"] = opening.recovered
        return encode("welcome", data)

    def _watch_expiry(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        if self._principal:
            left = self._principal.seconds_left(self._settings.token_leeway)
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(0.0, left), self.end, TokenExpired())

    def _watch_guards(self) -> None:
        """Have the guards asked again from time to time, between two frames."""

        def ask() -> None:
            with suppress(asyncio.QueueFull):  # so busy a client is asked again later
                self._inbox.put_nowait(None)
            self._watch_guards()

        # Not all at the same moment, where many have connected at one.
        seconds = self._settings.ws_authorise_seconds * random.uniform(0.7, 1)  # noqa: S311
        self._recheck = asyncio.get_running_loop().call_later(seconds, ask)

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
                    async with asyncio.timeout(limit):
                        await self._outbox.drained()
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
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.websocket.close(self._close_code, self._farewell.code)
            except TimeoutError:
                # What it does not read would keep the connection, and its memory, until it does.
                if abort := self.websocket.scope.get("duplex.abort"):
                    abort()
            except (WebSocketDisconnect, RuntimeError, OSError):
                pass
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
                count_frame(self._template, UNREAD, "limited", 0)
                self._refuse(InboxOverflow(), _ref_in(frame))

    async def _work(self) -> None:
        try:
            await self._enter()
            await self.channel.opened()
        except Exception as exc:
            self.end(exc)
        while True:
            frame = await self._inbox.get()
            if self._farewell is not None:
                return  # who is being closed has nothing more done for them
            if frame is None:
                await self._authorise()
                continue
            started = time.perf_counter()
            kind, outcome = await self._take(frame)
            count_frame(self._template, kind, outcome, time.perf_counter() - started)

    async def _take(self, frame: Encoded) -> tuple[str, Outcome]:
        """Handle a frame; returns what it is counted as: its type, and how it ended."""
        try:
            await self._count(self._limits.client)
        except RateLimited as refused:
            self._answer_error(refused, _ref_in(frame))
            return UNREAD, "limited"
        if isinstance(frame.payload, bytes):
            return "binary", await self._handle(None, frame.payload)
        try:
            envelope = decode(frame.payload)
        except InvalidFrame as refused:
            self._refuse(refused.error, refused.ref)
            return "invalid", "refused"
        known = envelope.type in BUILT_IN or envelope.type in self.channel.__handlers__
        return envelope.type if known else "unknown", await self._handle(envelope, None)

    async def _count(self, limit: Limit | None) -> None:
        if limit is not None:
            await self._limits.hit_by(limit, self.websocket.scope)

    async def _enter(self) -> None:
        """Deliver what the client missed, and let it be seen by the others."""
        if self._subscription is None:
            return
        await self._subscription.catch_up(self._outbox.drained)
        info = self.channel.presence()
        address = self.channel.address()
        if info is not None and address is not None:
            told = info.model_dump(mode="json")
            member = Member(connection=self.id, subject=self.subject, info=told)
            self._leave = self._hub.enter(address, member)

    async def _authorise(self) -> None:
        """Ask the guards again; a client that they refuse now is closed."""
        try:
            await self.channel.authorise()
        except Exception as exc:
            if to_app_error(exc).status != 503:  # that says nothing of the client: ask later
                self.end(exc)
        else:
            # A cookie's session lasts longer for being used.
            self._principal = getattr(self.websocket.state, "principal", self._principal)
            self._watch_expiry()

    async def _handle(self, envelope: Envelope | None, data: bytes | None) -> Outcome:
        ref = envelope.ref if envelope else None
        try:
            reply = await self._dispatch(envelope, data)
        except (InvalidParameter, UnknownMessageType, UnsupportedMediaType) as refused:
            self._refuse(refused, ref)
            return "refused"
        except RateLimited as refused:
            self._answer_error(refused, ref)  # no strike, and it forgives none
            return "limited"
        except Exception as exc:
            error = to_app_error(exc)
            if error.status >= 500 and not error.retryable:
                self.end(exc, ref)
            else:
                self._strikes = 0  # the frame was valid, and only refused
                self._answer_error(exc, ref)
            return "failed" if error.status >= 500 else "refused"
        self._strikes = 0
        if reply is not None:
            self._send(reply)
        return "ok"

    async def _dispatch(self, envelope: Envelope | None, data: bytes | None) -> Encoded | None:
        handlers = self.channel.__handlers__
        if envelope is None:
            if binary := handlers.get(""):
                await self._count(binary.limit)
                with self._tracing.message(type(self.channel).__name__, "binary"):
                    return _reply(await binary.function(self.channel, data), None)
            raise UnsupportedMediaType("This channel takes text frames.")
        if envelope.type == "ping":
            return encode("pong", ref=envelope.ref)
        if envelope.type == "auth.refresh":
            return await self._refresh(envelope)
        if envelope.type == "presence" and self._leave:
            return self._who_is_here(envelope)
        handler = handlers.get(envelope.type)
        if handler is None or handler.model is None:
            raise UnknownMessageType
        await self._count(handler.limit)
        message = _validated(handler.model, envelope)
        if envelope.key is not None and not handler.takes_key:
            raise InvalidParameter("This message takes no key.")
        key = {"key": envelope.key} if handler.takes_key else {}
        with self._tracing.message(type(self.channel).__name__, envelope.type):
            reply = await handler.function(self.channel, message, **key)
        return _reply(reply, envelope.ref)

    def _who_is_here(self, envelope: Envelope) -> Encoded:
        address = self.channel.address()
        members = self._hub.presence(address) if address else []
        told = [member.model_dump() for member in members[:PRESENT_AT_MOST]]
        return encode("presence", {"members": told, "count": len(members)}, ref=envelope.ref)

    async def _refresh(self, envelope: Envelope) -> Encoded:
        token = _validated(Refresh, envelope).token
        principal = await authenticate(self._verifier, token, self._revocations)
        if principal.subject != self.subject:
            raise SubjectChanged
        self.websocket.state.token = token
        self._principal = principal
        self._watch_expiry()
        try:
            await self.channel.authorise()
        except Exception as exc:  # what the fields say is true of the old token alone
            self.end(exc, envelope.ref)
        return encode("auth.refreshed", {"expires_at": principal.expires_at}, ref=envelope.ref)

    def _answer_error(self, exc: Exception, ref: Any) -> None:
        _, problem = error_of(self.websocket, exc)
        self._send(encode("error", problem, ref=ref))

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
        position = result.log_position
        return encode(result.type, result, ref=ref, offset=position.offset if position else None)
    return Encoded.of(result)


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
