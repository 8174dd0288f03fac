"""A route and a channel that call another service, and what goes wrong with that."""

from fastapi import APIRouter

from app.core.auth import CurrentUser
from app.core.outbound import Outbound
from app.realtime import Channel, Message, on
from tests.core.upstream import Play, Upstream
from tests.provoking import Problem, answered, framed
from tests.server import RunningServer

router = APIRouter(prefix="/outbound")


class Call(Message):
    """What to call."""

    type = "call"
    url: str
    follow: bool = False


class Called(Message):
    """What came of it."""

    type = "called"
    status: int


@router.post("/call")
async def call_over_rest(user: CurrentUser, outbound: Outbound, call: Call) -> Called:
    """Call another service, with the token of whoever asks."""
    answer = await outbound.request(
        "GET", call.url, forward_token=True, follow_redirects=call.follow
    )
    return Called(status=answer.status_code)


@router.websocket("/ws")
class CallingChannel(Channel):
    """Call another service, with the token of whoever is connected."""

    user: CurrentUser
    outbound: Outbound

    @on
    async def call(self, call: Call) -> Called:
        """Call another service."""
        return await call_over_rest(self.user, self.outbound, call)


async def fails(server: RunningServer, play: bytes | Play) -> Problem:
    """The problem that answers a request whose service plays so."""
    async with Upstream(play) as upstream, server.client(server.token()) as client:
        return answered(await client.post("/outbound/call", json={"url": upstream.url}))


async def fails_in_a_frame(server: RunningServer, play: bytes | Play) -> Problem:
    """The problem that answers a frame whose service plays so; the socket lives on."""
    async with Upstream(play) as upstream, server.socket("/outbound/ws", server.token()) as socket:
        return await framed(socket, "call", {"url": upstream.url})
