"""What the members of a room are told."""

from datetime import datetime

from app.features.rooms.schemas import Person
from app.realtime import Message, Topic


class Posted(Message):
    """Somebody posted into the room."""

    type = "posted"
    id: int
    author: Person
    text: str
    posted_at: datetime


class MemberJoined(Message):
    """Somebody is a member now."""

    type = "member_joined"
    member: Person


class MemberLeft(Message):
    """Somebody left, or was removed."""

    type = "member_left"
    member: Person


class Archived(Message):
    """The room is read-only from now on."""

    type = "archived"
    by: Person


room_events = Topic[Posted | MemberJoined | MemberLeft | Archived](
    "rooms:{room_id}", durable=True, keep=1000
)
