"""A channel of a durable topic, and its events over HTTP, beside the probe's."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.requests import Request

from app.core.db import Database
from app.core.schemas import Schema
from app.realtime import Channel, Events, Hub, Since, SinceEvent, WaitSeconds, follow, on, pull
from tests.realtime.probe import Admitted, ProbeState, Said, Say, logged_events

router = APIRouter(prefix="/probe")


class Name(Schema):
    """How a client is seen by the others."""

    name: str


@router.websocket("/{room}/log")
class LogChannel(Channel):
    """Writes what it is told into a log, resumes in it, and lets everyone be seen."""

    topic = logged_events
    access: Admitted
    hub: Hub
    db: Database
    probe: ProbeState

    def presence(self) -> Name:
        """Everyone by their name."""
        return Name(name=self.access.user.name)

    async def closed(self, code: int) -> None:
        """Note the code."""
        self.probe.closed.append(code)

    @on
    async def say(self, message: Say) -> Said:
        """Write it down for everyone, and answer the same."""
        said = Said(text=message.text, by=self.access.user.subject)
        async with self.db.unit_of_work() as uow:
            self.hub.publish(uow, logged_events.at(room=self.access.room), said)
        return said


@router.post("/{room}/log")
async def write_log(room: int, message: Say, hub: Hub, db: Database, times: int = 1) -> int:
    """Write events into the log in one unit of work; where it is then."""
    events = [Said(text=message.text) for _ in range(times)]
    async with db.unit_of_work() as uow:
        for event in events:
            hub.publish(uow, logged_events.at(room=room), event)
    position = events[-1].log_position
    return position.offset if position else 0


@router.get("/{room}/events")
async def pull_events(
    request: Request,
    access: Admitted,
    hub: Hub,
    since: Since,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    wait: WaitSeconds = 0,
) -> Events:
    """The log after a position."""
    address = logged_events.at(room=access.room)
    return await pull(request, hub, address, since, limit=limit, wait=wait)


async def _stream(
    request: Request, access: Admitted, hub: Hub, since: SinceEvent
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    async with follow(request, hub, logged_events.at(room=access.room), since) as events:
        yield events


@router.get("/{room}/events/stream", response_class=EventSourceResponse)
async def stream_events(
    events: Annotated[AsyncIterator[ServerSentEvent], Depends(_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """The log as it grows."""
    async for event in events:
        yield event
