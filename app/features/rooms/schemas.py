"""What rooms take and give, at both doors."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from app.core.jobs import Job
from app.core.schemas import Schema
from app.realtime import Message

MAX_REMINDER_SECONDS = 366 * 24 * 3600


class Person(Schema):
    """Somebody in a room: the subject of their token, and the name they had then."""

    id: str
    name: str


class RoomDraft(Schema):
    """A new room."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=80, strip_whitespace=True)]


class Room(Schema):
    """A room, as whoever asks sees it."""

    id: int
    name: str
    owner: Person
    archived: bool
    member: bool
    members: int
    created_at: datetime


class PostDraft(Message):
    """Something to say."""

    type = "post"
    text: Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class ReminderDraft(Schema):
    """Something that the room is to be reminded of, so many seconds from now."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    in_seconds: int = Field(ge=0, le=MAX_REMINDER_SECONDS)


class Reminder(Job):
    """A reminder that waits for its time."""

    name = "rooms.reminder"
    room_id: int
    author: Person
    text: str
