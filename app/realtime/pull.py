"""A topic's events over HTTP, for other services: pulled with a long poll, or streamed.

Both stand behind the guard of the route that offers them, and end when that would refuse.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any

from fastapi import Query
from fastapi.sse import ServerSentEvent
from pydantic import Field
from pydantic_core import from_json
from starlette.requests import Request

from app.core.auth import Principal
from app.core.boundary import error_of
from app.core.connections import OpenConnection
from app.core.errors import AppError, TokenExpired, Unavailable, to_app_error
from app.core.metrics import count_eviction
from app.core.observability import report
from app.core.schemas import Schema
from app.realtime.errors import SlowConsumer
from app.realtime.feed import Opening
from app.realtime.hub import EventHub
from app.realtime.log import PAGE
from app.realtime.messages import Broadcast, Position, Publication
from app.realtime.since import event_id
from app.realtime.topics import Address

MAX_WAITING = 5 * PAGE  # events that one stream may have unsent

WaitSeconds = Annotated[
    float, Query(ge=0, le=30, description="how long to wait for an event, where there is none yet")
]


class Event(Schema):
    """One event of a topic."""

    type: str
    offset: int
    data: dict[str, Any]


class Events(Schema):
    """What happened in a topic after a position, and the position to ask from next.

    `recovered` is false where events were missed that are gone: read the state anew.
    """

    events: Sequence[Event]
    epoch: str
    offset: int
    recovered: Annotated[bool | None, Field(description="null where nothing was asked for")]


class Puller:
    """A subscriber over HTTP: keeps what is broadcast until it is fetched."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.waiting: deque[Publication] = deque()
        self.error: AppError | None = None
        self._told = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def principal(self) -> Principal | None:
        """Whose it is."""
        principal: Principal | None = getattr(self.request.state, "principal", None)
        return principal

    @property
    def subject(self) -> str | None:
        """Who pulls, where they are signed in."""
        return self.principal.subject if self.principal else None

    def deliver(self, broadcast: Broadcast) -> None:
        """Keep an event; what is no event of the log has no place here."""
        if isinstance(broadcast, Publication) and broadcast.position:
            if len(self.waiting) >= MAX_WAITING:
                if self.error is None:
                    count_eviction("outbox")
                self.end(SlowConsumer())
                return
            self.waiting.append(broadcast)
            self._empty.clear()
            self._told.set()

    def end(self, error: AppError) -> None:
        """Have it end with `error`, after what waits."""
        self.error = self.error or error
        self._told.set()

    async def told(self) -> None:
        """Wait until there is something, or the end."""
        await self._told.wait()

    def fetch(self) -> Publication | None:
        """The next event; None where there is none."""
        publication = self.waiting.popleft() if self.waiting else None
        if not self.waiting:
            self._empty.set()
            if self.error is None:
                self._told.clear()
        return publication

    async def emptied(self) -> None:
        """Wait until everything has been fetched."""
        await self._empty.wait()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Count among the open connections, and end when the token does."""
        connection = OpenConnection(self.request.scope, self.end)
        connections = self.request.app.state.connections
        connections.add(connection)
        timer = None
        if self.principal:
            left = self.principal.seconds_left(self.request.app.state.settings.token_leeway)
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max(0.0, left), self.end, TokenExpired())
        try:
            if self.principal:  # the guards looked before anybody could have ended it
                self.request.app.state.revocations.check(self.principal)
            yield
        finally:
            connections.discard(connection)
            if timer:
                timer.cancel()


async def pull(
    request: Request,
    hub: EventHub,
    address: Address[Any],
    since: Position | None,
    *,
    limit: int,
    wait: float,
) -> Events:
    """The events after `since`, at once where there are any; else it waits so many seconds.

    Without `since` it tells the position to begin at. Raises what ends a subscription, as a
    revocation does.
    """
    puller = Puller(request)

    async def ready() -> None:
        if len(puller.waiting) >= limit:
            raise _Enough

    with puller.opened():
        subscription = hub.subscribe(address, puller)
        try:
            hub.check(address, puller.subject, request.state.began)
            opening = await subscription.open(since)
            if opening.recovered:
                with suppress(_Enough):
                    await subscription.catch_up(ready)
                    began = time.perf_counter()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await puller.told()
                    request.state.waited = time.perf_counter() - began
        finally:
            subscription.cancel()
    if puller.error and not puller.waiting and not isinstance(puller.error, Unavailable):
        raise puller.error
    return _events(opening, [each for each, _ in zip(puller.waiting, range(limit), strict=False)])


class _Enough(Exception):
    pass


def _events(opening: Opening, publications: Sequence[Publication]) -> Events:
    position = opening.position or Position("", 0)
    if publications and publications[-1].position:
        position = publications[-1].position
    events = [
        Event(type=each.type, offset=each.position.offset, data=from_json(each.data))
        for each in publications
        if each.position
    ]
    return Events(
        events=events, epoch=position.epoch, offset=position.offset, recovered=opening.recovered
    )


@asynccontextmanager
async def follow(
    request: Request, hub: EventHub, address: Address[Any], since: Position | None
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    """The topic as server-sent events (WHATWG HTML, 9.2), to be yielded by an endpoint.

    The first is `welcome` with `{epoch, offset, recovered}`; each event has its type as name and
    its position as id, which EventSource sends back as Last-Event-ID. An error is the event
    `problem`, and the last.
    """
    puller = Puller(request)
    with puller.opened():
        subscription = hub.subscribe(address, puller)
        try:
            hub.check(address, puller.subject, request.state.began)
            opening = await subscription.open(since)
            catching_up = asyncio.create_task(subscription.catch_up(puller.emptied))
            catching_up.add_done_callback(lambda task: _tell_failure(task, puller))
            try:
                yield _stream(puller, opening)
            finally:
                catching_up.cancel()
                await asyncio.gather(catching_up, return_exceptions=True)
        finally:
            subscription.cancel()


def _tell_failure(task: asyncio.Task[None], puller: Puller) -> None:
    exc = None if task.cancelled() else task.exception()
    if isinstance(exc, Exception):
        report(exc)
        puller.end(to_app_error(exc))  # which is told, and counted, as the stream's last event


async def _stream(puller: Puller, opening: Opening) -> AsyncIterator[ServerSentEvent]:
    position = opening.position or Position("", 0)
    welcome = {
        "epoch": position.epoch,
        "offset": position.offset,
        "recovered": opening.recovered,
    }
    yield ServerSentEvent(event="welcome", id=event_id(position), data=welcome)
    while True:
        await puller.told()
        while publication := puller.fetch():
            assert publication.position  # noqa: S101 - for the types: others are not kept
            yield ServerSentEvent(
                event=publication.type,
                id=event_id(publication.position),
                raw_data=publication.data.decode(),
            )
        if puller.error:
            _, problem = error_of(puller.request, puller.error)
            yield ServerSentEvent(event="problem", data=problem)
            return
