"""What the audit log has done again and again."""

from datetime import UTC, datetime, timedelta

from app.core.audit import AuditRow
from app.core.db import delete_some
from app.core.jobs import JobRoutes, JobRun

REMOVED_AT_ONCE = 5_000

jobs = JobRoutes()


@jobs.every(timedelta(minutes=1), name="audit.forget_entries")
async def forget_entries(run: JobRun) -> None:
    """Remove entries that are older than AUDIT_DAYS."""
    kept_from = datetime.now(UTC) - timedelta(days=run.state.settings.audit_days)
    old = AuditRow.at < kept_from
    await delete_some(run.uow, [AuditRow.id], old, at_most=REMOVED_AT_ONCE, first=AuditRow.at)
