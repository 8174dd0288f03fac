"""A subscriber of the tests, and hubs that hear one another without a server between them."""

import asyncio
import json
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy.exc import OperationalError

from app.core.errors import AppError
from app.realtime.backplane import Receiver
from app.realtime.feed import Opening, Subscription
from app.realtime.hub import EventHub
from app.realtime.log import EventLog
from app.realtime.messages import Broadcast, Position, Publication
from app.realtime.topics import Address
from tests.server import DEADLINE


class Listener:
    """A subscriber that keeps what it hears."""

    def __init__(self, subject: str | None = None) -> None:
        self.subject = subject
        self.told: list[Broadcast] = []
        self.endings: list[AppError] = []
        self._news = asyncio.Event()

    def deliver(self, broadcast: Broadcast) -> None:
        """Keep it."""
        self.told.append(broadcast)
        self._news.set()

    def end(self, error: AppError) -> None:
        """Keep the error."""
        self.endings.append(error)
        self._news.set()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What a plain socket would have been sent."""
        return [json.loads(broadcast.frame.payload) for broadcast in self.told]

    @property
    def texts(self) -> list[str]:
        """What was said, in the order in which it was heard."""
        return [frame["data"]["text"] for frame in self.frames]

    @property
    def offsets(self) -> list[int]:
        """Where in the log that is."""
        positions = [each.position for each in self.told if isinstance(each, Publication)]
        return [position.offset for position in positions if position]

    async def until(self, fact: Callable[["Listener"], bool]) -> None:
        """Wait until something that it hears makes it true."""
        async with asyncio.timeout(DEADLINE):
            while not fact(self):
                self._news.clear()
                await self._news.wait()

    async def hears(self, count: int) -> list[str]:
        """Wait until it has heard so many; what was said."""
        await self.until(lambda listener: len(listener.told) >= count)
        return self.texts


async def at_once() -> None:
    """Ready for more."""


def readings(number: int) -> Callable[..., Any]:
    """For EventLog.since: so many readings, and then the database does not answer."""
    since, left = EventLog.since, iter(range(number))

    async def read(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is None:
            raise OperationalError("SELECT", {}, Exception("gone"))
        return await since(*args, **kwargs)

    return read


async def listen(
    hub: EventHub,
    address: Address[Any],
    listener: Listener,
    since: Position | None = None,
) -> tuple[Subscription, Opening]:
    """Subscribe as a connection does, up to where what happens is delivered at once."""
    subscription = hub.subscribe(address, listener)
    opening = await subscription.open(since)
    await subscription.catch_up(at_once)
    return subscription, opening


class Ether:
    """What the backplanes of several hubs in one process send through.

    While it is `losing`, what is sent is lost; while it is `deaf`, no subscription is confirmed.
    """

    def __init__(self) -> None:
        self.losing = False
        self.deaf = False
        self.sent: list[tuple[str, bytes]] = []
        self._ends: list[_End] = []

    def backplane(self) -> "_End":
        """A backplane that sends to the others made here."""
        end = _End(self)
        self._ends.append(end)
        return end

    def send(self, sender: "_End", channel: str, payload: bytes) -> None:
        """Hand a message to whoever hears it, unless it is lost."""
        self.sent.append((channel, payload))
        for end in self._ends:
            if end is not sender and not self.losing and channel in end.channels:
                end.receive(channel, payload)

    def reconnect(self) -> None:
        """Confirm every subscription anew, as after a break."""
        for end in self._ends:
            end.confirm(end.channels)


class _End:
    connected = True

    def __init__(self, ether: Ether) -> None:
        self.channels: set[str] = set()
        self._ether = ether
        self._receiver: Receiver | None = None

    async def start(self, receiver: Receiver) -> None:
        """Begin."""
        self._receiver = receiver

    async def stop(self) -> None:
        """End."""
        self._receiver = None

    def subscribe(self, channel: str) -> None:
        """Hear the channel."""
        self.channels.add(channel)
        if not self._ether.deaf:
            self.confirm({channel})

    def unsubscribe(self, channel: str) -> None:
        """Hear it no longer."""
        self.channels.discard(channel)

    def send(self, channel: str, payload: bytes) -> None:
        """Send to the others."""
        self._ether.send(self, channel, payload)

    def receive(self, channel: str, payload: bytes) -> None:
        """Take what another has sent."""
        if self._receiver:
            self._receiver.received(channel, payload)

    def confirm(self, channels: Collection[str]) -> None:
        """Say that nothing is missed from now on."""
        if self._receiver:
            self._receiver.subscribed(channels)
