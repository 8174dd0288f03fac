"""What provokes the errors of accounts, and the one of a server that is full."""

import asyncio

from fastapi import APIRouter

from app.core.errors import Overloaded
from app.features.accounts import errors
from app.realtime import Channel
from tests.features.accounts.people import Gate, begin, log_in, me, refresh, sign_up
from tests.provoking import Problem, Provocation, answered, denied
from tests.server import RunningServer

ALONE = "Accounts and sessions are a matter of REST: a channel takes the tokens it gets there."

router = APIRouter()


@router.websocket("/open")
class Open(Channel):
    """Open to everybody."""


async def taken(server: RunningServer) -> Problem:
    """The answer to a second sign-up."""
    async with server.client() as client:
        await sign_up(client)
        return answered(await sign_up(client))


async def wrong(server: RunningServer) -> Problem:
    """The answer to a log-in without an account."""
    async with server.client() as client:
        return answered(await log_in(client))


async def unknown(server: RunningServer) -> Problem:
    """The answer to a refresh token that nobody was given."""
    async with server.client() as client:
        return answered(await refresh(client, "unknown"))


async def reused(server: RunningServer) -> Problem:
    """The answer to a refresh token's second use."""
    async with server.client() as client:
        pair = await begin(client)
        await refresh(client, pair["refresh_token"])
        return answered(await refresh(client, pair["refresh_token"]))


async def gone(server: RunningServer) -> Problem:
    """The answer about an account that does not exist."""
    async with server.client() as client:
        return answered(await me(client, server.token("7")))


async def too_many_passwords(server: RunningServer) -> Problem:
    """The answer to the first log-in that has no place in the queue."""
    gate = Gate(server)
    async with server.client() as client:
        with gate.closed():
            attempts = [asyncio.create_task(log_in(client)) for _ in range(34)]
            done, _ = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*attempts)
    return answered(done.pop().result())


async def too_many_sockets(server: RunningServer) -> Problem:
    """How the first socket is denied for which there is no room."""
    async with server.socket("/open") as socket:
        await socket.until("welcome")
        return await denied(server, "/open", None)


PROVOCATIONS = [
    Provocation(errors.EmailTaken, rest=taken, alone=ALONE),
    Provocation(errors.WrongCredentials, rest=wrong, alone=ALONE),
    Provocation(errors.RefreshRefused, rest=unknown, alone=ALONE),
    Provocation(errors.RefreshReused, rest=reused, alone=ALONE),
    Provocation(errors.AccountGone, rest=gone, alone=ALONE),
    Provocation(
        Overloaded,
        rest=too_many_passwords,
        channel=(too_many_sockets,),
        routers=(router,),
        settings={"password_workers": 1, "ws_max_connections": 1},
        differ=frozenset({"detail"}),  # what there is too much of
    ),
]
