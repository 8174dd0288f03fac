"""Topics: names of what is told, with the type of the events told there."""

import re
from dataclasses import dataclass
from datetime import timedelta
from types import UnionType
from typing import Generic, TypeVar, Union, get_args, get_origin

from app.core.errors import NotFound
from app.realtime.messages import Message

E = TypeVar("E", bound=Message)

PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
VALUE = re.compile(r"[^:/]+")
MAX_NAME = 512


@dataclass(frozen=True, slots=True)
class Address(Generic[E]):
    """One topic, filled in: `rooms:7`."""

    topic: "Topic[E]"
    name: str


class Topic(Generic[E]):
    """A family of topics, as `Topic[Posted | Joined]("rooms:{room_id}")`.

    Publishing an event of another type is an error of types, and raises TypeError at run time.

    Args:
        pattern: the names, with a placeholder for each value.
        durable: record the events, so that a client can resume after the last one it has seen.
        keep: how many events a client may have missed, where durable; older ones are removed.
        keep_for: how long an event is kept, where durable.
    """

    def __init__(
        self,
        pattern: str,
        *,
        durable: bool = False,
        keep: int = 1000,
        keep_for: timedelta = timedelta(days=7),
    ) -> None:
        if keep < 1 or keep_for <= timedelta(0):
            raise ValueError(f"{pattern!r} keeps nothing: leave durable out instead")
        self.pattern = pattern
        self.durable = durable
        self.keep = keep
        self.keep_for = keep_for
        self.placeholders = tuple(PLACEHOLDER.findall(pattern))
        literal = PLACEHOLDER.sub("", pattern)
        # One to a part: of `{a}{b}` or `{a}-{b}` two fillings could give one name.
        crowded = any(len(PLACEHOLDER.findall(part)) > 1 for part in pattern.split(":"))
        repeated = len(set(self.placeholders)) < len(self.placeholders)
        if not pattern or crowded or repeated or any(mark in literal for mark in "{}/"):
            raise ValueError(f"{pattern!r} is not a topic such as 'rooms:{{room_id}}'")
        named = (re.escape(part) for part in PLACEHOLDER.split(pattern)[::2])
        self._regex = re.compile(f"({VALUE.pattern})".join(named))

    def at(self, **values: object) -> Address[E]:
        """The topic for these values.

        Raises NotFound where a value cannot stand in a name: so `a:b` never means two things.
        """

        def value_of(placeholder: re.Match[str]) -> str:
            value = str(values[placeholder[1]])
            if not VALUE.fullmatch(value):
                raise NotFound
            return value

        name = PLACEHOLDER.sub(value_of, self.pattern)
        if len(name) > MAX_NAME:
            raise NotFound
        return Address(self, name)

    def parse(self, name: str) -> dict[str, str] | None:
        """The values, as text, that render to `name`; None where it is no name of this topic."""
        match = self._regex.fullmatch(name)
        return dict(zip(self.placeholders, match.groups(), strict=True)) if match else None

    @property
    def events(self) -> tuple[type[Message], ...]:
        """The types of the events, as the subscript names them."""
        # typing leaves the subscript on the instance, after __init__.
        (event,) = get_args(getattr(self, "__orig_class__", Topic[Message]))
        if get_origin(event) in (Union, UnionType):
            return get_args(event)
        return (event,) if isinstance(event, type) else (Message,)

    def __repr__(self) -> str:
        return f"Topic({self.pattern!r})"
