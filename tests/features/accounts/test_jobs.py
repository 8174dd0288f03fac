"""What accounts have done again and again, on each database."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from starlette.datastructures import State

from app.core.db import SqlDatabase
from app.core.jobs import JobRun
from app.core.settings import Settings
from app.features.accounts.jobs import KEPT, forget_sessions
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.main import create_app

MINUTE = timedelta(minutes=1)


@pytest.mark.usefixtures("engine")
async def test_sessions_that_expired_long_ago_go(database: SqlDatabase) -> None:
    """With their refresh tokens; whoever was signed in lately can be seen."""
    now = datetime.now(UTC)
    user = User(
        email="a@b.example",
        email_key="a@b.example",
        name="Ann",
        password_hash="x",
        roles=[],
        created_at=now,
    )
    ends = {"long ago": now - KEPT - MINUTE, "lately": now - KEPT + MINUTE, "now": now + MINUTE}
    async with database.unit_of_work() as uow:
        uow.add(user)
        await uow.flush()
        for name, end in ends.items():
            uow.add(Session(id=name, user_id=user.id, created_at=now, expires_at=end))
        await uow.flush()
        for name in ends:
            uow.add(IssuedRefreshToken(digest=name, session_id=name))
    async with database.unit_of_work() as uow:
        await forget_sessions(JobRun(uow, State(), 1, 1))
    async with database.reading() as session:
        assert set(await session.scalars(select(Session.id))) == {"lately", "now"}
        assert set(await session.scalars(select(IssuedRefreshToken.digest))) == {"lately", "now"}


def test_the_service_forgets_them(settings: Settings) -> None:
    """Every minute."""
    assert create_app(settings).state.jobs.routes.get("accounts.forget_sessions").every == MINUTE
