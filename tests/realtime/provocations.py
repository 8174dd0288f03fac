"""What provokes the errors of app/realtime, through a channel of the test's own."""

import asyncio
from uuid import uuid4

from fastapi import APIRouter, Request
from sqlalchemy import update

from app.core.auth import CurrentUser
from app.core.db import Database
from app.realtime import Channel, Events, Hub, Message, Since, Topic, errors, on, pull
from app.realtime.log import TopicRow
from tests.provoking import Problem, Provocation, answered, ended, framed
from tests.server import DEADLINE, RunningServer

router = APIRouter()

ALONE = "REST has neither frames nor a connection that lasts."


class Fill(Message):
    """Asks for as many letters."""

    type = "fill"
    letters: int


class Wait(Message):
    """Keeps the handler busy until the socket ends."""

    type = "wait"


@router.websocket("/pipe")
class Pipe(Channel):
    """Gives what is asked for, or never answers."""

    user: CurrentUser

    @on
    async def fill(self, asked: Fill) -> str:
        """As many letters."""
        return "a" * asked.letters

    @on
    async def wait(self, _: Wait) -> None:
        """Never an answer."""
        await asyncio.Event().wait()


class Blown(Message):
    """Something that went through the pipe."""

    type = "blown"


blown = Topic[Blown]("blown", durable=True)


@router.websocket("/blown")
class Ear(Channel):
    """Hears what goes through the pipe."""

    topic = blown
    user: CurrentUser


@router.get("/blown")
async def pull_blown(request: Request, user: CurrentUser, hub: Hub, since: Since) -> Events:
    """The same, with a long poll."""
    return await pull(request, hub, blown.at(), since, limit=10, wait=DEADLINE)


@router.post("/blown/restored")
async def restored(hub: Hub, db: Database) -> None:
    """Do to the log what restoring another database does."""
    waiting: list[bool] = []
    while not any(waiting):  # another request is on its way
        await asyncio.sleep(0.01)
        waiting = [each._live for feed in hub._feeds.values() for each in feed.subscriptions]
    async with db.unit_of_work() as uow:
        await uow.execute(update(TopicRow).values(epoch=uuid4().hex))
    await hub.sweep()


async def a_position_that_is_lost(server: RunningServer) -> Problem:
    """How a socket is closed for which the log has nothing that follows."""
    async with server.socket("/blown", server.token()) as socket, server.client() as http:
        await socket.until("welcome")
        assert await socket.ask("ping", ref=1) == {"type": "pong", "ref": 1}
        await http.post("/blown/restored")
        return await ended(socket)


async def a_position_that_is_lost_meanwhile(server: RunningServer) -> Problem:
    """The answer to a long poll for which it has nothing."""
    async with server.client(server.token()) as http:
        start = (await http.get("/blown")).json()
        query = {"epoch": start["epoch"], "after": start["offset"]}
        waiting = asyncio.create_task(http.get("/blown", params=query))
        await http.post("/blown/restored")
        return answered(await waiting)


async def unknown_type(server: RunningServer) -> Problem:
    """The answer to a frame that no handler takes."""
    async with server.socket("/pipe", server.token()) as socket:
        return await framed(socket, "sing")


async def somebody_elses_token(server: RunningServer) -> Problem:
    """The answer to a token of another subject."""
    async with server.socket("/pipe", server.token("1")) as socket:
        return await framed(socket, "auth.refresh", {"token": server.token("2")})


async def frames_that_pile_up(server: RunningServer) -> Problem:
    """The answer to the frame for which there is no room behind a busy handler."""
    async with server.socket("/pipe", server.token()) as socket:
        for ref in range(4):
            await socket.send("wait", ref=ref)
        refused = await socket.until("error")
        assert refused["ref"] in range(1, 4)
        problem: Problem = refused["data"]
        return problem


async def invalid_frames(server: RunningServer) -> Problem:
    """What a socket is told that sends nothing but nonsense."""
    async with server.socket("/pipe", server.token()) as socket:
        await socket.raw("nonsense")
        await socket.raw("nonsense")
        return await ended(socket)


async def unread_frames(server: RunningServer) -> Problem:
    """What a socket is told for which more waits than there is room for."""
    async with server.socket("/pipe", server.token()) as socket:
        await socket.send("fill", {"letters": 2000})
        return await ended(socket)


PROVOCATIONS = [
    Provocation(
        errors.PositionLost,
        rest=a_position_that_is_lost_meanwhile,
        channel=(a_position_that_is_lost,),
        routers=(router,),
    ),
    Provocation(errors.UnknownMessageType, channel=(unknown_type,), routers=(router,), alone=ALONE),
    Provocation(
        errors.SubjectChanged, channel=(somebody_elses_token,), routers=(router,), alone=ALONE
    ),
    Provocation(
        errors.InboxOverflow,
        channel=(frames_that_pile_up,),
        routers=(router,),
        settings={"ws_inbox_frames": 1},
        alone=ALONE,
    ),
    Provocation(
        errors.TooManyErrors,
        channel=(invalid_frames,),
        routers=(router,),
        settings={"ws_max_strikes": 2},
        alone=ALONE,
    ),
    Provocation(
        errors.SlowConsumer,
        channel=(unread_frames,),
        routers=(router,),
        settings={"ws_outbox_bytes": 1024},
        alone=ALONE,
    ),
]
