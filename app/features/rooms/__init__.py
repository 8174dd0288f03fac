"""An example: rooms that people talk in, over REST and WebSocket alike."""

from fastapi import APIRouter

from app.features.rooms import rest, ws

router = APIRouter()
router.include_router(rest.router)
router.include_router(ws.router)

__all__ = ["router"]
