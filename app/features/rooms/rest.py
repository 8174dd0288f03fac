"""Rooms over REST."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.core.auth import CurrentUser
from app.core.errors import raises
from app.core.idempotency import IdempotencyKey
from app.core.schemas import Cursor, Id, Limit, Page
from app.features.rooms.errors import (
    MemberNotFound,
    NotTheOwner,
    OwnerStays,
    RoomNotFound,
    RoomReadOnly,
)
from app.features.rooms.events import Posted, room_events
from app.features.rooms.guards import MayRead, MayWrite, Member, posting
from app.features.rooms.schemas import Person, PostDraft, ReminderDraft, Room, RoomDraft
from app.features.rooms.service import Rooms
from app.realtime import (
    Events,
    Hub,
    Since,
    SinceEvent,
    Snapshot,
    WaitSeconds,
    follow,
    pull,
)
from app.realtime import (
    Member as Present,
)

router = APIRouter(prefix="/rooms", tags=["rooms"])

Subject = Annotated[str, Path(max_length=255, pattern=r"^[^\x00]+$")]


@router.post("", status_code=201, dependencies=[MayWrite])
async def create(rooms: Rooms, user: CurrentUser, draft: RoomDraft, key: IdempotencyKey) -> Room:
    """Create a room; whoever creates it owns it."""
    return await rooms.create(user, draft, key)


@router.get("", dependencies=[MayRead])
async def list_rooms(
    rooms: Rooms, user: CurrentUser, after: Cursor | None = None, limit: Limit = 50
) -> Page[Room]:
    """The rooms there are, the newest first."""
    return await rooms.rooms(user, after=after, limit=limit)


@router.get("/{room_id}", dependencies=[MayRead])
@raises(RoomNotFound)
async def read(rooms: Rooms, user: CurrentUser, room_id: Id) -> Room:
    """One room."""
    return await rooms.room(user, room_id)


@router.put("/{room_id}/members/me", dependencies=[MayWrite])
@raises(RoomNotFound)
async def join(rooms: Rooms, user: CurrentUser, room_id: Id) -> Room:
    """Become a member; nothing changes for whoever is one."""
    return await rooms.join(user, room_id)


@router.delete("/{room_id}/members/me", status_code=204, dependencies=[MayWrite])
@raises(OwnerStays)
async def leave(rooms: Rooms, room: Member) -> None:
    """Leave the room; one's open sockets to it are closed."""
    await rooms.leave(room)


@router.get("/{room_id}/members", dependencies=[MayRead])
async def list_members(
    rooms: Rooms, room: Member, after: Cursor | None = None, limit: Limit = 50
) -> Snapshot[Person]:
    """Who is in the room, those who joined first first."""
    return await rooms.members(room, after=after, limit=limit)


@router.delete("/{room_id}/members/{subject}", status_code=204, dependencies=[MayWrite])
@raises(NotTheOwner, OwnerStays, MemberNotFound)
async def remove(rooms: Rooms, room: Member, subject: Subject) -> None:
    """Remove somebody; their open sockets to the room are closed."""
    await rooms.remove(room, subject)


@router.post("/{room_id}/archive", dependencies=[MayWrite])
@raises(NotTheOwner)
async def archive(rooms: Rooms, room: Member) -> Room:
    """Make the room read-only for everybody, from now on."""
    return await rooms.archive(room)


@router.post("/{room_id}/posts", status_code=201, dependencies=[MayWrite, Depends(posting)])
@raises(RoomReadOnly)
async def post(rooms: Rooms, room: Member, draft: PostDraft, key: IdempotencyKey) -> Posted:
    """Post into the room; everyone in it hears it."""
    return await rooms.post(room, draft, key)


@router.post("/{room_id}/reminders", status_code=202, dependencies=[MayWrite])
@raises(RoomReadOnly)
async def remind(rooms: Rooms, room: Member, draft: ReminderDraft) -> None:
    """Have the room reminded of something: it hears a post when the time has come."""
    await rooms.remind(room, draft)


@router.get("/{room_id}/posts", dependencies=[MayRead])
async def history(
    rooms: Rooms, room: Member, before: Cursor | None = None, limit: Limit = 50
) -> Snapshot[Posted]:
    """What was posted, the newest first."""
    return await rooms.posts(room, before=before, limit=limit)


@router.get("/{room_id}/presence", dependencies=[MayRead])
async def list_present(room: Member, hub: Hub) -> list[Present]:
    """Who has the room open, one entry for each connection."""
    return hub.presence(room_events.at(room_id=room.room_id))


@router.get("/{room_id}/events", dependencies=[MayRead])
async def pull_events(
    request: Request,
    room: Member,
    hub: Hub,
    since: Since,
    limit: Limit = 100,
    wait: WaitSeconds = 0,
) -> Events:
    """What happened after a position, for programs that hold no socket; it can wait for more."""
    address = room_events.at(room_id=room.room_id)
    return await pull(request, hub, address, since, limit=limit, wait=wait)


async def _room_stream(
    request: Request, room: Member, hub: Hub, since: SinceEvent
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    async with follow(request, hub, room_events.at(room_id=room.room_id), since) as events:
        yield events


@router.get("/{room_id}/events/stream", response_class=EventSourceResponse, dependencies=[MayRead])
async def stream_events(
    events: Annotated[AsyncIterator[ServerSentEvent], Depends(_room_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """The room as it happens, as server-sent events; resumes after `Last-Event-ID`."""
    async for event in events:
        yield event
