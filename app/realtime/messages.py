"""Messages and the envelope that carries them: `{type, ref?, data}`."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StrictInt, StrictStr, ValidationError
from pydantic_core import from_json, to_json

from app.core.errors import AppError, MalformedBody, invalid
from app.core.schemas import Schema

TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
RESERVED_TYPES = frozenset({"ack", "auth.refresh", "auth.refreshed", "error", "ping", "pong",
                            "welcome"})  # fmt: skip

Ref = Annotated[StrictStr, Field(max_length=64)] | Annotated[StrictInt, Field(ge=0, lt=2**53)]


class Message(Schema):
    """A body for both doors: REST's JSON, and the `data` of a frame whose `type` it names.

    class PostDraft(Message):
        type = "post"
        text: str
    """

    type: ClassVar[str]

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


class Envelope(Schema):
    """What a client sends: a message's type, its data, and a `ref` that the reply repeats."""

    type: str = Field(min_length=1, max_length=64)
    ref: Ref | None = None
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
