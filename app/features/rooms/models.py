"""Tables of rooms. People are named by the subject of their token, wherever that comes from."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, BigId


class RoomRow(Base):
    """A room; archived from `archived_at` on."""

    __tablename__ = "rooms"

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(String(80))
    owner_id: Mapped[str] = mapped_column(String(255))
    owner_name: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]


class MemberRow(Base):
    """Somebody's membership of a room."""

    __tablename__ = "room_members"
    __table_args__ = (UniqueConstraint("room_id", "subject"),)

    id: Mapped[BigId]
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))
    subject: Mapped[str] = mapped_column(String(255), index=True)
    name: Mapped[str] = mapped_column(String(80))
    joined_at: Mapped[datetime]


class PostRow(Base):
    """What somebody posted."""

    __tablename__ = "room_posts"
    __table_args__ = (Index(None, "room_id", "id"),)

    id: Mapped[BigId]
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id", ondelete="CASCADE"))
    author_id: Mapped[str] = mapped_column(String(255))
    author_name: Mapped[str] = mapped_column(String(80))
    text: Mapped[str] = mapped_column(Text)
    posted_at: Mapped[datetime]
