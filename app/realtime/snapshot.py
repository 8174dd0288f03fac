"""Lists over REST that a subscription can be joined to without a gap."""

from typing import Generic, TypeVar

from app.core.schemas import Page

T = TypeVar("T")


class Snapshot(Page[T], Generic[T]):
    """A page of a list, and the position in its topic at which it is true.

    Subscribing there (`?epoch=&after=`) brings what has happened since, and nothing twice.
    """

    epoch: str
    offset: int
