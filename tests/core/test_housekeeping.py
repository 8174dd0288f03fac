"""What the core's tables no longer need goes, on each database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from starlette.datastructures import State

from app.core import housekeeping
from app.core.db import SqlDatabase
from app.core.idempotency import IdempotencyRow
from app.core.jobs import JobRun
from app.core.revocations import RevocationRow
from app.core.settings import Settings
from app.core.tickets import TicketRow
from app.main import create_app

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """A database on each engine, with keys, revocations and tickets, over and not."""
    database = SqlDatabase(settings.database)
    now = datetime.now(UTC)
    async with database.unit_of_work() as uow:
        for name, until in (
            ("old", now - MINUTE),
            ("older", now - 2 * MINUTE),
            ("new", now + 10 * MINUTE),
        ):
            uow.add(IdempotencyRow(subject="1", key=name, fingerprint="x", expires_at=until))
            uow.add(RevocationRow(kind="session", key=name, revoked_at=now, expires_at=until))
            uow.add(TicketRow(digest=name, path="/", principal={}, expires_at=until))
    yield database
    await database.dispose()


async def left(db: SqlDatabase) -> list[set[str]]:
    """The keys, the revocations and the tickets there are."""
    async with db.reading() as session:
        columns = (IdempotencyRow.key, RevocationRow.key, TicketRow.digest)
        return [set(await session.scalars(select(column))) for column in columns]


async def test_what_has_expired_goes(db: SqlDatabase) -> None:
    """And nothing else does."""
    everything = {"old", "older", "new"}
    async with db.unit_of_work() as uow:
        await housekeeping.forget_keys(JobRun(uow, State(), 1, 1))
    assert await left(db) == [{"new"}, everything, everything]
    async with db.unit_of_work() as uow:
        await housekeeping.forget_revocations(JobRun(uow, State(), 2, 1))
    assert await left(db) == [{"new"}, {"new"}, everything]
    async with db.unit_of_work() as uow:
        await housekeeping.forget_tickets(JobRun(uow, State(), 3, 1))
    assert await left(db) == [{"new"}, {"new"}, {"new"}]


async def test_so_much_at_a_time(db: SqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much has come together, nobody waits long for it to go."""
    monkeypatch.setattr(housekeeping, "REMOVED_AT_ONCE", 1)
    async with db.unit_of_work() as uow:
        await housekeeping.forget_keys(JobRun(uow, State(), 1, 1))
        await housekeeping.forget_revocations(JobRun(uow, State(), 1, 1))
        await housekeeping.forget_tickets(JobRun(uow, State(), 1, 1))
    assert [len(rows) for rows in await left(db)] == [2, 2, 2]


def test_the_service_keeps_house(settings: Settings) -> None:
    """Every minute."""
    routes = create_app(settings).state.jobs.routes
    for name in ("core.forget_keys", "core.forget_revocations", "core.forget_tickets"):
        assert routes.get(name).every == MINUTE
