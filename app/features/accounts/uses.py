"""When keys and session cookies were last used: kept in memory, and written now and then.

So no request waits for that to be written, and however many there are, a row is written once a
minute at most.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeVar

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from app.core.background import Periodic
from app.core.db import SqlDatabase
from app.features.accounts.lifetimes import Lifetimes
from app.features.accounts.models import ApiKey, Session

WRITE_SECONDS = 5.0
AGAIN_AFTER = timedelta(minutes=1)
REMEMBERED = 20_000  # of each kind; what is used beyond that is noted the next time
AT_ONCE = 500  # rows in one statement
LAST_SECONDS = 2.0  # for what is left when the process ends

K = TypeVar("K", int, str)


class _Noted(dict[K, datetime]):
    """When each was noted last; those that have not been written since are in `new`."""

    def __init__(self) -> None:
        super().__init__()
        self.new: set[K] = set()

    def note(self, key: K) -> None:
        now = datetime.now(UTC)
        last = self.get(key)
        if last is None and len(self) >= REMEMBERED:
            return
        if last is None or now - last >= AGAIN_AFTER:
            self[key] = now
            self.new.add(key)

    def take(self) -> Iterator[Sequence[K]]:
        """What is new, in parts; what was noted a minute ago is forgotten."""
        new, self.new = iter(sorted(self.new)), set()
        before = datetime.now(UTC) - AGAIN_AFTER
        for key in [key for key, at in self.items() if at <= before]:
            del self[key]
        while part := list(islice(new, AT_ONCE)):
            yield part


class Uses:
    """Notes uses of keys and session cookies, and writes them every few seconds.

    Args:
        db: gives the database.
        lifetimes: how long a session lasts after it was used.
    """

    name = "uses of keys and cookies"

    def __init__(self, db: Callable[[], SqlDatabase], lifetimes: Lifetimes) -> None:
        self._db = db
        self._lifetimes = lifetimes
        self._keys: _Noted[int] = _Noted()
        self._sessions: _Noted[str] = _Noted()
        self._writing = Periodic(self.name, self.write, seconds=WRITE_SECONDS)

    def key(self, key_id: int) -> None:
        """Note that an API key was used now."""
        self._keys.note(key_id)

    def session(self, session_id: str) -> None:
        """Note that a session was used now: it lasts longer then."""
        self._sessions.note(session_id)

    async def run(self) -> None:
        """Write for ever, and once more at the end."""
        try:
            await self._writing.run()
        finally:
            with suppress(Exception):
                async with asyncio.timeout(LAST_SECONDS):
                    await self.write()

    async def write(self) -> None:
        """Write what was noted since the last time."""
        for keys in self._keys.take():
            await self._write_keys(keys)
        for sessions in self._sessions.take():
            await self._write_sessions(sessions)

    async def _write_keys(self, ids: Sequence[int]) -> None:
        now = datetime.now(UTC)
        due = select(ApiKey.id).where(ApiKey.id.in_(ids), _is_due(ApiKey.used_at, now))
        # Skipped where locked: two processes that wait for one another's rows would do so for ever.
        due = due.with_for_update(skip_locked=True)
        async with self._db().unit_of_work() as uow:
            found = (await uow.scalars(due)).all()
            await uow.execute(update(ApiKey).where(ApiKey.id.in_(found)).values(used_at=now))

    async def _write_sessions(self, ids: Sequence[str]) -> None:
        now = datetime.now(UTC)
        due = select(Session.id, Session.created_at).where(
            Session.id.in_(ids), Session.ended_at.is_(None), _is_due(Session.used_at, now)
        )
        async with self._db().unit_of_work() as uow:
            found = await uow.execute(due.with_for_update(skip_locked=True))
            values = [
                {"id": id_, "used_at": now, "expires_at": self._lifetimes.end(begun, now)}
                for id_, begun in found
            ]
            if values:
                await uow.execute(update(Session), values)


def _is_due(used_at: InstrumentedAttribute[datetime | None], now: datetime) -> ColumnElement[bool]:
    """Whether no process has written it within about a minute."""
    return or_(used_at.is_(None), used_at <= now - AGAIN_AFTER + timedelta(seconds=WRITE_SECONDS))
