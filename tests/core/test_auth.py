"""Who asks: one guard, unchanged on a route, on a Channel and on a bare WebSocket function."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, WebSocket
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus

from app.core.auth import (
    Access,
    Admin,
    CurrentUser,
    Fresh,
    Principal,
    authenticate,
    has_scope,
    proved_within,
    require_scope,
    scope,
    scopes,
)
from app.core.errors import AuthenticationFailed, InsufficientScope, TokenExpired, raises
from app.core.tokens import Tokens
from app.realtime import Channel, Message, on
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter(prefix="/probe")
DOORS = ("rest", "channel", "bare")
MINUTES = timedelta(minutes=1)

READ = scope("probe:read", "Read what is probed")
WRITE = scope("probe:write", "Write what is probed")

Reader = Annotated[Principal, Depends(has_scope(READ))]
Editor = Annotated[Principal, Depends(has_scope(READ, WRITE))]
Anyone = Annotated[Principal, Depends(has_scope())]
Coded = Annotated[Principal, Depends(proved_within(10 * MINUTES, second_factor=True))]


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


class Change(Message):
    """Asks for a change."""

    type = "change"


def guarded(name: str, guard: Any) -> None:
    """A route, a function and a channel behind one guard."""

    @router.get(f"/rest/{name}")
    async def guarded_rest(user: guard) -> dict[str, Any]:
        """Who asks."""
        return seen(user)

    @router.websocket(f"/bare/{name}")
    async def guarded_bare(websocket: WebSocket, user: guard) -> None:
        """Who asks."""
        await bare(websocket, user)

    @router.websocket(f"/channel/{name}")
    class GuardedChannel(Channel):
        """Who asks."""

        user: guard

        @on
        async def who(self, who: Who) -> You:
            """Who one is."""
            return You(**seen(self.user))

        @on
        @raises(InsufficientScope)
        async def change(self, change: Change) -> None:
            """Takes more than to come in."""
            require_scope(self.user, WRITE)


guarded("reader", Reader)
guarded("editor", Editor)
guarded("anyone", Anyone)
guarded("fresh", Fresh)
guarded("coded", Coded)


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service with the probes."""
    with RunningServer(settings_for(new_sqlite()), router) as running:
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


async def test_an_expired_token_is_told_apart(server: RunningServer) -> None:
    """Expired is an error of its own, so that a client knows to refresh; the rest is one."""
    revocations = server.app.state.revocations
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
    assert (await authenticate(tokens, token, revocations)).user_id == 7
    now[0] += 60
    with pytest.raises(TokenExpired):
        await authenticate(tokens, token, revocations)
    with pytest.raises(AuthenticationFailed) as raised:
        await authenticate(tokens, token + "x", revocations)
    assert raised.value.detail == "The token is not valid."


async def test_another_services_token_is_nobodys(server: RunningServer) -> None:
    """A token signed with another secret is refused."""
    changed = server.settings.model_dump() | {"secret_key": SecretStr("x" * 40)}
    with RunningServer(type(server.settings)(**changed)) as other:
        token = other.token("7")
    assert (await ask(server, "rest", token))["code"] == "authentication_failed"


def ago(minutes: float) -> datetime:
    """So long ago."""
    return datetime.now(UTC) - minutes * MINUTES


@pytest.mark.parametrize("door", DOORS)
async def test_a_scope_is_asked_for_alike(server: RunningServer, door: str) -> None:
    """A token that is limited needs every scope that is named; one that is not limited, none."""
    for scopes_, guards in (
        ([READ], {"reader"}),
        ([WRITE], set()),
        ([READ, WRITE, "other"], {"reader", "editor"}),
        (None, {"reader", "editor"}),
    ):
        token = server.token("7", scopes=scopes_)
        for guard in ("reader", "editor"):
            answer = await ask(server, door, token, path=f"/{guard}")
            expected = "7" if guard in guards else "insufficient_scope"
            assert answer.get("subject", answer.get("code")) == expected
    refused = await ask(server, door, server.token(scopes=[READ]), path="/editor")
    assert refused["detail"] == "This takes the scope probe:read probe:write."


@pytest.mark.parametrize("door", DOORS)
async def test_what_names_no_scope_is_closed_to_who_is_limited(
    server: RunningServer, door: str
) -> None:
    """Whoever forgets the scope of an operation has it open to people alone."""
    limited = server.token("7", scopes=[READ, WRITE, "admin"])
    for path, code in (("", "insufficient_scope"), ("/fresh", "insufficient_scope")):
        assert (await ask(server, door, limited, path=path))["code"] == code
    assert (await ask(server, door, limited, path="/anyone"))["subject"] == "7"
    admin = server.token("7", scopes=["admin"], roles=["admin"])
    assert (await ask(server, door, admin, path="/admin"))["subject"] == "7"


async def test_a_scope_that_is_missing_is_named(server: RunningServer) -> None:
    """WWW-Authenticate tells which it is (RFC 6750 section 3)."""
    async with server.client(server.token(scopes=[])) as client:
        answered = await client.get("/probe/rest/reader")
    assert answered.status_code == 403
    challenge = 'Bearer error="insufficient_scope", scope="probe:read"'
    assert answered.headers["www-authenticate"] == challenge


async def test_a_handler_can_ask_for_more_than_its_channel(server: RunningServer) -> None:
    """The frame is refused, and the socket lives on."""
    async with server.socket("/probe/channel/reader", server.token(scopes=[READ])) as socket:
        answer = await socket.ask("change")
        assert (answer["type"], answer["data"]["code"]) == ("error", "insufficient_scope")
        assert (await socket.ask("who"))["type"] == "you"
    async with server.socket("/probe/channel/reader", server.token(scopes=[READ, WRITE])) as socket:
        assert (await socket.ask("change"))["type"] == "ack"


@pytest.mark.parametrize("door", DOORS)
async def test_to_have_proved_who_one_is_gets_old(server: RunningServer, door: str) -> None:
    """Ten minutes are fresh enough; whoever never proved it, and no second factor, is refused."""
    for at, methods, guards in (
        (ago(9), ["pwd"], {"fresh"}),
        (ago(9), ["pwd", "otp"], {"fresh", "coded"}),
        (ago(11), ["pwd", "otp"], set()),
        (None, [], set()),
    ):
        token = server.token("7", authenticated_at=at, methods=methods)
        for guard in ("fresh", "coded"):
            answer = await ask(server, door, token, path=f"/{guard}")
            expected = "7" if guard in guards else "step_up_required"
            assert answer.get("subject", answer.get("code")) == expected
            if expected != "7" and door != "rest":
                challenge = 'Bearer error="insufficient_user_authentication", max_age="600"'
                assert answer["challenge"] == challenge


def test_a_scope_means_one_thing() -> None:
    """It is made known once, by a name that fits into a token, before a guard asks for it."""
    assert scope("probe:read", "Read what is probed") == "probe:read"
    for name, meaning in (("probe:read", "Something else"), ("Two words", "x"), ("", "x")):
        with pytest.raises(TypeError):
            scope(name, meaning)
    with pytest.raises(TypeError, match="no such scope: prob:read"):
        has_scope("prob:read")
    assert scopes["admin"]


def test_what_guards_ask_for_adds_up() -> None:
    """Of two ages the shorter counts, and scopes and roles are all needed."""
    first = Access(scopes=frozenset({"a"}), within=2 * MINUTES)
    second = Access(scopes=frozenset({"b"}), roles=frozenset({"r"}), within=MINUTES)
    both = Access(frozenset({"a", "b"}), frozenset({"r"}), MINUTES)
    assert first & second == both
    assert Access() & Access() == Access()
    assert not Access().takes_limited
