"""Who may be in a room: the dependency that both doors share."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Select, select

from app.core.auth import CurrentUser, Principal, has_scope, scope
from app.core.db import Database
from app.core.errors import raises
from app.core.limits import Limit
from app.core.schemas import Id
from app.features.rooms.errors import NotAMember, RoomNotFound
from app.features.rooms.models import MemberRow, RoomRow

WRITE = scope("rooms:write", "Create, join, leave and archive rooms, and post into them")

MayRead = Depends(has_scope(scope("rooms:read", "Read rooms, and hear what happens in them")))
MayWrite = Depends(has_scope(WRITE))

#: How often somebody may post, at both doors together.
posting = Limit("120/minute", name="rooms.post")


@dataclass(frozen=True, slots=True)
class RoomAccess:
    """A member's way into a room: frozen, so that it may outlive the session that read it."""

    room_id: int
    user: Principal


def membership(room_id: int, subject: str) -> Select[MemberRow]:
    """Somebody's row among the members of a room."""
    return select(MemberRow).where(MemberRow.room_id == room_id, MemberRow.subject == subject)


@raises(RoomNotFound, NotAMember)
async def room_access(room_id: Id, user: CurrentUser, db: Database) -> RoomAccess:
    """Let members of the room through."""
    async with db.reading() as session:
        if await session.get(RoomRow, room_id) is None:
            raise RoomNotFound
        if await session.scalar(membership(room_id, user.subject)) is None:
            raise NotAMember
    return RoomAccess(room_id, user)


Member = Annotated[RoomAccess, Depends(room_access)]
"""Whoever asks, a member of the room in the path."""
