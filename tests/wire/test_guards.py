"""One guard at three kinds of operation: a route, a Channel and a bare WebSocket function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, WebSocket
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser, Principal, has_role
from app.realtime import Channel
from tests.realtime.probe import denial, expired_token
from tests.server import RunningServer

Cook = Annotated[Principal, Depends(has_role("cook"))]
router = APIRouter(prefix="/guarded")


@router.get("/user")
async def user_route(user: CurrentUser) -> str:
    """Tell who asks."""
    return user.subject


@router.get("/cook")
async def cook_route(user: Cook) -> str:
    """Tell which cook asks."""
    return user.subject


@router.websocket("/user/channel")
class UserChannel(Channel):
    """Welcomes whoever is signed in."""

    user: CurrentUser

    async def opened(self) -> None:
        """Say who it is, in the only way that needs no frame of its own."""
        await self.websocket.close(4000, self.user.subject)


@router.websocket("/cook/channel")
class CookChannel(Channel):
    """Welcomes cooks."""

    user: Cook

    async def opened(self) -> None:
        """Say who it is."""
        await self.websocket.close(4000, self.user.subject)


@router.websocket("/user/function")
async def user_function(websocket: WebSocket, user: CurrentUser) -> None:
    """Tell who asks."""
    await websocket.accept("bearer" if "bearer" in websocket.scope["subprotocols"] else None)
    await websocket.close(4000, user.subject)


@router.websocket("/cook/function")
async def cook_function(websocket: WebSocket, user: Cook) -> None:
    """Tell which cook asks."""
    await websocket.accept("bearer" if "bearer" in websocket.scope["subprotocols"] else None)
    await websocket.close(4000, user.subject)


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """The server with one guard at every kind of operation."""
    return serve_module(router)


@dataclass(frozen=True)
class Outcome:
    """Who was let in, or the status and the code of the refusal."""

    subject: str | None = None
    status: int = 200
    code: str | None = None


async def by_route(server: RunningServer, guard: str, token: str | None) -> Outcome:
    async with server.client(token) as http:
        response = await http.get(f"/guarded/{guard}")
    if response.is_success:
        return Outcome(response.json())
    return Outcome(None, response.status_code, response.json()["code"])


async def by_program(server: RunningServer, path: str, token: str | None) -> Outcome:
    try:
        async with server.socket(path, token) as socket:
            code, reason, _ = await socket.ending()
            assert code == 4000
            return Outcome(reason)
    except InvalidStatus:
        status, _, problem = await denial(server, path, token)
        return Outcome(None, status, problem["code"])


async def by_browser(server: RunningServer, path: str, token: str | None) -> Outcome:
    async with server.browser_socket(path, token) as socket:
        code, reason, frames = await socket.ending()
        assert socket.connection.subprotocol == ("bearer" if token else None)
    if code == 4000:
        return Outcome(reason)
    assert frames[-1]["data"]["code"] == reason
    return Outcome(None, code - 4000, reason)


def tokens(server: RunningServer) -> dict[str, str | None]:
    return {
        "nobody": None,
        "forged": server.token("1")[:-4] + "AAAA",
        "nonsense": "nonsense",
        "expired": expired_token(server),
        "a waiter": server.token("w", roles=["waiter"]),
        "a cook": server.token("c", roles=["waiter", "cook"]),
    }


FAILED = Outcome(None, 401, "authentication_failed")
CASES = [
    ("user", "nobody", FAILED),
    ("user", "forged", FAILED),
    ("user", "nonsense", FAILED),
    ("user", "expired", Outcome(None, 401, "token_expired")),
    ("user", "a waiter", Outcome("w")),
    ("user", "a cook", Outcome("c")),
    ("cook", "nobody", FAILED),
    ("cook", "forged", FAILED),
    ("cook", "expired", Outcome(None, 401, "token_expired")),
    ("cook", "a waiter", Outcome(None, 403, "forbidden")),
    ("cook", "a cook", Outcome("c")),
]


@pytest.mark.parametrize(("guard", "who", "outcome"), CASES)
async def test_a_guard_decides_alike_everywhere(
    server: RunningServer, guard: str, who: str, outcome: Outcome
) -> None:
    """A route, a channel and a function let in and refuse the same people, for both clients."""
    token = tokens(server)[who]
    assert await by_route(server, guard, token) == outcome
    for kind in ("channel", "function"):
        path = f"/guarded/{guard}/{kind}"
        assert await by_program(server, path, token) == outcome
        assert await by_browser(server, path, token) == outcome


@pytest.mark.parametrize("kind", ["channel", "function"])
@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "bearer"])
async def test_a_token_in_the_query_is_not_taken(
    server: RunningServer, kind: str, name: str
) -> None:
    """A token in the query counts as none, since a query stands in logs and histories."""
    query = f"?{name}={server.token()}"
    assert await by_program(server, f"/guarded/user/{kind}{query}", None) == FAILED
    async with server.client() as http:
        assert (await http.get(f"/guarded/user{query}")).status_code == 401


async def test_a_token_in_a_cookie_is_not_taken(server: RunningServer) -> None:
    """A browser sends a cookie by itself, so that is no proof that its person asks."""
    token = server.token()
    cookie = {"Cookie": f"token={token}; bearer={token}; access_token={token}"}
    status, _, _ = await denial(server, "/guarded/user/channel", headers=cookie)
    assert status == 401


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic eDp5", "TOKEN", "Token TOKEN"])
async def test_only_a_bearer_is_taken(server: RunningServer, authorization: str) -> None:
    """An Authorization of another scheme counts as no token."""
    headers = {"Authorization": authorization.replace("TOKEN", server.token())}
    status, _, problem = await denial(server, "/guarded/user/channel", headers=headers)
    assert (status, problem["code"]) == (401, "authentication_failed")
    async with server.client() as http:
        assert (await http.get("/guarded/user", headers=headers)).status_code == 401


async def test_the_scheme_may_be_written_in_any_case(server: RunningServer) -> None:
    """`bearer` is the same scheme as `Bearer` (RFC 9110 section 11.1)."""
    headers = {"Authorization": f"bearer {server.token()}"}
    async with server.socket("/guarded/user/function", headers=headers) as socket:
        assert (await socket.ending())[1] == "1"


@pytest.mark.parametrize(
    "offered",
    [
        ["TOKEN"],
        ["TOKEN", "bearer"],
        ["bearer"],
        ["Bearer", "TOKEN"],
        ["x", "TOKEN"],
        ["bearer", "x", "TOKEN"],
    ],
)
async def test_a_protocol_is_a_token_after_bearer_only(
    server: RunningServer, offered: list[str]
) -> None:
    """Of the offered protocols the one right after `bearer` is the token, and no other."""
    protocols = [server.token() if name == "TOKEN" else name for name in offered]
    status, headers, _ = await denial(server, "/guarded/user/channel", subprotocols=protocols)
    assert status == 401
    assert "Sec-WebSocket-Protocol" not in headers


async def test_the_header_goes_before_the_protocol(server: RunningServer) -> None:
    """Where both carry a token the one of the header counts."""
    protocols = ["bearer", server.token("protocol")]
    path = "/guarded/user/function"
    async with server.socket(path, server.token("header"), subprotocols=protocols) as socket:
        assert (await socket.ending())[1] == "header"


@pytest.mark.parametrize("kind", ["channel", "function"])
async def test_a_foreign_page_is_denied(server: RunningServer, kind: str) -> None:
    """A page of another origin is denied before any guard is asked, whatever token it has."""
    for origin in ("https://evil.example", "null", server.url + ".evil.example"):
        status, _, problem = await denial(
            server, f"/guarded/user/{kind}", server.token(), origin=origin
        )
        assert (status, problem["code"]) == (403, "origin_not_allowed")
