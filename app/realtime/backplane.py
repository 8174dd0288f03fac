"""The backplane: how what one process publishes reaches the subscribers of the others.

It may lose a message, and says when it may have: the event log has what matters.
"""

from collections.abc import Collection
from typing import Protocol


class Receiver(Protocol):
    """What a backplane tells its process; neither method waits or raises."""

    def received(self, channel: str, payload: bytes) -> None:
        """Take a message that another process has sent; its own ones are not handed back."""

    def subscribed(self, channels: Collection[str]) -> None:
        """From now on nothing that is sent on these is missed; something may have been until now.

        It is said after every `subscribe`, and of every channel again after a reconnection.
        """


class Backplane(Protocol):
    """Carries messages between processes. Its methods may be called whether it is up or not."""

    @property
    def connected(self) -> bool:
        """Whether messages reach other processes right now."""

    async def start(self, receiver: Receiver) -> None:
        """Start its own tasks; returns at once, whether or not a server answers."""

    async def stop(self) -> None:
        """End its tasks and close its connections."""

    def subscribe(self, channel: str) -> None:
        """Hear what is sent on the channel; never waits."""

    def unsubscribe(self, channel: str) -> None:
        """Hear no more of it; never waits."""

    def send(self, channel: str, payload: bytes) -> None:
        """Send to every other process that has subscribed; never waits.

        It is dropped where it cannot be sent.
        """


class MemoryBackplane:
    """The backplane of a process that is the only one: there is nobody to send to."""

    connected = True

    def __init__(self) -> None:
        self._receiver: Receiver | None = None
        self._waiting: set[str] = set()  # subscribed to before the start

    async def start(self, receiver: Receiver) -> None:
        """Begin to confirm subscriptions."""
        self._receiver = receiver
        waiting, self._waiting = self._waiting, set()
        if waiting:
            receiver.subscribed(waiting)

    async def stop(self) -> None:
        """Confirm nothing more."""
        self._receiver = None

    def subscribe(self, channel: str) -> None:
        """Confirm it, before this returns."""
        if self._receiver:
            self._receiver.subscribed((channel,))
        else:
            self._waiting.add(channel)

    def unsubscribe(self, channel: str) -> None:
        """Nothing was going to come."""
        self._waiting.discard(channel)

    def send(self, channel: str, payload: bytes) -> None:
        """There is nobody to send it to."""
