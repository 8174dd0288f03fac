"""Log-ins that fail: written into the audit log, and counted."""

from app.core.audit import audit
from app.core.db import UnitOfWork
from app.core.metrics import LOG_IN_FAILURES


def log_in_failed(
    uow: UnitOfWork, *, subject: str | None = None, **details: str | int | bool | None
) -> None:
    """Record a log-in that failed, and count it once `uow` has committed; `details` are audit's."""
    audit(uow, "log_in.failed", subject=subject, actor=None, **details)
    uow.after_commit(LOG_IN_FAILURES.inc)
