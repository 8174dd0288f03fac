"""`/health/live` for a restart policy, `/health/ready` for a load balancer."""

import asyncio

from fastapi import APIRouter

from app.core.db import Database
from app.core.errors import raises
from app.features.health.errors import NotReady
from app.features.health.schemas import Health

READY_SECONDS = 2

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health()


@router.get("/ready")
@raises(NotReady)
async def ready(db: Database) -> Health:
    """The process and the database answer."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await db.ping()
    except Exception:
        raise NotReady("The database does not answer.") from None
    return Health()
