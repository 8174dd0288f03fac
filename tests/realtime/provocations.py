"""What provokes the errors of app/realtime, through a channel of the test's own."""

import asyncio

from fastapi import APIRouter

from app.core.auth import CurrentUser
from app.realtime import Channel, Message, errors, on
from tests.provoking import Problem, Provocation, ended, framed
from tests.server import RunningServer

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
