"""Routes and a channel in which each setting can be seen."""

import asyncio

from fastapi import APIRouter, Request, WebSocket

from app.realtime import Channel, Message, on

router = APIRouter(prefix="/probe")


@router.get("/crash")
async def crash() -> None:
    """Crashes."""
    raise RuntimeError("told in development")


@router.get("/client")
async def client(request: Request) -> str:
    """Who asks, as the server believes."""
    assert request.client
    return request.client.host


@router.get("/slow")
async def slow() -> None:
    """Takes longer than anybody waits."""
    await asyncio.sleep(60)


class Say(Message):
    """Asks for so many characters."""

    type = "say"
    size: int = 0
    wait: bool = False


class Said(Message):
    """So many characters."""

    type = "said"
    text: str


@router.websocket("/channel")
class ProbeChannel(Channel):
    """Says what it is asked for, or waits for the client to leave."""

    @on
    async def say(self, say: Say) -> Said:
        """So many characters."""
        if say.wait:
            await asyncio.Event().wait()
        return Said(text="x" * say.size)


@router.websocket("/bare")
async def bare(websocket: WebSocket) -> None:
    """Stays open until the client leaves."""
    await websocket.accept()
    await websocket.receive()
