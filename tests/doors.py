"""Two WebSockets that are open to whoever is signed in, and stay open until either side leaves."""

from fastapi import APIRouter, WebSocket

from app.core.auth import CurrentUser
from app.realtime import Channel

router = APIRouter()


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """As FastAPI has it."""
    await websocket.accept()
    await websocket.receive()


@router.websocket("/channel")
class UserChannel(Channel):
    """As this service has it."""

    user: CurrentUser
