"""The audit log over REST: it is read, and nothing else."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.core.auth import Admin
from app.core.schemas import Page
from app.features.audit.schemas import AuditEntry, AuditQuery
from app.features.audit.service import AuditLog

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("")
async def read(
    log: AuditLog, user: Admin, query: Annotated[AuditQuery, Query()]
) -> Page[AuditEntry]:
    """What was done that matters, the newest first; kept for AUDIT_DAYS."""
    return await log.entries(query)
