"""`/health/live` for a restart policy, `/health/ready` for a load balancer."""

import asyncio

from fastapi import APIRouter, Request

from app.core.db import Database
from app.core.errors import raises
from app.core.oidc import OpenIdProvider
from app.features.health.errors import NotReady
from app.features.health.schemas import Degraded, Health

READY_SECONDS = 2

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health()


@router.get("/ready")
@raises(NotReady)
async def ready(request: Request, db: Database) -> Health | Degraded:
    """The process and the database answer, and the process is not about to end.

    An identity provider is not asked for this: who verifies tokens knows how it was of late.
    """
    state = request.app.state
    if state.connections.draining:
        raise NotReady("The process is about to end.")
    try:
        async with asyncio.timeout(READY_SECONDS):
            await db.ping()
    except Exception:
        raise NotReady("The database does not answer.") from None
    keys = state.verifier.keys if isinstance(state.verifier, OpenIdProvider) else None
    if keys and not keys.known:
        raise NotReady("The identity provider has not answered yet.")
    # Of what follows every process would say so, and a load balancer must not take all of them out.
    slower = []
    if not state.backplane.connected:
        slower.append("Redis does not answer: events of other processes come late.")
    if keys and not keys.answers:
        slower.append("The identity provider does not answer: its newest keys may not be known.")
    return Degraded(detail=" ".join(slower)) if slower else Health()
