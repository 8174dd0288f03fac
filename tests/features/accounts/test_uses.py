"""Uses of keys and cookies: noted in memory, bounded, and written in the end."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.core.db import SqlDatabase
from app.features.accounts import uses
from app.features.accounts.lifetimes import Lifetimes
from app.features.accounts.models import ApiKey, Session
from app.features.accounts.uses import Uses
from tests.features.accounts.holders import holder
from tests.server import RunningServer

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
LIFETIMES = Lifetimes(DAY, 2 * DAY)


async def keys(common: RunningServer, database: SqlDatabase, *used_at: Any) -> list[int]:
    """The ids of keys that were used at these times."""
    person, now = await holder(common, database), datetime.now(UTC)
    rows = [
        ApiKey(
            user_id=person.id,
            name="CI",
            prefix="dpx_x",
            digest=f"{person.id} {number}",
            scopes=[],
            created_at=now,
            expires_at=now + DAY,
            used_at=at,
        )
        for number, at in enumerate(used_at)
    ]
    async with database.unit_of_work() as uow:
        uow.add_all(rows)
    return [row.id for row in rows]


async def used(database: SqlDatabase, ids: list[int]) -> list[datetime | None]:
    """When keys were used."""
    query = select(ApiKey.used_at).where(ApiKey.id.in_(ids)).order_by(ApiKey.id)
    async with database.reading() as session:
        return list(await session.scalars(query))


async def test_what_was_used_is_written(common: RunningServer, stored: SqlDatabase) -> None:
    """In one go; what another process wrote within the minute stays as it is."""
    now = datetime.now(UTC)
    lately, before = now - MINUTE / 2, now - 2 * MINUTE
    ids = await keys(common, stored, None, before, lately, before)
    noted = Uses(lambda: stored, LIFETIMES)
    for key_id in ids[:3]:
        noted.key(key_id)
    assert await used(stored, ids) == [None, before, lately, before]
    await noted.write()
    first, second, third, fourth = await used(stored, ids)
    assert first == second
    assert first is not None
    assert first >= now
    assert (third, fourth) == (lately, before)


async def test_what_is_in_use_elsewhere_is_not_waited_for(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Nor is it overwritten: a session that has ended does not last longer for it."""
    person, now = await holder(common, stored), datetime.now(UTC)
    ended = Session(
        id=f"ended {person.id}",
        user_id=person.id,
        methods=[],
        created_at=now,
        used_at=now - DAY,
        expires_at=now,
        ended_at=now,
    )
    async with stored.unit_of_work() as uow:
        uow.add(ended)
    noted = Uses(lambda: stored, LIFETIMES)
    noted.session(ended.id)
    await noted.write()
    async with stored.reading() as session:
        row = await session.get_one(Session, ended.id)
    assert (row.used_at, row.expires_at) == (now - DAY, now)


async def test_what_is_left_at_the_end_is_written(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """A process that ends forgets nothing."""
    ids = await keys(common, stored, None)
    noted = Uses(lambda: stored, LIFETIMES)
    running = asyncio.create_task(noted.run())
    await asyncio.sleep(0.05)  # its first turn is over
    noted.key(ids[0])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await used(stored, ids) != [None]


def test_no_more_is_remembered_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys there are, and each is written once."""
    monkeypatch.setattr(uses, "REMEMBERED", 5)
    monkeypatch.setattr(uses, "AT_ONCE", 2)
    noted: uses._Noted[int] = uses._Noted()
    for key in [*range(9), *range(9)]:
        noted.note(key)
    assert len(noted) == 5
    assert list(noted.take()) == [[0, 1], [2, 3], [4]]
    assert list(noted.take()) == []
    noted.note(0)
    assert list(noted.take()) == []
    for key in noted:
        noted[key] -= MINUTE
    noted.note(0)
    assert list(noted.take()) == [[0]]
    assert list(noted) == [0]
