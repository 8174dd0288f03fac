"""What can be done with rooms. Each write decides in its one unit of work, on what is true then."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Select, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.auth import Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.idempotency import Idempotency, IdempotencyKeys
from app.core.jobs import JobQueue, Jobs
from app.core.schemas import Page, following
from app.features.rooms.errors import (
    MemberNotFound,
    NotAMember,
    NotTheOwner,
    OwnerStays,
    RoomNotFound,
    RoomReadOnly,
)
from app.features.rooms.events import Archived, MemberJoined, MemberLeft, Posted, room_events
from app.features.rooms.guards import RoomAccess, membership
from app.features.rooms.models import MemberRow, PostRow, RoomRow
from app.features.rooms.schemas import Person, PostDraft, Reminder, ReminderDraft, Room, RoomDraft
from app.realtime import EventHub, Hub, Snapshot


@dataclass(frozen=True, slots=True)
class RoomsService:
    """Rooms, over the database; members hear through the hub."""

    db: SqlDatabase
    hub: EventHub
    idempotency: IdempotencyKeys
    jobs: JobQueue

    async def create(self, user: Principal, draft: RoomDraft, key: str | None = None) -> Room:
        """Create a room; whoever creates it owns it and is its first member.

        Raises IdempotencyKeyReused.
        """
        now = datetime.now(UTC)
        row = RoomRow(name=draft.name, owner_id=user.subject, owner_name=user.name, created_at=now)

        async def create() -> Room:
            uow.add(row)
            await uow.flush()
            uow.add(_member_row(row.id, user, now))
            return _room(row, member=True, members=1)

        async with self.db.unit_of_work() as uow:
            return await self.idempotency.once(
                uow, user.subject, key, create, operation="rooms.create", body=draft, answer=Room
            )

    async def room(self, user: Principal, room_id: int) -> Room:
        """A room, as `user` sees it. Raises RoomNotFound."""
        async with self.db.reading() as session:
            return await _seen_by(session, user, room_id)

    async def rooms(self, user: Principal, *, after: int | None, limit: int) -> Page[Room]:
        """The rooms there are, the newest first."""
        query = _rooms_seen_by(user).order_by(RoomRow.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(RoomRow.id < after)
        async with self.db.reading() as session:
            rows = (await session.execute(query)).all()
        rooms = [_room(row, member=member, members=members) for row, member, members in rows]
        return Page(items=rooms[:limit], next=following(rooms, limit))

    async def join(self, user: Principal, room_id: int) -> Room:
        """Make `user` a member; nothing changes for whoever is one. Raises RoomNotFound."""
        async with self.db.unit_of_work() as uow:
            # The room is locked, so that of two joins at one moment the second sees the first.
            await _locked(uow, room_id, exclusively=True)
            if await _member(uow, room_id, user.subject) is None:
                uow.add(_member_row(room_id, user, datetime.now(UTC)))
                await uow.flush()
                joined = MemberJoined(member=_person(user))
                self.hub.publish(uow, room_events.at(room_id=room_id), joined)
            return await _seen_by(uow, user, room_id)

    async def leave(self, access: RoomAccess) -> None:
        """End the membership; open sockets hear it and are closed.

        Raises RoomNotFound, NotAMember, OwnerStays.
        """
        user = access.user
        async with self.db.unit_of_work() as uow:
            await _locked(uow, access.room_id, exclusively=True)
            member = await _member(uow, access.room_id, user.subject)
            if member is None:
                raise NotAMember
            await self._end(uow, member, NotAMember("You left the room."))

    async def remove(self, access: RoomAccess, subject: str) -> None:
        """End somebody else's membership.

        Raises RoomNotFound, NotTheOwner, MemberNotFound, OwnerStays.
        """
        async with self.db.unit_of_work() as uow:
            room = await _locked(uow, access.room_id, exclusively=True)
            _check_owner(room, access.user)
            member = await _member(uow, access.room_id, subject)
            if member is None:
                raise MemberNotFound
            await self._end(uow, member, NotAMember("You were removed from the room."))

    async def _end(self, uow: UnitOfWork, member: MemberRow, reason: NotAMember) -> None:
        room = await uow.get_one(RoomRow, member.room_id)
        if room.owner_id == member.subject:
            raise OwnerStays
        await uow.delete(member)
        address = room_events.at(room_id=room.id)
        left = MemberLeft(member=Person(id=member.subject, name=member.name))
        self.hub.publish(uow, address, left)
        self.hub.revoke(uow, address, member.subject, reason)

    async def archive(self, access: RoomAccess) -> Room:
        """Make the room read-only, from the commit on, for whoever is connected too.

        Raises RoomNotFound, NotTheOwner.
        """
        async with self.db.unit_of_work() as uow:
            room = await _locked(uow, access.room_id, exclusively=True)
            _check_owner(room, access.user)
            if room.archived_at is None:
                room.archived_at = datetime.now(UTC)
                archived = Archived(by=_person(access.user))
                self.hub.publish(uow, room_events.at(room_id=room.id), archived)
            return await _seen_by(uow, access.user, room.id)

    async def post(self, access: RoomAccess, draft: PostDraft, key: str | None = None) -> Posted:
        """Post into the room; everyone in it hears it.

        Raises RoomNotFound, NotAMember, RoomReadOnly: the room of this moment decides. Raises
        IdempotencyKeyReused.
        """
        operation = f"rooms.post {access.room_id}"

        async def post() -> Posted:
            return await self._post(uow, access.room_id, _person(access.user), draft.text)

        async with self.db.unit_of_work() as uow:
            return await self.idempotency.once(
                uow, access.user.subject, key, post, operation=operation, body=draft, answer=Posted
            )

    async def remind(self, access: RoomAccess, draft: ReminderDraft) -> None:
        """Have the room reminded later. Raises as `post` does, of this moment."""
        author = _person(access.user)
        reminder = Reminder(room_id=access.room_id, author=author, text=draft.text)
        at = datetime.now(UTC) + timedelta(seconds=draft.in_seconds)
        async with self.db.unit_of_work() as uow:
            await _writable(uow, access.room_id, author)
            self.jobs.enqueue(uow, reminder, at=at)

    async def post_reminder(self, uow: UnitOfWork, reminder: Reminder) -> Posted:
        """Post what was to be reminded of, within `uow`. Raises as `post` does."""
        text = f"Reminder: {reminder.text}"
        return await self._post(uow, reminder.room_id, reminder.author, text)

    async def _post(self, uow: UnitOfWork, room_id: int, author: Person, text: str) -> Posted:
        room = await _writable(uow, room_id, author)
        row = PostRow(
            room_id=room.id,
            author_id=author.id,
            author_name=author.name,
            text=text,
            posted_at=datetime.now(UTC),
        )
        uow.add(row)
        await uow.flush()
        posted = _posted(row)
        self.hub.publish(uow, room_events.at(room_id=room.id), posted)
        return posted

    async def posts(
        self, access: RoomAccess, *, before: int | None, limit: int
    ) -> Snapshot[Posted]:
        """What was posted, the newest first."""
        query = select(PostRow).where(PostRow.room_id == access.room_id)
        if before is not None:
            query = query.where(PostRow.id < before)
        async with self.db.reading() as session:
            rows = await session.scalars(query.order_by(PostRow.id.desc()).limit(limit + 1))
            found = [_posted(row) for row in rows]
            at = await self.hub.position(session, room_events.at(room_id=access.room_id))
        items, more = found[:limit], following(found, limit)
        return Snapshot(items=items, next=more, epoch=at.epoch, offset=at.offset)

    async def members(
        self, access: RoomAccess, *, after: int | None, limit: int
    ) -> Snapshot[Person]:
        """Who is in the room, those who joined first first."""
        query = select(MemberRow).where(MemberRow.room_id == access.room_id)
        if after is not None:
            query = query.where(MemberRow.id > after)
        async with self.db.reading() as session:
            rows = await session.scalars(query.order_by(MemberRow.id).limit(limit + 1))
            found = rows.all()
            at = await self.hub.position(session, room_events.at(room_id=access.room_id))
        people = [Person(id=row.subject, name=row.name) for row in found[:limit]]
        more = following(found, limit)
        return Snapshot(items=people, next=more, epoch=at.epoch, offset=at.offset)


def _rooms_seen_by(user: Principal) -> Select[RoomRow, bool, int]:
    of_room = MemberRow.room_id == RoomRow.id
    members = select(func.count()).where(of_room).scalar_subquery()
    return select(RoomRow, exists().where(of_room, MemberRow.subject == user.subject), members)


async def _seen_by(session: AsyncSession, user: Principal, room_id: int) -> Room:
    found = (await session.execute(_rooms_seen_by(user).where(RoomRow.id == room_id))).one_or_none()
    if found is None:
        raise RoomNotFound
    row, member, members = found
    return _room(row, member=member, members=members)


async def _locked(uow: UnitOfWork, room_id: int, *, exclusively: bool = False) -> RoomRow:
    """The room, which nobody archives, leaves or joins until the unit of work ends."""
    lock = {"read": not exclusively}
    room = await uow.get(RoomRow, room_id, with_for_update=lock)
    if room is None:
        raise RoomNotFound
    return room


async def _writable(uow: UnitOfWork, room_id: int, author: Person) -> RoomRow:
    """The room, which stays as it is, and in which `author` may post, until `uow` ends."""
    room = await _locked(uow, room_id)
    if await _member(uow, room.id, author.id) is None:
        raise NotAMember
    if room.archived_at is not None:
        raise RoomReadOnly(f"Room {room.id} is archived.")
    return room


async def _member(session: AsyncSession, room_id: int, subject: str) -> MemberRow | None:
    return await session.scalar(membership(room_id, subject))


def _check_owner(room: RoomRow, user: Principal) -> None:
    if room.owner_id != user.subject and "admin" not in user.roles:
        raise NotTheOwner


def _member_row(room_id: int, user: Principal, now: datetime) -> MemberRow:
    return MemberRow(room_id=room_id, subject=user.subject, name=user.name, joined_at=now)


def _person(user: Principal) -> Person:
    return Person(id=user.subject, name=user.name)


def _room(row: RoomRow, *, member: bool, members: int) -> Room:
    return Room(
        id=row.id,
        name=row.name,
        owner=Person(id=row.owner_id, name=row.owner_name),
        archived=row.archived_at is not None,
        member=member,
        members=members,
        created_at=row.created_at,
    )


def _posted(row: PostRow) -> Posted:
    return Posted(
        id=row.id,
        author=Person(id=row.author_id, name=row.author_name),
        text=row.text,
        posted_at=row.posted_at,
    )


async def _rooms(db: Database, hub: Hub, idempotency: Idempotency, jobs: Jobs) -> RoomsService:
    return RoomsService(db, hub, idempotency, jobs)


Rooms = Annotated[RoomsService, Depends(_rooms)]
"""The rooms service, injected."""
