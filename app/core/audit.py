"""The audit log: who did what that matters, written with what was done.

    audit(uow, "session.begun", subject="7", method="password")

An entry names people by subject, things by id, and holds no secret. It is committed with the work
that it tells of; a failure, which commits nothing, opens a unit of work for its entry alone.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.caller import current_caller
from app.core.db import Base, BigId, UnitOfWork

# In the order of its bytes on every engine, so that an index finds all that begins alike.
Action = String(64).with_variant(String(64, collation="C"), "postgresql")


class AuditRow(Base):
    """Something that somebody did; `actor` did it (none: an operator), to or for `subject`."""

    __tablename__ = "audit_log"
    # It is read from the newest on: each index ends in that order.
    __table_args__ = (
        Index("ix_audit_log_at", "at", "id"),
        Index("ix_audit_log_action", "action", "at", "id"),
        Index("ix_audit_log_subject", "subject", "at", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigId]
    at: Mapped[datetime]
    action: Mapped[str] = mapped_column(Action)
    actor: Mapped[str | None] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(255))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)


def audit(
    uow: UnitOfWork,
    action: str,
    *,
    subject: str | None = None,
    actor: str | None = None,
    **details: str | int | bool | list[str] | None,
) -> None:
    """Add an entry, committed with `uow`.

    Args:
        action: what was done, as `session.begun`: the kind of thing, and a verb in the past.
        subject: whom it was done to or for.
        actor: who did it, where that is somebody else.
        details: facts for a person to read; no secret.
    """
    caller = current_caller()
    row = AuditRow(
        at=datetime.now(UTC),
        action=action,
        actor=actor or (subject if caller.request_id else None),
        subject=subject,
        address=caller.address,
        request_id=caller.request_id,
        details=details,
    )
    uow.add(row)
