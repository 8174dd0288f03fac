"""What the core's tables no longer need is removed from them, again and again."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete

from app.core.db import delete_some
from app.core.idempotency import IdempotencyRow
from app.core.jobs import JobRoutes, JobRun
from app.core.keyring import OF_SECRET_KEY, SigningKeyRow
from app.core.revocations import RevocationRow
from app.core.tickets import TicketRow

REMOVED_AT_ONCE = 5_000

jobs = JobRoutes()


@jobs.every(timedelta(minutes=1), name="core.forget_keys")
async def forget_keys(run: JobRun) -> None:
    """Remove idempotency keys that are free again."""
    key = (IdempotencyRow.subject, IdempotencyRow.key)
    free = IdempotencyRow.expires_at <= datetime.now(UTC)
    await delete_some(run.uow, key, free, at_most=REMOVED_AT_ONCE)


@jobs.every(timedelta(minutes=1), name="core.forget_revocations")
async def forget_revocations(run: JobRun) -> None:
    """Remove revocations that every token they are about has been outlived by."""
    old = RevocationRow.expires_at <= datetime.now(UTC)
    await delete_some(run.uow, [RevocationRow.id], old, at_most=REMOVED_AT_ONCE)


@jobs.every(timedelta(minutes=1), name="core.forget_tickets")
async def forget_tickets(run: JobRun) -> None:
    """Remove tickets that nobody used in time."""
    old = TicketRow.expires_at <= datetime.now(UTC)
    await delete_some(run.uow, [TicketRow.digest], old, at_most=REMOVED_AT_ONCE)


@jobs.every(timedelta(minutes=1), name="core.forget_signing_keys")
async def forget_signing_keys(run: JobRun) -> None:
    """Remove keys whose last token has expired; a SECRET_KEY that is over must not come back."""
    over = SigningKeyRow.verifies_until <= datetime.now(UTC)
    await run.uow.execute(
        delete(SigningKeyRow).where(over, SigningKeyRow.material != OF_SECRET_KEY)
    )
