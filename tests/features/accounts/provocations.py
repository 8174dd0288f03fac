"""What provokes the errors of accounts."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from unittest.mock import patch

from fastapi import APIRouter
from httpx2 import Response

from app.core.auth import CurrentUser
from app.core.db import SqlDatabase
from app.features.accounts import errors
from app.features.accounts.keys import service as keys
from app.realtime import Channel
from tests.features.accounts.administering import Administrator, administrator
from tests.features.accounts.holders import FACTOR, Clock, Holder
from tests.features.accounts.mailbox import ask
from tests.features.accounts.people import (
    ADDRESS,
    PASSWORD,
    ask_to_sign_up,
    begin,
    confirm,
    log_in,
    me,
    refresh,
    sign_up,
    token_of,
)
from tests.provoking import Problem, Provocation, answered, denied, ended
from tests.server import RunningServer

ALONE = "Accounts and sessions are a matter of REST: a channel takes the tokens it gets there."

router = APIRouter()


@router.websocket("/mine")
class Mine(Channel):
    """Open to who is signed in."""

    user: CurrentUser


async def taken(server: RunningServer) -> Problem:
    """The answer to the second of two links to one address."""
    async with server.client() as client:
        asked = [await ask_to_sign_up(client) for _ in range(2)]
        one, two = [await token_of(client, each) for each in asked]
        await confirm(client, one)
        return answered(await confirm(client, two))


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


async def stepped_up(server: RunningServer, **proof: str) -> Problem:
    """The answer to a proof that is not enough."""
    async with server.client() as client:
        client.headers["Authorization"] = f"Bearer {(await begin(client))['access_token']}"
        answers = [await client.post("/api/v1/auth/step-up", json=proof) for _ in range(11)]
    return answered(answers[-1])


async def factor(server: RunningServer, then: Callable[[Holder], Awaitable[Response]]) -> Problem:
    """What somebody is answered who has a second factor."""
    async with server.client() as client:
        pair = await begin(client)
    ann = Holder(server, 1, ADDRESS)
    server.app.state.second_factors.clock = Clock()
    await ann.enrol(pair)
    return answered(await then(ann))


async def another_factor(server: RunningServer) -> Problem:
    """The answer to setting up a second second factor."""

    async def set_up(ann: Holder) -> Response:
        return await ann.call(await ann.begin(ann.code(1)), "POST", FACTOR)

    return await factor(server, set_up)


async def no_factor(server: RunningServer) -> Problem:
    """The answer to confirming what was not set up."""
    async with server.client() as client:
        client.headers["Authorization"] = f"Bearer {(await begin(client))['access_token']}"
        return answered(await client.post(f"{FACTOR}/confirm", json={"code": "123456"}))


async def no_key(server: RunningServer) -> Problem:
    """The answer about a key that nobody made."""
    async with server.client(server.token()) as client:
        return answered(await client.delete("/api/v1/api-keys/7"))


async def too_many_keys(server: RunningServer) -> Problem:
    """The answer to somebody who may have no key more."""
    async with server.client() as client:
        await sign_up(client)
    new = {"name": "CI", "scopes": ["admin"]}
    async with server.client(server.token(authenticated_at=datetime.now(UTC))) as client:
        with patch.object(keys, "AT_MOST", 0):
            return answered(await client.post("/api/v1/api-keys", json=new))


async def cookie(server: RunningServer) -> dict[str, str]:
    """The cookie of somebody who is signed in by one."""
    form = {"username": ADDRESS, "password": PASSWORD}
    async with server.client() as client:
        begun = await client.post("/api/v1/auth/cookie", data=form)
        if begun.status_code == 401:  # nobody has signed up yet
            await sign_up(client)
            begun = await client.post("/api/v1/auth/cookie", data=form)
    return {"Cookie": begun.headers["set-cookie"].partition(";")[0]}


async def cookie_alone(server: RunningServer) -> Problem:
    """The answer to a request that is made by cookie alone."""
    headers = await cookie(server)
    async with server.client() as client:
        return answered(await client.post("/api/v1/auth/logout/everywhere", headers=headers))


async def cookie_of_a_program(server: RunningServer) -> Problem:
    """How a socket is denied that has a cookie and comes from no page."""
    return await denied(server, "/mine", None, headers=await cookie(server))


async def cookie_of_a_page(server: RunningServer) -> Problem:
    """How a page's socket is closed that says something else first."""
    headers = await cookie(server)
    async with server.socket("/mine", headers=headers, origin=server.url) as socket:
        await socket.send("ping")
        return await ended(socket)


async def no_link(server: RunningServer) -> Problem:
    """The answer to a link that nobody was mailed."""
    async with server.client() as client:
        return answered(await ask(client, "email/confirm", token="unknown"))


async def wrong_beside_token(server: RunningServer) -> Problem:
    """The answer to a change of password by somebody who does not know it."""
    async with server.client() as client:
        pair = await begin(client)
        client.headers["Authorization"] = f"Bearer {pair['access_token']}"
        change = {"current": "not it", "new": PASSWORD}
        return answered(await ask(client, "me/password", **change))


async def administered(
    server: RunningServer, what: Callable[[Administrator, int], Awaitable[Response]]
) -> Problem:
    """The answer to something that an administrator, who has no account, does with another."""
    database = SqlDatabase(server.settings.database)
    try:
        only = await administrator(server, database)
    finally:
        await database.dispose()
    token = server.token("99", roles=["admin"], authenticated_at=datetime.now(UTC))
    by = only if what is disables_herself else Administrator(server, 99, token)
    return answered(await what(by, only.id))


async def disables_herself(eve: Administrator, only: int) -> Response:
    """The answer to an administrator who would lock herself out."""
    return await eve.ask("POST", f"/{only}/disable")


PROVOCATIONS = [
    Provocation(
        errors.AccountNotFound,
        rest=lambda s: administered(s, lambda eve, _: eve.ask("GET", "/7000")),
        alone=ALONE,
    ),
    Provocation(errors.NotToOneself, rest=lambda s: administered(s, disables_herself), alone=ALONE),
    Provocation(
        errors.LastAdministrator,
        rest=lambda s: administered(s, lambda eve, only: eve.ask("POST", f"/{only}/disable")),
        alone=ALONE,
    ),
    Provocation(errors.LinkRefused, rest=no_link, alone=ALONE),
    Provocation(errors.WrongPassword, rest=wrong_beside_token, alone=ALONE),
    Provocation(errors.KeyNotFound, rest=no_key, alone=ALONE),
    Provocation(errors.TooManyKeys, rest=too_many_keys, alone=ALONE),
    Provocation(
        errors.CsrfFailed,
        rest=cookie_alone,
        channel=(cookie_of_a_program, cookie_of_a_page),
        routers=(router,),
        differ=frozenset({"detail"}),  # what is missing
    ),
    Provocation(errors.EmailTaken, rest=taken, alone=ALONE),
    Provocation(errors.WrongCredentials, rest=wrong, alone=ALONE),
    Provocation(errors.RefreshRefused, rest=unknown, alone=ALONE),
    Provocation(errors.RefreshReused, rest=reused, alone=ALONE),
    Provocation(errors.AccountGone, rest=gone, alone=ALONE),
    Provocation(errors.AccountLocked, rest=lambda s: stepped_up(s, password="not it"), alone=ALONE),
    Provocation(errors.SecondFactorRequired, rest=lambda s: factor(s, Holder.log_in), alone=ALONE),
    Provocation(
        errors.WrongCode,
        rest=lambda s: factor(s, lambda ann: ann.log_in(ann.wrong_code())),
        alone=ALONE,
    ),
    Provocation(errors.SecondFactorInForce, rest=another_factor, alone=ALONE),
    Provocation(errors.NoSecondFactor, rest=no_factor, alone=ALONE),
]
