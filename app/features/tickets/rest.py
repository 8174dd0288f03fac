"""Tickets over REST."""

from inspect import getdoc
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.core import tickets
from app.core.auth import Principal, has_scope
from app.core.db import Database
from app.core.documents import operations
from app.features.tickets.schemas import Door, Ticket, Way

router = APIRouter(tags=["tickets"])


Anybody = Annotated[Principal, Depends(has_scope())]


@router.get("/tickets/doors")
async def doors(request: Request, user: Anybody) -> list[Door]:
    """The WebSockets that a ticket can be for; `{…}` in a path is a parameter."""
    found = (route for route, _ in operations(request.app) if not route.methods)
    return [Door(path=each.path, description=getdoc(each.endpoint) or "") for each in found]


@router.post("/tickets", status_code=201)
async def issue(db: Database, user: Anybody, way: Way) -> Ticket:
    """Get a ticket for one WebSocket, for a client that can send neither header nor protocol.

    It opens the WebSocket at `path` with `?ticket=` once, within 30 seconds, as whoever asks here.
    """
    async with db.unit_of_work() as uow:
        ticket = tickets.issue(uow, user, way.path)
    return Ticket(ticket=ticket, expires_in=int(tickets.LIFETIME.total_seconds()))
