"""Rooms over WebSocket."""

from fastapi import APIRouter

from app.core.auth import require_scope
from app.core.errors import InsufficientScope, raises
from app.core.idempotency import IdempotencyKey
from app.features.rooms.errors import RoomReadOnly
from app.features.rooms.events import Posted, room_events
from app.features.rooms.guards import WRITE, MayRead, Member, posting
from app.features.rooms.schemas import Person, PostDraft
from app.features.rooms.service import Rooms
from app.realtime import Channel, on

router = APIRouter(prefix="/rooms")


@router.websocket("/{room_id}/ws", dependencies=[MayRead])
class RoomChannel(Channel):
    """A room as it happens; post into it from the same socket."""

    topic = room_events
    room: Member
    rooms: Rooms

    def presence(self) -> Person:
        """Who is connected is seen by the others."""
        return Person(id=self.room.user.subject, name=self.room.user.name)

    @on(limit=posting)
    @raises(RoomReadOnly, InsufficientScope)
    async def post(self, draft: PostDraft, key: IdempotencyKey) -> Posted:
        """Post into the room; everyone in it hears it."""
        require_scope(self.room.user, WRITE)
        return await self.rooms.post(self.room, draft, key)
