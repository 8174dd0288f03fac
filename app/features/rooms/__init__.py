"""An example: rooms that people talk in, over REST and WebSocket alike."""

from fastapi import APIRouter

from app.features.rooms import rest, ws
from app.features.rooms.jobs import jobs

router = APIRouter()
router.include_router(rest.router)
router.include_router(ws.router)

__all__ = ["jobs", "router"]
