"""The hub: what is published, who is subscribed, and the way from a commit to their outboxes.

Publishing records the event in the log, with the data that caused it. After the commit it goes to
the subscribers of this process at once and to other processes over the backplane. A message lost
on that way is noticed: by the next event of its topic, by a confirmed subscription, or by the
sweep, which each second compares how far the topics here have come with the log.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.core.background import Periodic
from app.core.db import SqlDatabase, UnitOfWork
from app.core.errors import AppError
from app.core.metrics import PUBLISHED
from app.core.observability import report
from app.core.revocations import Revocations
from app.core.tracing import Tracing, current_traceparent
from app.realtime.backplane import Backplane
from app.realtime.feed import Feed, Subscriber, Subscription
from app.realtime.log import EventLog, Pending, Stretch
from app.realtime.messages import Broadcast, Message, Position, Publication
from app.realtime.outbox import Outbox
from app.realtime.presence import Member, Presence
from app.realtime.topics import Address

E = TypeVar("E", bound=Message)

SWEEP_SECONDS = 1.0
TRIM_SECONDS = 60.0
MINUTE = 60.0
TOPICS, NODES, WAKE = "topic:", "nodes", b"revoked"


class EventHub:
    """Topics and their subscribers: those of this process, and through the backplane all others.

    Args:
        db: where the event log is.
        backplane: the way to other processes.
        revocations: where ended subscriptions are recorded.
        tracing: where publications, and deliveries from other processes, have spans.
    """

    def __init__(
        self,
        db: SqlDatabase,
        backplane: Backplane,
        revocations: Revocations,
        tracing: Tracing | None = None,
    ) -> None:
        self.log = EventLog(db)
        self._backplane = backplane
        self._revocations = revocations
        #: What waits for the clients of this process, each for as long as it is connected.
        self.outboxes: set[Outbox] = set()
        self._tracing = tracing or Tracing({})
        self._feeds: dict[str, Feed] = {}
        self._swept = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unchecked: set[str] = set()
        # Of the last minute, the oldest first: when it was, and what the client is told.
        self._ended: OrderedDict[tuple[str, str], tuple[float, AppError]] = OrderedDict()
        self._presence = Presence(self._tell_locally, self._send_to_nodes, backplane)
        self._catching_up = Periodic("catch up", self._check_confirmed, seconds=3600)
        revocations.on_recorded = self._wake_nodes
        revocations.on_subscription_revoked = self._end_subscriptions

    # What a service calls

    def publish(self, uow: UnitOfWork, address: Address[E], event: E) -> None:
        """Tell the topic's subscribers of `event` once `uow` has committed; never if it does not.

        Where the topic is durable the event is recorded in the same transaction, and has its
        `log_position` once that is committed. Raises TypeError where the topic has no such event.
        """
        publication = self._publication(address, event)
        if not address.topic.durable:
            uow.after_commit(lambda: self._broadcast(publication))
            return
        batch: list[Pending] | None = uow.info.get(self)
        if batch is None:
            batch = uow.info[self] = []
            uow.before_commit(lambda: self.log.record(uow, uow.info.pop(self)))
            uow.after_commit(lambda: self._broadcast_all(batch))
        batch.append(Pending(address, event, publication))

    def emit(self, address: Address[E], event: E) -> None:
        """Tell whoever is subscribed now, with no regard to a transaction; nothing is recorded."""
        self._broadcast(self._publication(address, event))

    def revoke(self, uow: UnitOfWork, address: Address[Any], subject: str, error: AppError) -> None:
        """End `subject`'s subscriptions to the topic with `error`, in every process.

        It is recorded in `uow`, and happens once that has committed: here at once, elsewhere
        within a second.
        """
        self._revocations.revoke_subscription(uow, address.name, subject, error)

    async def position(self, session: AsyncSession, address: Address[Any]) -> Position:
        """Where the topic is in what `session` sees: a client that resumes there misses nothing."""
        return await self.log.head(session, address.name)

    async def history(
        self,
        address: Address[Any],
        *,
        since: Position | None = None,
        limit: int,
        reverse: bool = False,
    ) -> Stretch:
        """Events that the topic keeps, from `since` forward or back; with `limit` 0 its head."""
        return await self.log.history(address, since=since, limit=limit, reverse=reverse)

    def presence(self, address: Address[Any]) -> list[Member]:
        """Who is there, in every process: one entry for each connection."""
        return self._presence.members(address.name)

    def count(self, address: Address[Any]) -> int:
        """How many are subscribed to the topic in this process."""
        feed = self._feeds.get(address.name)
        return len(feed.subscriptions) if feed else 0

    # What a connection calls

    def subscribe(self, address: Address[Any], subscriber: Subscriber) -> Subscription:
        """Subscribe; nothing that happens from now on is lost, and nothing delivered yet."""
        feed = self._feeds.get(address.name)
        if feed is None:
            closed = partial(self._close, address.name)
            feed = Feed(address, self.log, self._spawn, closed, self._tracing)
            self._feeds[address.name] = feed
            self._backplane.subscribe(TOPICS + address.name)
        return feed.join(subscriber)

    def enter(self, address: Address[Any], member: Member) -> Callable[[], None]:
        """Let a member be seen in the topic; returns what ends that."""
        return self._presence.enter(address.name, member)

    # What the process calls

    async def start(self) -> list[Periodic]:
        """Begin to hear from other processes. Returns what has to run beside the requests."""
        await self._backplane.start(self)
        self._backplane.subscribe(NODES)
        return [
            Periodic("sweep", self.sweep, seconds=SWEEP_SECONDS),
            Periodic("trim", self.log.trim, seconds=TRIM_SECONDS),
            Periodic("presence", self._presence.beat, seconds=self._presence.BEAT_SECONDS),
            self._catching_up,
        ]

    async def stop(self) -> None:
        """End what runs for the subscriptions, and leave."""
        self._presence.leave()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._backplane.stop()

    async def sweep(self) -> None:
        """Bring every topic that is subscribed to here up to where the log is."""
        await self._check(self._feeds)
        self._swept = time.monotonic()

    # What is measured

    def subscriptions(self) -> int:
        """How many subscriptions there are in this process, of all topics."""
        return sum(len(feed.subscriptions) for feed in self._feeds.values())

    def unread(self) -> int:
        """The bytes that wait for the clients of this process."""
        return sum(outbox.size for outbox in self.outboxes)

    def lag(self) -> tuple[float, int]:
        """How far the topic that is most behind its log is behind it: in seconds, and in events.

        While nobody looks into the log, as it does not answer, that is how long nobody has.
        """
        lags = [feed.lag() for feed in self._feeds.values()]
        unseen = time.monotonic() - self._swept - SWEEP_SECONDS
        seconds = max((lag[0] for lag in lags), default=0.0)
        return max(0.0, unseen, seconds), max((lag[1] for lag in lags), default=0)

    # What the backplane calls

    def received(self, channel: str, payload: bytes) -> None:
        """Take a message of another process."""
        if channel.startswith(TOPICS):
            name = channel.removeprefix(TOPICS)
            feed = self._feeds.get(name)
            if feed:
                feed.arrived_from_elsewhere(Publication.unpack(name, payload))
        elif payload == WAKE:
            self._revocations.wake()
        else:
            self._presence.received(payload)

    def subscribed(self, channels: Collection[str]) -> None:
        """Look into the log for what happened before the subscription was in force."""
        self._unchecked.update(name.removeprefix(TOPICS) for name in channels)
        if NODES in channels:
            self._presence.ask()
            self._revocations.wake()
        self._catching_up.wake()

    # Inside

    def _broadcast_all(self, batch: Iterable[Pending]) -> None:
        for each in batch:
            self._broadcast(each.publication)

    def _broadcast(self, publication: Publication) -> None:
        PUBLISHED.inc()
        feed = self._feeds.get(publication.topic)
        if feed:
            feed.arrived(publication)
        self._backplane.send(TOPICS + publication.topic, publication.pack())

    def _publication(self, address: Address[Any], event: Message) -> Publication:
        if not isinstance(event, address.topic.events):
            raise TypeError(f"{address.topic} has no event {type(event).__name__}")
        with self._tracing.publish(address.topic.pattern):
            publication = Publication.of(address.name, event)
            publication.trace = current_traceparent() if self._tracing.on else None
        return publication

    async def _check_confirmed(self) -> None:
        names, self._unchecked = self._unchecked, set()
        await self._check(names & self._feeds.keys())

    async def _check(self, names: Collection[str]) -> None:
        feeds = {name: self._feeds[name] for name in names}
        before = {name: feed.position for name, feed in feeds.items() if feed.address.topic.durable}
        known = [name for name, position in before.items() if position is not None]
        if known:
            heads = await self.log.heads(known)
            for name in known:
                feeds[name].check(before[name], heads.get(name))

    def _close(self, name: str) -> None:
        del self._feeds[name]
        self._backplane.unsubscribe(TOPICS + name)

    def _tell_locally(self, name: str, broadcast: Broadcast) -> None:
        feed = self._feeds.get(name)
        if feed:
            feed.arrived(broadcast)

    def _send_to_nodes(self, payload: bytes) -> None:
        self._backplane.send(NODES, payload)

    def _wake_nodes(self) -> None:
        self._backplane.send(NODES, WAKE)

    def check(self, address: Address[Any], subject: str | None, began: float) -> None:
        """Raise what has ended `subject`'s subscriptions to the topic since `began` (monotonic).

        For whoever was let in before and has subscribed only now.
        """
        ended = self._ended.get((address.name, subject or ""))
        if ended and ended[0] >= began:
            raise ended[1]

    def _end_subscriptions(self, topic: str, subject: str, error: AppError) -> None:
        now = time.monotonic()
        self._ended.pop((topic, subject), None)
        self._ended[topic, subject] = (now, error)
        while now - next(iter(self._ended.values()))[0] > MINUTE:
            self._ended.popitem(last=False)
        feed = self._feeds.get(topic)
        for subscription in tuple(feed.subscriptions) if feed else ():
            if subscription.subscriber.subject == subject:
                subscription.subscriber.end(error)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(_reported(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _reported(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as exc:
        report(exc)  # the sweep tries again


async def _hub(connection: HTTPConnection) -> EventHub:
    hub: EventHub = connection.app.state.hub
    return hub


Hub = Annotated[EventHub, Depends(_hub)]
"""The hub, injected."""
