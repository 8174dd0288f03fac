"""`/health/live` for a restart policy, `/health/ready` for a load balancer."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.core.errors import raises
from app.features.health.errors import MigrationsMissing, NotReady
from app.features.health.schemas import Health, Ready
from app.features.health.service import Readiness

router = APIRouter(prefix="/health", tags=["health"])


async def _readiness(request: Request) -> Readiness:
    readiness: Readiness = request.app.state.readiness
    return readiness


@router.get("/live")
async def live() -> Health:
    """The process answers."""
    return Health()


@router.get("/ready")
@raises(NotReady, MigrationsMissing)
async def ready(readiness: Annotated[Readiness, Depends(_readiness)]) -> Ready:
    """The process has what requests need, and is not about to end.

    What is checked is kept for a second, and shared by all that ask meanwhile.
    """
    return await readiness.ask()
