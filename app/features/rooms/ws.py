"""Rooms over WebSocket."""

from fastapi import APIRouter

from app.core.errors import raises
from app.features.rooms.errors import RoomReadOnly
from app.features.rooms.events import Posted, room_events
from app.features.rooms.guards import Member
from app.features.rooms.schemas import PostDraft
from app.features.rooms.service import Rooms
from app.realtime import Channel, on

router = APIRouter(prefix="/rooms")


@router.websocket("/{room_id}/ws")
class RoomChannel(Channel):
    """A room as it happens; post into it from the same socket."""

    topic = room_events
    room: Member
    rooms: Rooms

    @on
    @raises(RoomReadOnly)
    async def post(self, draft: PostDraft) -> Posted:
        """Post into the room; everyone in it hears it."""
        return await self.rooms.post(self.room, draft)
