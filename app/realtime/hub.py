"""The hub: who is subscribed to what, and the way from a commit to their outboxes.

Nothing here awaits: publishing to a thousand clients puts one frame into a thousand outboxes.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.db import UnitOfWork
from app.core.errors import AppError
from app.realtime.messages import Encoded, Message, encode
from app.realtime.topics import Address

E = TypeVar("E", bound=Message)


class Subscriber(Protocol):
    """One end of a subscription: takes frames without waiting, and can be ended."""

    @property
    def subject(self) -> str | None:
        """Who it is, where they are signed in."""

    def deliver(self, frame: Encoded) -> None:
        """Take a frame to send."""

    def end(self, error: AppError) -> None:
        """Tell the client the error and close."""


class EventHub:
    """Topics and their subscribers within one process."""

    def __init__(self) -> None:
        self._subscribers: defaultdict[str, set[Subscriber]] = defaultdict(set)

    def subscribe(self, address: Address[Any], subscriber: Subscriber) -> Callable[[], None]:
        """Let `subscriber` hear the topic; returns what ends that."""
        members = self._subscribers[address.name]
        members.add(subscriber)

        def unsubscribe() -> None:
            members.discard(subscriber)
            if not members and self._subscribers.get(address.name) is members:
                del self._subscribers[address.name]

        return unsubscribe

    def publish(self, uow: UnitOfWork, address: Address[E], event: E) -> None:
        """Tell the topic's subscribers of `event` once `uow` has committed; never if it does not.

        Raises TypeError where the topic has no such event.
        """
        _check(address, event)
        uow.after_commit(lambda: self.emit(address, event))

    def emit(self, address: Address[E], event: E) -> None:
        """Tell whoever is subscribed now, with no regard to a transaction."""
        _check(address, event)
        subscribers = self._subscribers.get(address.name)
        if subscribers:
            frame = encode(event.type, event, topic=address.name)
            for subscriber in tuple(subscribers):
                subscriber.deliver(frame)

    def revoke(self, uow: UnitOfWork, address: Address[Any], subject: str, error: AppError) -> None:
        """End `subject`'s subscriptions to the topic with `error` once `uow` has committed."""

        def end() -> None:
            for subscriber in tuple(self._subscribers.get(address.name, ())):
                if subscriber.subject == subject:
                    subscriber.end(error)

        uow.after_commit(end)

    def count(self, address: Address[Any]) -> int:
        """How many are subscribed to the topic."""
        return len(self._subscribers.get(address.name, ()))


def _check(address: Address[Any], event: Message) -> None:
    if not isinstance(event, address.topic.events):
        raise TypeError(f"{address.topic} has no event {type(event).__name__}")


async def _hub(connection: HTTPConnection) -> EventHub:
    hub: EventHub = connection.app.state.hub
    return hub


Hub = Annotated[EventHub, Depends(_hub)]
"""The hub, injected."""
