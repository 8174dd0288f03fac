"""What can be done with the audit log: read it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import Select, select, tuple_

from app.core.audit import AuditRow
from app.core.db import Database, SqlDatabase
from app.core.schemas import Page, following
from app.features.audit.schemas import AuditEntry, AuditQuery


@dataclass(frozen=True, slots=True)
class AuditService:
    """The audit log, over the database."""

    db: SqlDatabase

    async def entries(self, query: AuditQuery) -> Page[AuditEntry]:
        """The entries that a query is about, the newest first."""
        async with self.db.reading() as session:
            before: datetime | None = None
            if query.after is not None:
                last = await session.get(AuditRow, query.after)
                if last is None:  # it was the oldest, and is forgotten: so is all that came before
                    return Page(items=[])
                before = last.at
            rows = (await session.scalars(found_by(query, before))).all()
        entries = [_entry(row) for row in rows[: query.limit]]
        return Page(items=entries, next=following(rows, query.limit))


def found_by(query: AuditQuery, before: datetime | None) -> Select[AuditRow]:
    """The statement that finds the entries, and one more.

    `before` is the time of the entry `query.after`, none on the first page.
    """
    newest_first = (AuditRow.at.desc(), AuditRow.id.desc())
    found = select(AuditRow).order_by(*newest_first).limit(query.limit + 1)
    if query.action and query.action.endswith("."):
        # A range of an index on both engines, which LIKE is not; "/" follows "." in ASCII.
        following = query.action.removesuffix(".") + "/"
        found = found.where(AuditRow.action >= query.action, AuditRow.action < following)
    elif query.action:
        found = found.where(AuditRow.action == query.action)
    if query.subject is not None:
        found = found.where(AuditRow.subject == query.subject)
    if query.since is not None:
        found = found.where(AuditRow.at >= query.since)
    if query.until is not None:
        found = found.where(AuditRow.at < query.until)
    if before is not None:
        found = found.where(tuple_(AuditRow.at, AuditRow.id) < tuple_(before, query.after))
    return found


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=row.at,
        action=row.action,
        actor=row.actor,
        subject=row.subject,
        address=row.address,
        request_id=row.request_id,
        details=row.details,
    )


async def _audit(db: Database) -> AuditService:
    return AuditService(db)


AuditLog = Annotated[AuditService, Depends(_audit)]
"""The audit log, injected."""
