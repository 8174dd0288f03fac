"""Who asks: one guard, unchanged on a route, on a Channel and on a bare WebSocket function."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from app.core.auth import Admin, CurrentUser, Principal, authenticate
from app.core.errors import AuthenticationFailed, TokenExpired
from app.core.tokens import Tokens
from app.realtime import Channel, Message, on
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter(prefix="/probe")
DOORS = ("rest", "channel", "bare")


def seen(user: Principal) -> dict[str, Any]:
    """What a door knows about who asks."""
    return {"subject": user.subject, "name": user.name, "roles": sorted(user.roles)}


class Who(Message):
    """Asks who one is."""

    type = "who"


class You(Message):
    """Who one is."""

    type = "you"
    subject: str
    name: str
    roles: list[str]


@router.get("/rest")
async def rest(user: CurrentUser) -> dict[str, Any]:
    """Who asks."""
    return seen(user)


@router.get("/rest/admin")
async def rest_admin(user: Admin) -> dict[str, Any]:
    """Who asks, an administrator."""
    return seen(user)


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """Who asks."""
    await websocket.accept("bearer" if "bearer" in websocket.scope["subprotocols"] else None)
    await websocket.send_json({"type": "you", "data": seen(user)})
    await websocket.receive()


@router.websocket("/bare/admin")
async def bare_admin(websocket: WebSocket, user: Admin) -> None:
    """Who asks, an administrator."""
    await bare(websocket, user)


@router.websocket("/channel")
class UserChannel(Channel):
    """Who asks."""

    user: CurrentUser

    @on
    async def who(self, who: Who) -> You:
        """Who one is."""
        return You(**seen(self.user))


@router.websocket("/channel/admin")
class AdminChannel(Channel):
    """Who asks, an administrator."""

    user: Admin

    @on
    async def who(self, who: Who) -> You:
        """Who one is."""
        return You(**seen(self.user))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The service with the probes."""
    url = f"sqlite:///{tmp_path_factory.mktemp('auth') / 'unused.db'}"
    with RunningServer(settings_for(url), router) as running:
        yield running


async def ask(
    server: RunningServer, door: str, token: str | None, *, path: str = "", query: str = ""
) -> dict[str, Any]:
    """What a door answers: who asks, or the problem."""
    path = f"/probe/{door}{path}{query}"
    if door == "rest":
        async with server.client(token) as client:
            answer: dict[str, Any] = (await client.get(path)).json()
            return answer
    try:
        async with server.socket(path, token) as socket:
            if door == "channel":
                await socket.send("who")
            answer = (await socket.until("you"))["data"]
    except InvalidStatus as refused:
        answer = json.loads(refused.response.body or b"")
        if answer["status"] == 401:
            answer["challenge"] = refused.response.headers["www-authenticate"]
    return answer


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_knows_who_asks(server: RunningServer, door: str) -> None:
    """A token in Authorization is who asks, at each door alike."""
    token = server.token("7", name="Ann", roles=["b", "a"])
    expected = {"subject": "7", "name": "Ann", "roles": ["a", "b"]}
    assert await ask(server, door, token) == expected


@pytest.mark.parametrize("door", ["channel", "bare"])
async def test_a_browser_offers_its_token_as_a_protocol(server: RunningServer, door: str) -> None:
    """The protocols `bearer, <token>` are who asks; only `bearer` comes back."""
    async with server.browser_socket(f"/probe/{door}", server.token("7")) as socket:
        assert socket.connection.subprotocol == "bearer"
        if door == "channel":
            await socket.send("who")
        assert (await socket.until("you"))["data"]["subject"] == "7"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("token", [None, "nonsense", "a.b.c", "x" * 4_000])
async def test_without_a_token_of_ours_nobody_asks(
    server: RunningServer, door: str, token: str | None
) -> None:
    """No token and a wrong one are 401 alike, and why is not said."""
    problem = await ask(server, door, token)
    assert (problem["status"], problem["code"]) == (401, "authentication_failed")


@pytest.mark.parametrize("door", DOORS)
async def test_a_token_in_the_query_is_nobodys(server: RunningServer, door: str) -> None:
    """A query is logged, so no token is taken from it."""
    token = server.token("7")
    query = f"?token={token}&access_token={token}&bearer={token}"
    assert (await ask(server, door, None, query=query))["code"] == "authentication_failed"


@pytest.mark.parametrize("protocols", [["bearer"], ["other", "bearer"], ["token", "TOKEN"]])
async def test_a_protocol_list_without_a_token_is_nobodys(
    server: RunningServer, protocols: list[str]
) -> None:
    """What follows `bearer` is the token, and nothing else is."""
    offered = [server.token("7") if name == "TOKEN" else name for name in protocols]
    kwargs: dict[str, Any] = {"subprotocols": offered, "origin": server.url}
    async with server.socket("/probe/channel", **kwargs) as socket:
        assert (await socket.ending())[:2] == (4401, "authentication_failed")


@pytest.mark.parametrize("door", DOORS)
async def test_a_role_is_asked_for_alike(server: RunningServer, door: str) -> None:
    """A guard by role lets its role in and refuses everybody else with 403."""
    admin = await ask(server, door, server.token("1", roles=["admin"]), path="/admin")
    assert admin["roles"] == ["admin"]
    other = await ask(server, door, server.token("2", roles=["administrator"]), path="/admin")
    assert (other["code"], other["detail"]) == ("forbidden", "This takes the role admin.")
    nobody = await ask(server, door, None, path="/admin")
    assert nobody["code"] == "authentication_failed"


async def test_a_401_says_how_to_authenticate(server: RunningServer) -> None:
    """WWW-Authenticate tells a missing token from one that is wrong (RFC 6750 section 3)."""
    for token, challenge in ((None, "Bearer"), ("a.b.c", 'Bearer error="invalid_token"')):
        async with server.client(token) as client:
            answered = await client.get("/probe/rest")
        assert answered.headers["www-authenticate"] == challenge


@pytest.mark.parametrize("scheme", ["Basic", "bearer", "Token", ""])
async def test_the_scheme_is_bearer(server: RunningServer, scheme: str) -> None:
    """The scheme's case does not matter (RFC 9110 section 11.1), any other is nobody's."""
    headers = {"Authorization": f"{scheme} {server.token('7')}".strip()}
    async with server.client() as client:
        answered = await client.get("/probe/rest", headers=headers)
    assert answered.status_code == (200 if scheme == "bearer" else 401)


def test_an_expired_token_is_told_apart() -> None:
    """Expired is an error of its own, so that a client knows to refresh; the rest is one."""
    now = [1_800_000_000.0]
    tokens = Tokens(
        "a-secret-of-more-than-32-characters",
        issuer="i",
        audience="a",
        lifetime=timedelta(minutes=1),
        leeway=timedelta(0),
        clock=lambda: now[0],
    )
    token = tokens.issue("7", name="Ann", session="s")
    assert authenticate(tokens, token).user_id == 7
    now[0] += 60
    with pytest.raises(TokenExpired):
        authenticate(tokens, token)
    with pytest.raises(AuthenticationFailed) as raised:
        authenticate(tokens, token + "x")
    assert raised.value.detail == "The token is not valid."


async def test_another_services_token_is_nobodys(server: RunningServer) -> None:
    """A token signed with another secret is refused."""
    changed = server.settings.model_dump() | {"secret_key": SecretStr("x" * 40)}
    with RunningServer(type(server.settings)(**changed)) as other:
        token = other.token("7")
    assert (await ask(server, "rest", token))["code"] == "authentication_failed"
