"""Tickets: one WebSocket at one path, within half a minute, for whoever was given it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import pytest
from fastapi import APIRouter, Depends, WebSocket
from sqlalchemy import select, update
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser, Principal, has_scope, scope
from app.core.connections import OpenConnections
from app.core.db import SqlDatabase
from app.core.revocations import Revocations
from app.core.secrets_at_rest import digest_of
from app.core.tickets import TicketRow
from app.realtime import Channel, Message, on
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter(prefix="/stop")
Rider = Annotated[Principal, Depends(has_scope(scope("stop:ride", "Ride from a stop")))]
CHANNEL, BARE = "/stop/7/ws", "/stop/bare"


class Who(Message):
    """Asks who one is."""

    type = "who"


class You(Message):
    """Who one is."""

    type = "you"
    subject: str
    session: str
    roles: list[str]
    scopes: list[str] | None


def seen(user: Principal) -> You:
    """What is known of who asks."""
    scopes = None if user.scopes is None else sorted(user.scopes)
    return You(subject=user.subject, session=user.session, roles=sorted(user.roles), scopes=scopes)


@router.websocket("/{number}/ws")
class Stop(Channel):
    """Tells who asks."""

    user: Rider

    @on
    async def who(self, who: Who) -> You:
        """Who one is."""
        return seen(self.user)


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """Tells who asks."""
    await websocket.accept()
    await websocket.send_json({"type": "you", "data": seen(user).model_dump()})
    await websocket.receive()


@router.get("/rest")
async def rest(user: CurrentUser) -> str:
    """Tells who asks."""
    return user.subject


@pytest.fixture(scope="module")
def server(shared_url: str) -> Iterator[RunningServer]:
    """The service with stops, on each engine; its guards are asked again all the time."""
    with RunningServer(settings_for(shared_url, ws_authorise_seconds=0.1), router) as server:
        yield server


@pytest.fixture
async def database(server: RunningServer) -> AsyncIterator[SqlDatabase]:
    """The server's database, over a connection of the test's own."""
    database = SqlDatabase(server.settings.database)
    yield database
    await database.dispose()


async def asked(server: RunningServer, token: str | None, path: Any = CHANNEL) -> httpx2.Response:
    """The answer to somebody who asks for a ticket."""
    async with server.client(token) as client:
        return await client.post("/api/v1/tickets", json={"path": path})


async def ticket(server: RunningServer, token: str | None = None, path: str = CHANNEL) -> str:
    """A ticket."""
    answer = await asked(server, token or server.token(), path)
    assert answer.status_code == 201, answer.text
    given: str = answer.json()["ticket"]
    return given


async def who(server: RunningServer, path: str, given: str, **kwargs: Any) -> dict[str, Any]:
    """Who a ticket lets in, or the problem that it is refused with."""
    try:
        async with server.socket(f"{path}?ticket={given}", **kwargs) as socket:
            if "/ws" in path:
                await socket.send("who")
            data: dict[str, Any] = (await socket.until("you"))["data"]
            return data
    except InvalidStatus as refused:
        problem: dict[str, Any] = json.loads(refused.response.body or b"")
        return problem


async def test_it_is_told_which_doors_there_are(server: RunningServer) -> None:
    """Channels and bare functions, as their routes are written, to whoever may have a ticket."""
    async with server.client(server.token()) as client:
        doors = (await client.get("/api/v1/tickets/doors")).json()
    assert {"path": "/stop/{number}/ws", "description": "Tells who asks."} in doors
    assert {"path": BARE, "description": "Tells who asks."} in doors
    assert "/stop/rest" not in [door["path"] for door in doors]
    async with server.client() as client:
        assert (await client.get("/api/v1/tickets/doors")).status_code == 401


@pytest.mark.parametrize("path", [CHANNEL, BARE])
async def test_a_ticket_lets_in_who_it_was_given_to(server: RunningServer, path: str) -> None:
    """With the rights that the token had, at a channel and at a bare function."""
    token = server.token("7", roles=["cook"])
    answer = await asked(server, token, path)
    assert answer.json().keys() == {"ticket", "expires_in"}
    assert answer.json()["expires_in"] == 30
    assert await who(server, path, answer.json()["ticket"]) == {
        "subject": "7",
        "session": "session-7",
        "roles": ["cook"],
        "scopes": None,
    }


async def test_a_ticket_gives_no_more_than_its_token_had(server: RunningServer) -> None:
    """A limited token's ticket is limited as well."""
    given = await ticket(server, server.token("7", scopes=["stop:ride"]))
    assert (await who(server, CHANNEL, given))["scopes"] == ["stop:ride"]
    given = await ticket(server, server.token("7", scopes=["admin"]))
    assert (await who(server, CHANNEL, given))["code"] == "insufficient_scope"


async def test_a_ticket_is_good_once(server: RunningServer) -> None:
    """And of several at one moment, one wins."""
    given = await ticket(server)
    answers = await asyncio.gather(*(who(server, CHANNEL, given) for _ in range(4)))
    assert sorted(answer.get("code", "let in") for answer in answers) == [
        *(["authentication_failed"] * 3),
        "let in",
    ]
    refused = await who(server, CHANNEL, given)
    assert (refused["status"], refused["code"]) == (401, "authentication_failed")
    assert refused["detail"] == "The token is not valid."


async def test_a_ticket_is_for_one_path(server: RunningServer) -> None:
    """Shown elsewhere it is refused, and used up."""
    given = await ticket(server, path=CHANNEL)
    for path in ("/stop/8/ws", CHANNEL):
        assert (await who(server, path, given))["code"] == "authentication_failed"


async def test_a_path_is_written_as_in_an_address(server: RunningServer) -> None:
    """What is escaped there may be escaped here."""
    path = f"/stop/{quote('é 7')}/ws"
    assert (await who(server, path, await ticket(server, path=path)))["subject"] == "1"


async def test_a_ticket_lasts_half_a_minute(server: RunningServer, database: SqlDatabase) -> None:
    """Then it is refused, whether it was removed or not."""
    given = await ticket(server)
    digest = digest_of(given)
    now = datetime.now(UTC)
    async with database.unit_of_work() as uow:
        row = await uow.get_one(TicketRow, digest)
        assert timedelta(seconds=25) < row.expires_at - now < timedelta(seconds=31)
        await uow.execute(update(TicketRow).values(expires_at=now))
    assert (await who(server, CHANNEL, given))["code"] == "authentication_failed"


async def test_a_ticket_is_stored_by_its_digest(
    server: RunningServer, database: SqlDatabase
) -> None:
    """Whoever reads the table gets in nowhere."""
    given = await ticket(server)
    async with database.reading() as session:
        rows = (await session.scalars(select(TicketRow))).all()
    assert not any(given in str(vars(row)) for row in rows)


async def test_what_ends_its_token_ends_its_ticket(
    server: RunningServer, database: SqlDatabase
) -> None:
    """Before it is used, and the socket that it opened."""
    used, unused = await ticket(server, server.token("8")), await ticket(server, server.token("8"))
    revocations = Revocations(database, OpenConnections(), keep=timedelta(minutes=1))
    async with server.socket(f"{CHANNEL}?ticket={used}") as socket:
        await socket.until("welcome")
        async with database.unit_of_work() as uow:
            revocations.revoke_session(uow, "session-8", "It is over.")
        async with asyncio.timeout(2):
            assert (await socket.ending())[:2] == (4401, "session_revoked")
    assert (await who(server, CHANNEL, unused))["code"] == "session_revoked"


async def test_a_ticket_lasts_no_longer_than_its_token(server: RunningServer) -> None:
    """The socket is closed when the token would have expired."""
    token = server.token("9", lifetime=timedelta(seconds=3))
    async with server.socket(f"{CHANNEL}?ticket={await ticket(server, token)}") as socket:
        assert (await socket.until("welcome"))["data"]["expires_at"]
        assert (await socket.ending())[:2] == (4401, "token_expired")


async def test_an_open_socket_needs_its_ticket_once(server: RunningServer) -> None:
    """Its guards are asked again and again, and it can take a new token."""
    async with server.socket(f"{CHANNEL}?ticket={await ticket(server)}") as socket:
        for _ in range(4):
            await asyncio.sleep(0.1)  # the guards' turn
            assert (await socket.ask("who"))["data"]["subject"] == "1"
        refreshed = await socket.ask("auth.refresh", {"token": server.token(roles=["cook"])})
        assert refreshed["type"] == "auth.refreshed"
        await asyncio.sleep(0.15)
        assert (await socket.ask("who"))["data"]["roles"] == ["cook"]


async def test_a_token_goes_before_a_ticket(server: RunningServer) -> None:
    """Which is not used up then."""
    given = await ticket(server, server.token("7"))
    headers = {"Authorization": f"Bearer {server.token('10')}"}
    assert (await who(server, CHANNEL, given, headers=headers))["subject"] == "10"
    assert (await who(server, CHANNEL, given))["subject"] == "7"


async def test_rest_takes_no_ticket(server: RunningServer) -> None:
    """There a header can be set."""
    given = await ticket(server, path="/stop/rest")
    async with server.client() as client:
        answered = await client.get(f"/stop/rest?ticket={given}")
    assert (answered.status_code, answered.json()["code"]) == (401, "authentication_failed")


@pytest.mark.parametrize("given", ["", "x", "x" * 43, "x" * 4000, "%00" * 43, "é" * 43])
async def test_nonsense_is_no_ticket(server: RunningServer, given: str) -> None:
    """Nobody comes in by it, and why is not said."""
    assert (await who(server, CHANNEL, given))["code"] == "authentication_failed"


async def test_two_tickets_are_none(server: RunningServer) -> None:
    """Of two it would not be clear who asks."""
    both = f"{await ticket(server)}&ticket={await ticket(server)}"
    assert (await who(server, CHANNEL, both))["code"] == "authentication_failed"


@pytest.mark.parametrize(
    "path", ["", "stop", "/a?b", "/a#b", "/a b", "/%00", "/" + "a" * 512, "//h\u00e9", None, 7]
)
async def test_a_ticket_is_for_a_path(server: RunningServer, path: Any) -> None:
    """What is none is refused."""
    answered = await asked(server, server.token(), path)
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_parameter")


async def test_nobody_gets_no_ticket(server: RunningServer) -> None:
    """It takes somebody who is signed in."""
    answered = await asked(server, None)
    assert (answered.status_code, answered.json()["code"]) == (401, "authentication_failed")


async def test_a_page_of_elsewhere_gets_in_by_no_ticket(server: RunningServer) -> None:
    """Origins are checked as ever."""
    given = await ticket(server)
    refused = await who(server, CHANNEL, given, origin="https://evil.example")
    assert refused["code"] == "origin_not_allowed"
    assert (await who(server, CHANNEL, given, origin=server.url))["subject"] == "1"
