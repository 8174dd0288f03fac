"""What is no token of ours, at every door of the real server: the same refusal, and no crash.

`test_tokens` and `test_hostile_tokens` look closer, at the one function that all doors ask.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser
from app.realtime import Channel
from tests.conftest import SECRET, settings_for
from tests.core.test_tokens import ABSENT, EC_KEY, b64, ec_signature, forged, kid_of, mac
from tests.server import RunningServer

OTHER = "another-secret-that-is-just-as-long-as-it"
REFUSED = (401, "authentication_failed", "The token is not valid.")
EXPIRED = (401, "token_expired", None)
PARTY = {"iss": "duplex", "aud": "duplex"}

router = APIRouter(prefix="/doors")
entered: list[str] = []


@router.get("/rest")
async def rest(user: CurrentUser) -> str:
    """Tell who asks."""
    entered.append(user.subject)
    return user.subject


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """Stay open until the client leaves."""
    entered.append(user.subject)
    await websocket.accept()
    await websocket.receive()


@router.websocket("/channel")
class Door(Channel):
    """Open to whoever is signed in."""

    user: CurrentUser


@dataclass(frozen=True)
class Hostile:
    """A token that differs from a good one in its header, its claims, or how it is signed."""

    header: Any = None
    claims: Any = None
    signed: Callable[[str], str] | None = None
    secret: str = SECRET
    expected: tuple[int, str, str | None] = REFUSED

    def text(self) -> str:
        """The token, as of now."""
        header = self.header
        if not isinstance(header, bytes):
            header = {"kid": kid_of(SECRET)} | (header or {})
        token = forged(header, claims_of_now(self.claims), self.secret)
        if self.signed is None:
            return token
        unsigned = token.rpartition(".")[0]
        return f"{unsigned}.{self.signed(unsigned)}"


def claims_of_now(changed: Any = None) -> Any:
    """The claims of a token that is good now, with some changed; a function is given the time."""
    if isinstance(changed, bytes):
        return changed
    now = int(time.time())
    told = {k: v(now) if callable(v) else v for k, v in (changed or {}).items()}
    return PARTY | {"iat": now, "exp": now + 900} | told


def _by_ec(text: str) -> str:
    return b64(ec_signature(text, EC_KEY))


HOSTILE = {
    "alg none": Hostile({"alg": "none"}, signed=lambda _: ""),
    "alg none, signed": Hostile({"alg": "none"}),
    "alg NoNe": Hostile({"alg": "NoNe"}, signed=lambda _: ""),
    "no signature": Hostile(signed=lambda _: ""),
    "another algorithm of the family": Hostile(
        {"alg": "HS384"}, signed=lambda text: mac(text, SECRET, "sha384")
    ),
    "our key's name and ES256": Hostile({"alg": "ES256"}, signed=_by_ec),
    "our key's name and RS256": Hostile({"alg": "RS256"}),
    "another key": Hostile(secret=OTHER),
    "another key by its name": Hostile({"kid": kid_of(OTHER)}, secret=OTHER),
    "no key's name": Hostile({"kid": ABSENT}),
    "a key of its own": Hostile({"jwk": {"kty": "oct", "k": b64(OTHER.encode())}}, secret=OTHER),
    "a key at an address": Hostile({"jku": "https://evil.example/jwks.json"}),
    "an extension": Hostile({"crit": ["exp"]}),
    "a nested header": Hostile(b"[" * 1_000 + b"]" * 1_000, signed=lambda _: ""),
    "nested claims": Hostile(claims=b'{"a":' * 500 + b"1" + b"}" * 500),
    "another type": Hostile({"typ": "JWT"}),
    "a refresh token's type": Hostile({"typ": "rt+jwt"}),
    "no type": Hostile({"typ": ABSENT}),
    "another issuer": Hostile(claims={"iss": "https://evil.example"}),
    "another audience": Hostile(claims={"aud": "another"}),
    "several audiences": Hostile(claims={"aud": ["duplex", "another"]}),
    "no end": Hostile(claims={"exp": ABSENT}),
    "an end of null": Hostile(claims={"exp": None}),
    "an end in words": Hostile(claims={"exp": lambda now: str(now + 900)}),
    "an end in fractions": Hostile(claims={"exp": lambda now: now + 900.5}),
    "an end beyond all dates": Hostile(claims={"exp": 10**30}),
    "an end below zero": Hostile(claims={"exp": -1}),
    "an end of true": Hostile(claims={"exp": True}),
    "a longer life than any": Hostile(claims={"exp": lambda now: now + 10**7}),
    "from tomorrow on": Hostile(claims={"nbf": lambda now: now + 86_400}),
    "of ten minutes from now": Hostile(
        claims={"iat": lambda now: now + 600, "exp": lambda now: now + 1_200}
    ),
    "an end that is now": Hostile(
        claims={"iat": lambda now: now - 800, "exp": lambda now: now}, expected=EXPIRED
    ),
}


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service as in production, with these doors."""
    with RunningServer(settings_for(new_sqlite(), environment="production"), router) as running:
        yield running


def told(problem: dict[str, Any]) -> tuple[int, str, str | None]:
    """What a problem says, whoever is told it."""
    return problem["status"], problem["code"], problem.get("detail")


async def at_rest(server: RunningServer, token: str) -> Any:
    """What a route answers."""
    async with server.client(token) as client:
        return (await client.get("/doors/rest")).json()


async def as_program(server: RunningServer, path: str, token: str) -> dict[str, Any]:
    """What a handshake is denied with."""
    with pytest.raises(InvalidStatus) as denied:
        async with server.socket(path, token):
            pass
    problem: dict[str, Any] = json.loads(denied.value.response.body or b"")
    return problem


async def as_page(server: RunningServer, path: str, token: str) -> dict[str, Any]:
    """What a page's socket is told, which comes with the token as a subprotocol."""
    async with server.browser_socket(path, token) as socket:
        code, reason, frames = await socket.ending()
    problem: dict[str, Any] = frames[-1]["data"]
    assert (code, reason) == (4000 + problem["status"], problem["code"])
    return problem


async def on_a_socket(server: RunningServer, token: str) -> dict[str, Any]:
    """What `auth.refresh` is answered, on a socket that goes on with the token it has."""
    async with server.socket("/doors/channel", server.token()) as socket:
        await socket.until("welcome")
        answer = await socket.ask("auth.refresh", {"token": token})
        assert (await socket.ask("ping"))["type"] == "pong"
    problem: dict[str, Any] = answer["data"]
    return problem


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_token_is_refused_alike_at_every_door(
    server: RunningServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over REST, at the handshake of a program and of a page, and in `auth.refresh`."""
    token = HOSTILE[name].text()
    entered.clear()
    problems = await asyncio.gather(
        at_rest(server, token),
        *(as_program(server, f"/doors/{door}", token) for door in ("channel", "bare")),
        *(as_page(server, f"/doors/{door}", token) for door in ("channel", "bare")),
        on_a_socket(server, token),
    )
    assert {told(problem) for problem in problems} == {HOSTILE[name].expected}
    assert token not in json.dumps(problems)
    assert entered == []
    assert "Traceback" not in caplog.text
    assert token not in caplog.text


async def test_the_good_one_is_taken_at_every_door(server: RunningServer) -> None:
    """So each refusal above is due to its one change."""
    token = Hostile().text()
    assert await at_rest(server, token) == "42"
    for door in ("channel", "bare"):
        async with (
            server.socket(f"/doors/{door}", token),
            server.browser_socket(f"/doors/{door}", token),
        ):
            pass
    async with server.socket("/doors/channel", server.token("42")) as socket:
        await socket.until("welcome")
        assert (await socket.ask("auth.refresh", {"token": token}))["type"] == "auth.refreshed"
