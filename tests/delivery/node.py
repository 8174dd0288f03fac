"""The service as one process of several, with channels of the delivery tests.

Run as a program it takes the arguments of `python -m app`. MUTATION names one of mutations.py,
which is then in force: what the delivery tests show, they must not show then. With SWEEP_SECONDS
the sweep is made rare, so that what only it finds can be told from what came by itself.
"""

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app import cli, features
from app.core.auth import CurrentUser
from app.core.db import Database, SqlDatabase
from app.core.idempotency import Idempotency, IdempotencyKey, IdempotencyKeys
from app.core.schemas import Schema
from app.realtime import (
    Channel,
    EventHub,
    Events,
    Hub,
    Member,
    Message,
    Position,
    Since,
    Topic,
    WaitSeconds,
    on,
    pull,
)
from app.realtime import hub as hub_module
from tests.delivery import mutations


class Say(Message):
    """Something to say, with what may go wrong meanwhile.

    hold: seconds between saying it and the commit.
    also: another room that hears it, named after the first in the unit of work.
    die: the process is killed right after the commit, before anybody is told.
    """

    type = "say"
    text: str
    hold: float = 0
    also: str | None = None
    die: bool = False


class Said(Message):
    """Something that was said."""

    type = "said"
    text: str


class Name(Schema):
    """How a client is seen by the others."""

    name: str


class Place(Schema):
    """A position, and how many things were said by then."""

    epoch: str
    offset: int


said = Topic[Said]("said:{room}", durable=True, keep=1_000_000)
brief = Topic[Said]("brief:{room}", durable=True, keep=5)


async def _room(room: str, user: CurrentUser) -> str:
    return room


Room = Annotated[str, Depends(_room)]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Says things, once for each key."""

    db: SqlDatabase
    hub: EventHub
    keys: IdempotencyKeys

    async def say(self, subject: str, room: str, message: Say, key: str | None) -> Said:
        """Say it in the room."""
        async with self.db.unit_of_work() as uow:

            async def work() -> Said:
                event = Said(text=message.text)
                if message.die:
                    uow.after_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
                self.hub.publish(uow, said.at(room=room), event)
                if message.also:
                    self.hub.publish(uow, said.at(room=message.also), Said(text=message.text))
                self.hub.publish(uow, brief.at(room=room), Said(text=message.text))
                await asyncio.sleep(message.hold)
                return event

            return await self.keys.once(
                uow, subject, key, work, operation=f"say {room}", body=message, answer=Said
            )


async def _speaker(db: Database, hub: Hub, keys: Idempotency) -> Speaker:
    return Speaker(db, hub, keys)


Says = Annotated[Speaker, Depends(_speaker)]
router = APIRouter(prefix="/delivery")


@router.websocket("/{room}/ws")
class SaidChannel(Channel):
    """Hears everything that is said in a room, and says what it is sent."""

    topic = said
    room: Room
    user: CurrentUser
    speaker: Says

    def presence(self) -> Name:
        """Everyone is seen."""
        return Name(name=self.user.name)

    @on
    async def say(self, message: Say, key: IdempotencyKey) -> Said:
        """Say it, once for a key."""
        return await self.speaker.say(self.user.subject, self.room, message, key)


@router.websocket("/{room}/brief")
class BriefChannel(Channel):
    """Hears a topic that keeps five events."""

    topic = brief
    room: Room


@router.post("/{room}/say")
async def say(
    room: Room, user: CurrentUser, speaker: Says, message: Say, key: IdempotencyKey
) -> Place:
    """Say it, once for a key; where it is in the room's log."""
    event = await speaker.say(user.subject, room, message, key)
    position = event.log_position or Position("", 0)
    return Place(epoch=position.epoch, offset=position.offset)


@router.get("/{room}/place")
async def place(room: Room, hub: Hub, db: Database) -> Place:
    """Where the room's topic is."""
    async with db.reading() as session:
        position = await hub.position(session, said.at(room=room))
    return Place(epoch=position.epoch, offset=position.offset)


@router.get("/{room}/events")
async def events(
    request: Request, room: Room, hub: Hub, since: Since, wait: WaitSeconds = 0
) -> Events:
    """What was said after a position."""
    return await pull(request, hub, said.at(room=room), since, limit=100, wait=wait)


@router.get("/{room}/presence")
async def presence(room: Room, hub: Hub) -> list[Member]:
    """Who is in the room."""
    return hub.presence(said.at(room=room))


@router.post("/trim", status_code=204)
async def trim(hub: Hub) -> None:
    """Remove what need not be kept, now."""
    await hub.log.trim()


if __name__ == "__main__":
    if name := os.environ.get("MUTATION"):
        mutations.apply(name)
    if seconds := os.environ.get("SWEEP_SECONDS"):
        hub_module.SWEEP_SECONDS = float(seconds)
    features.router.include_router(router)
    cli.main()
