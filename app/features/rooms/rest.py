"""Rooms over REST."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.core.auth import CurrentUser
from app.core.errors import raises
from app.core.schemas import Cursor, Id, Limit, Page
from app.features.rooms.errors import (
    MemberNotFound,
    NotTheOwner,
    OwnerStays,
    RoomNotFound,
    RoomReadOnly,
)
from app.features.rooms.events import Posted
from app.features.rooms.guards import Member
from app.features.rooms.schemas import Person, PostDraft, Room, RoomDraft
from app.features.rooms.service import Rooms

router = APIRouter(prefix="/rooms", tags=["rooms"])

Subject = Annotated[str, Path(max_length=255, pattern=r"^[^\x00]+$")]


@router.post("", status_code=201)
async def create(rooms: Rooms, user: CurrentUser, draft: RoomDraft) -> Room:
    """Create a room; whoever creates it owns it."""
    return await rooms.create(user, draft)


@router.get("")
async def list_rooms(
    rooms: Rooms, user: CurrentUser, after: Cursor | None = None, limit: Limit = 50
) -> Page[Room]:
    """The rooms there are, the newest first."""
    return await rooms.rooms(user, after=after, limit=limit)


@router.get("/{room_id}")
@raises(RoomNotFound)
async def read(rooms: Rooms, user: CurrentUser, room_id: Id) -> Room:
    """One room."""
    return await rooms.room(user, room_id)


@router.put("/{room_id}/members/me")
@raises(RoomNotFound)
async def join(rooms: Rooms, user: CurrentUser, room_id: Id) -> Room:
    """Become a member; nothing changes for whoever is one."""
    return await rooms.join(user, room_id)


@router.delete("/{room_id}/members/me", status_code=204)
@raises(OwnerStays)
async def leave(rooms: Rooms, room: Member) -> None:
    """Leave the room; one's open sockets to it are closed."""
    await rooms.leave(room)


@router.get("/{room_id}/members")
async def list_members(
    rooms: Rooms, room: Member, after: Cursor | None = None, limit: Limit = 50
) -> Page[Person]:
    """Who is in the room, those who joined first first."""
    return await rooms.members(room, after=after, limit=limit)


@router.delete("/{room_id}/members/{subject}", status_code=204)
@raises(NotTheOwner, OwnerStays, MemberNotFound)
async def remove(rooms: Rooms, room: Member, subject: Subject) -> None:
    """Remove somebody; their open sockets to the room are closed."""
    await rooms.remove(room, subject)


@router.post("/{room_id}/archive")
@raises(NotTheOwner)
async def archive(rooms: Rooms, room: Member) -> Room:
    """Make the room read-only for everybody, from now on."""
    return await rooms.archive(room)


@router.post("/{room_id}/posts", status_code=201)
@raises(RoomReadOnly)
async def post(rooms: Rooms, room: Member, draft: PostDraft) -> Posted:
    """Post into the room; everyone in it hears it."""
    return await rooms.post(room, draft)


@router.get("/{room_id}/posts")
async def history(
    rooms: Rooms, room: Member, before: Cursor | None = None, limit: Limit = 50
) -> Page[Posted]:
    """What was posted, the newest first."""
    return await rooms.posts(room, before=before, limit=limit)
