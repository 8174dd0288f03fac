"""What accounts have done again and again."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import or_

from app.core.db import delete_some
from app.core.jobs import JobRoutes, JobRun
from app.features.accounts.models import ApiKey, Session

KEPT = timedelta(days=7)  # for whoever looks into who was signed in
REMOVED_AT_ONCE = 200  # each takes its refresh tokens with it, and those may be thousands

jobs = JobRoutes()


@jobs.every(timedelta(minutes=1), name="accounts.forget_sessions")
async def forget_sessions(run: JobRun) -> None:
    """Remove sessions that expired long ago, with their refresh tokens."""
    old = Session.expires_at <= datetime.now(UTC) - KEPT
    await delete_some(run.uow, [Session.id], old, at_most=REMOVED_AT_ONCE, first=Session.expires_at)


@jobs.every(timedelta(hours=1), name="accounts.forget_keys")
async def forget_keys(run: JobRun) -> None:
    """Remove API keys that were revoked or expired long ago."""
    long_ago = datetime.now(UTC) - KEPT
    old = or_(ApiKey.expires_at <= long_ago, ApiKey.revoked_at <= long_ago)
    await delete_some(run.uow, [ApiKey.id], old, at_most=REMOVED_AT_ONCE)
