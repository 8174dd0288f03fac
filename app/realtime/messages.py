"""Messages and the envelope that carries them: `{type, ref?, data}`."""

import re
import time
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json, to_json

from app.core.errors import AppError, MalformedBody, invalid
from app.core.schemas import Schema

TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
RESERVED_TYPES = frozenset({"ack", "auth.csrf", "auth.refresh", "auth.refreshed", "error", "ping",
                            "pong", "presence", "presence.changed", "welcome"})  # fmt: skip

Key = Annotated[StrictStr, Field(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")]
Ref = Annotated[StrictStr, Field(max_length=64)] | Annotated[StrictInt, Field(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a topic: after the event of this offset. Offsets mean something in their epoch."""

    epoch: str
    offset: int


#: Before the first event of a topic that has had none.
START = Position("", 0)


class Message(Schema):
    """A body for both doors: REST's JSON, and the `data` of a frame whose `type` it names.

    class PostDraft(Message):
        type = "post"
        text: str
    """

    type: ClassVar[str]
    #: Raised when the fields change: events that are stored in an older form pass `upgrade` first.
    schema_version: ClassVar[int] = 1
    #: Fields that say what an event is about, where only the newest matters (Overflow.COALESCE).
    latest_by: ClassVar[tuple[str, ...]] = ()

    _log_position: Position | None = PrivateAttr(None)

    @property
    def log_position(self) -> Position | None:
        """Where this event is in its topic, once the unit of work that published it commits."""
        return self._log_position

    def with_log_position(self, epoch: str, offset: int) -> Self:
        """This event, which was recorded there."""
        self._log_position = Position(epoch, offset)
        return self

    @classmethod
    def upgrade(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """The fields of an event that was stored as `version`, as this version has them."""
        return data

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        name = getattr(cls, "type", None)
        if not isinstance(name, str) or not TYPE_PATTERN.fullmatch(name):
            raise TypeError(f"{cls.__name__}: a message needs a type, as in `type = 'post'`")
        if name in RESERVED_TYPES:
            raise TypeError(f"{cls.__name__}: the type {name!r} is the engine's own")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame as it is sent, and its size in bytes: encoded once for everyone it goes to."""

    payload: str | bytes
    size: int

    @classmethod
    def of(cls, payload: str | bytes) -> Self:
        size = len(payload if isinstance(payload, bytes) else payload.encode())
        return cls(payload, size)


def encode(kind: str, data: Any = None, **members: Any) -> Encoded:
    """The frame `{type, …members, data}` of a type; members that are None are left out."""
    envelope = {"type": kind} | {k: v for k, v in members.items() if v is not None}
    if data is not None:
        envelope["data"] = data
    raw = to_json(envelope)
    return Encoded(raw.decode(), len(raw))


class Broadcast:
    """Something that every subscriber of a topic is told, encoded once for all of them."""

    __slots__ = ("_frame",)

    #: Where two of one key wait for the same client, only the newer is sent (Overflow.COALESCE).
    latest: str | None = None

    def __init__(self) -> None:
        self._frame: Encoded | None = None

    @property
    def frame(self) -> Encoded:
        """As plain sockets are sent it."""
        if self._frame is None:
            self._frame = self.encode()
        return self._frame

    def encode(self) -> Encoded:
        """The frame."""
        raise NotImplementedError


class Publication(Broadcast):
    """An event of a topic, in JSON, and its position where the topic is durable.

    `at` is when it was recorded, or published where nothing is, in seconds since 1970; `trace` is
    the trace context (W3C traceparent) of whoever published it, where there is one.
    """

    __slots__ = ("at", "data", "latest", "position", "topic", "trace", "type")

    def __init__(
        self,
        topic: str,
        kind: str,
        data: bytes,
        position: Position | None = None,
        latest: str | None = None,
        at: float | None = None,
        trace: str | None = None,
    ) -> None:
        super().__init__()
        self.at = time.time() if at is None else at
        self.topic = topic
        self.type = kind
        self.data = data
        self.position = position
        self.latest = latest
        self.trace = trace  # of whoever published it: a `traceparent`

    @classmethod
    def of(cls, topic: str, event: Message) -> Self:
        """An event that is published now."""
        about = [str(getattr(event, name)) for name in event.latest_by]
        latest = ":".join((topic, event.type, *about)) if about else None
        return cls(topic, event.type, event.model_dump_json().encode(), None, latest)

    def encode(self) -> Encoded:
        """`{type, topic, offset?, data}`."""
        head = {"type": self.type, "topic": self.topic}
        offset = b',"offset":%d' % self.position.offset if self.position else b""
        raw = b'%b%b,"data":%b}' % (to_json(head)[:-1], offset, self.data)
        return Encoded(raw.decode(), len(raw))

    def pack(self) -> bytes:
        """For the way to other processes."""
        epoch, offset = (self.position.epoch, self.position.offset) if self.position else (None, 0)
        head = [self.type, epoch, offset, self.latest, self.at, self.trace]
        return to_json(head) + b"\n" + self.data

    @classmethod
    def unpack(cls, topic: str, packed: bytes) -> Self:
        """What `pack` has packed. Raises ValueError for anything else."""
        head, _, data = packed.partition(b"\n")
        # A newer version of this may tell more, and an older one told neither time nor trace.
        kind, epoch, offset, latest, *more = from_json(head)
        at, trace = [*more, None, None][:2]
        position = None if epoch is None else Position(epoch, offset)
        return cls(topic, kind, data, position, latest, at, trace)


class Envelope(Schema):
    """What a client sends: a message's type, its data, and a `ref` that the reply repeats.

    With a `key` the message is done once, however often it is sent.
    """

    type: str = Field(min_length=1, max_length=64)
    ref: Ref | None = None
    key: Key | None = None
    data: Any = None


class InvalidFrame(Exception):
    """A frame that is not an envelope: the error to answer with, and its `ref` if it has one."""

    def __init__(self, error: AppError, ref: str | int | None = None) -> None:
        super().__init__(error.code)
        self.error = error
        self.ref = ref


def decode(text: str) -> Envelope:
    """The envelope in a text frame. Raises InvalidFrame."""
    try:
        # Not json.loads: that takes NaN, and a hundred thousand brackets end it.
        content = from_json(text, allow_inf_nan=False)
    except ValueError:
        raise InvalidFrame(MalformedBody()) from None
    try:
        return Envelope.model_validate(content)
    except ValidationError as error:
        raise InvalidFrame(invalid(error.errors()), ref_of(content)) from None


def ref_of(content: Any) -> str | int | None:
    """The `ref` of something that may not be an envelope."""
    ref = content.get("ref") if isinstance(content, dict) else None
    if isinstance(ref, str) and len(ref) <= 64:
        return ref
    return ref if type(ref) is int and 0 <= ref < 2**53 else None
