"""Limits hold for handshakes and for frames, and a refused frame costs its socket nothing."""

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
from fastapi import APIRouter, Depends, WebSocket

from app.core.auth import CurrentUser
from app.core.limits import Limit
from app.realtime import Channel, Message, on
from tests.conftest import settings_for
from tests.realtime.probe import denial, welcomed
from tests.server import RunningServer, Socket

router = APIRouter(prefix="/limited")
saying = Limit("3/minute", name="say")
opening = Limit("2/minute", name="open")
entering = Limit("2/minute", name="enter")


class Say(Message):
    """Something to repeat."""

    type = "say"
    text: str


class Whisper(Say):
    """The same, more quietly."""

    type = "whisper"


class LimitedChannel(Channel):
    """Repeats what it hears, so often."""

    user: CurrentUser

    @on(limit=saying)
    async def say(self, message: Say) -> Say:
        """Repeat it."""
        return message

    @on
    async def whisper(self, message: Whisper) -> Whisper:
        """Repeat it, however often."""
        return message


router.websocket("/ws")(LimitedChannel)


@router.websocket("/seldom")
class SeldomChannel(Channel):
    """Takes so many handshakes."""

    handshakes = opening
    user: CurrentUser


@router.websocket("/guarded", dependencies=[Depends(entering)])
class GuardedChannel(Channel):
    """The same by a dependency, which is asked again and again."""

    user: CurrentUser


@router.websocket("/binary")
class BinaryChannel(Channel):
    """Takes so many binary frames."""

    user: CurrentUser

    @on(limit=saying)
    async def turn(self, data: bytes) -> bytes:
        """Turn them round."""
        return data[::-1]


@router.websocket("/bare", dependencies=[Depends(entering)])
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """Accept, and close."""
    await websocket.accept()


@router.post("/say", dependencies=[Depends(saying)])
async def say(message: Say, user: CurrentUser) -> Say:
    """Repeat it."""
    return message


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """One server for the tests of this module, which are different people."""
    with RunningServer(settings_for(new_sqlite(), ws_max_strikes=3), router) as server:
        yield server


@pytest.fixture
def token(server: RunningServer) -> str:
    """The token of somebody who was never there before."""
    return server.token(uuid4().hex)


@pytest.fixture
async def socket(server: RunningServer, token: str) -> AsyncIterator[Socket]:
    """Their socket."""
    async with server.socket("/limited/ws", token) as socket:
        yield await welcomed(socket)


async def use_up(socket: Socket) -> None:
    """Say all that may be said."""
    for _ in range(3):
        assert (await socket.ask("say", {"text": "Hello."}))["type"] == "say"


async def test_a_frame_too_many_is_refused(socket: Socket) -> None:
    """It is answered with when there is more; the socket lives, and other messages are handled."""
    await use_up(socket)
    refused = await socket.ask("say", {"text": "Hello."}, ref=7)
    assert (refused["type"], refused["ref"], refused["data"]["code"]) == (
        "error",
        7,
        "rate_limited",
    )
    assert refused["data"]["status"] == 429
    assert 58 <= refused["data"]["retry_after"] <= 60
    assert refused["data"]["retryable"] is True
    assert (await socket.ask("whisper", {"text": "Hello."}))["type"] == "whisper"


async def test_a_refused_frame_is_no_strike(socket: Socket) -> None:
    """However many are refused, the socket lives; and they forgive no invalid ones between them."""
    await use_up(socket)
    for _ in range(20):
        assert (await socket.ask("say", {"text": "Hello."}))["data"]["code"] == "rate_limited"
    for _ in range(3):
        await socket.send("say", {"text": "Hello."})
        await socket.raw("{")
    code, reason, _ = await socket.ending()
    assert (code, reason) == (4429, "realtime.too_many_errors")


async def test_both_doors_have_one_bucket(
    server: RunningServer, socket: Socket, token: str
) -> None:
    """What is done over REST is not left for the socket, nor the other way round."""
    async with server.client(token) as client:
        assert (await client.post("/limited/say", json={"text": "Hi."})).status_code == 200
        assert (await socket.ask("say", {"text": "Hi."}))["type"] == "say"
        last = await client.post("/limited/say", json={"text": "Hi."})
        assert (last.status_code, last.headers["RateLimit"][:10]) == (200, '"say";r=0;')
        assert (await socket.ask("say", {"text": "Hi."}))["data"]["code"] == "rate_limited"
        refused = await client.post("/limited/say", json={"text": "Hi."})
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")


async def test_a_frame_that_is_not_valid_counts(socket: Socket) -> None:
    """As over REST, where the limit comes before the body."""
    assert (await socket.ask("say", {}))["data"]["code"] == "invalid_parameter"
    await socket.ask("say", {"text": "Hello."})
    await socket.ask("say", {"text": "Hello."})
    assert (await socket.ask("say", {"text": "Hello."}))["data"]["code"] == "rate_limited"


async def test_binary_frames_are_limited(server: RunningServer, token: str) -> None:
    """A handler of bytes has limits as any other."""
    async with server.socket("/limited/binary", token) as socket:
        await welcomed(socket)
        for _ in range(3):
            await socket.raw(b"abc")
            assert await socket.connection.recv() == b"cba"
        await socket.raw(b"abc")
        assert (await socket.frame())["data"]["code"] == "rate_limited"


@pytest.mark.parametrize("path", ["/limited/seldom", "/limited/guarded"])
async def test_a_handshake_too_many_is_refused(
    server: RunningServer, token: str, path: str
) -> None:
    """A program gets the status and the headers, a page the frame and 4429; others connect."""
    for _ in range(2):
        async with server.socket(path, token) as socket:
            await welcomed(socket)
    status, headers, problem = await denial(server, path, token)
    assert (status, problem["code"]) == (429, "rate_limited")
    assert headers["Retry-After"] == str(problem["retry_after"])
    assert headers["RateLimit-Policy"].endswith(";q=2;w=60")
    async with server.browser_socket(path, token) as page:
        code, reason, frames = await page.ending()
    assert (code, reason) == (4429, "rate_limited")
    assert frames[-1]["data"]["retry_after"] > 0
    async with server.socket(path, server.token(uuid4().hex)) as socket:
        await welcomed(socket)


async def test_a_bare_function_is_limited(server: RunningServer, token: str) -> None:
    """A dependency counts the handshakes of an endpoint that is no channel."""
    for _ in range(2):
        async with server.socket("/limited/bare", token):
            pass
    assert (await denial(server, "/limited/bare", token))[0] == 429


async def test_a_handshake_counts_once(server: RunningServer, token: str) -> None:
    """The guards of an open socket are asked again, and count nothing then."""
    async with server.socket("/limited/guarded", token) as socket:
        await welcomed(socket)
        for _ in range(3):
            assert (await socket.ask("auth.refresh", {"token": token}))["type"] == "auth.refreshed"
    async with server.socket("/limited/guarded", token) as socket:
        await welcomed(socket)


async def test_all_that_a_client_does_has_one_limit(serve: Callable[..., RunningServer]) -> None:
    """Requests, handshakes and frames of every kind count together, invalid ones too."""
    server = serve(router, rate_limit="6/minute", ws_max_strikes=2)
    async with server.socket("/limited/ws", server.token()) as socket, server.client() as client:
        await welcomed(socket)
        assert (await client.get("/nowhere")).status_code == 404
        assert (await socket.ask("whisper", {"text": "Hello."}))["type"] == "whisper"
        assert (await socket.ask("ping"))["type"] == "pong"
        await socket.raw("{")
        assert (await socket.frame())["data"]["code"] == "malformed_body"
        assert (await client.get("/nowhere")).headers["RateLimit"].startswith('"client";r=0;')
        for _ in range(5):
            refused = await socket.ask("whisper", {"text": "Hello."}, ref="late")
            assert refused["data"]["code"] == "rate_limited"
            assert refused["data"]["retry_after"] > 0
        await socket.raw("{")
        assert (await socket.frame())["data"]["code"] == "rate_limited"
        assert (await client.get("/nowhere")).status_code == 429
        assert (await denial(server, "/limited/ws", server.token()))[0] == 429
        async with server.browser_socket("/limited/ws", server.token()) as page:
            assert (await page.ending())[:2] == (4429, "rate_limited")
        assert (await socket.ask("ping"))["data"]["code"] == "rate_limited"


async def test_the_documents_of_a_channel_declare_it(server: RunningServer) -> None:
    """Under test a refusal that nobody declared would be a crash."""
    from app.core.errors import RateLimited, declared

    assert RateLimited in declared(SeldomChannel)
    assert RateLimited in declared(LimitedChannel.say)
    assert RateLimited not in declared(LimitedChannel.whisper)
