"""Routes and a channel in which each setting can be seen."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, WebSocket

from app.core.auth import CurrentUser, Principal, has_scope
from app.core.db import Database
from app.core.mail import Mail
from app.realtime import Channel, Message, on

router = APIRouter(prefix="/probe")

TO = "ann@example.com"


@router.get("/crash")
async def crash() -> None:
    """Crashes."""
    raise RuntimeError("told in development")


@router.get("/client")
async def client(request: Request) -> str:
    """Who asks, as the server believes."""
    assert request.client
    return request.client.host


@router.get("/me")
async def me(user: Annotated[Principal, Depends(has_scope())]) -> dict[str, list[str] | None]:
    """What whoever asks may do."""
    scopes = None if user.scopes is None else sorted(user.scopes)
    return {"roles": sorted(user.roles), "scopes": scopes}


@router.post("/mail", status_code=202)
async def send(db: Database, mail: Mail, response: Response) -> None:
    """Has a mail sent to somebody."""
    async with db.unit_of_work() as uow:
        link = f"{mail.public_url}/#confirm?token=secret"
        name = mail.send(uow, to=TO, template="sign_up", link=link, hours=24)
    response.headers.update(mail.shown(name))


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


@router.websocket("/user")
class UserChannel(Channel):
    """Stays open for whoever is signed in."""

    user: CurrentUser
