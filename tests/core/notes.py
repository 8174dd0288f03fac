"""A write that takes a key, on a route and a channel; what it wrote is in the event log."""

from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

import httpx2
from fastapi import APIRouter, Depends

from app.core.auth import CurrentUser, Principal
from app.core.db import Database, SqlDatabase
from app.core.errors import Forbidden, raises
from app.core.idempotency import Idempotency, IdempotencyKey, IdempotencyKeys
from app.realtime import Channel, EventHub, Hub, Message, Topic, on
from tests.provoking import Problem, answered, framed
from tests.server import RunningServer

PATH = "/probe/notes"

router = APIRouter(prefix=PATH)


class NoteDraft(Message):
    """A note to write."""

    type = "note"
    text: str


class Noted(Message):
    """A note that was written."""

    type = "noted"
    id: str
    text: str


notes = Topic[Noted]("notes", durable=True)


@dataclass(frozen=True, slots=True)
class NoteService:
    """Writes notes."""

    db: SqlDatabase
    hub: EventHub
    idempotency: IdempotencyKeys

    async def write(
        self, user: Principal, draft: NoteDraft, key: str | None, *, board: str = ""
    ) -> Noted:
        """Write a note; one that says `no` is refused when it has been published already."""

        async def work() -> Noted:
            noted = Noted(id=uuid4().hex, text=draft.text)
            self.hub.publish(uow, notes.at(), noted)
            if draft.text == "no":
                raise Forbidden
            return noted

        operation = f"notes.write {board}"
        async with self.db.unit_of_work() as uow:
            return await self.idempotency.once(
                uow, user.subject, key, work, operation=operation, body=draft, answer=Noted
            )


async def _service(db: Database, hub: Hub, idempotency: Idempotency) -> NoteService:
    return NoteService(db, hub, idempotency)


Service = Annotated[NoteService, Depends(_service)]


@router.post("", status_code=201)
@raises(Forbidden)
async def write(
    service: Service, user: CurrentUser, draft: NoteDraft, key: IdempotencyKey, board: str = ""
) -> Noted:
    """Write a note over REST."""
    return await service.write(user, draft, key, board=board)


@router.websocket("/ws")
class NoteChannel(Channel):
    """Write notes, and hear of them."""

    topic = notes
    user: CurrentUser
    service: Service

    @on
    @raises(Forbidden)
    async def write(self, draft: NoteDraft, key: IdempotencyKey) -> Noted:
        """Write a note through a channel."""
        return await self.service.write(self.user, draft, key)


async def write_over_rest(
    server: RunningServer, text: str, key: str | None, *, subject: str = "1", board: str = ""
) -> httpx2.Response:
    """The answer to somebody who writes a note."""
    headers = {} if key is None else {"Idempotency-Key": key}
    async with server.client(server.token(subject)) as client:
        body, query = {"text": text}, {"board": board}
        return await client.post(PATH, json=body, headers=headers, params=query)


async def reused(server: RunningServer) -> Problem:
    """The answer to another body with a key that was used."""
    assert (await write_over_rest(server, "First.", "once")).status_code == 201
    return answered(await write_over_rest(server, "Second.", "once"))


async def reused_on_a_socket(server: RunningServer) -> Problem:
    """The same on a socket, after REST has used the key."""
    async with server.socket(f"{PATH}/ws", server.token()) as socket:
        return await framed(socket, "note", {"text": "Second."}, key="once")
