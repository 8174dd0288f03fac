"""Open connections: each can be told an error and ended, wherever in its life it is."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, WebSocket
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser, authenticate
from app.core.connections import OpenConnection, OpenConnections
from app.core.errors import AppError, Forbidden, Restarting, Unavailable, raises
from app.core.tokens import Tokens
from app.realtime import Channel
from tests.realtime.probe import Signal, settle
from tests.server import RunningServer

router = APIRouter(prefix="/open")
#: What the endpoints tell the test.
told: dict[str, Signal] = {}


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    told.clear()
    told.update({name: Signal() for name in ("entered", "cancelled", "released")})


async def _entered() -> AsyncIterator[None]:
    try:
        yield
    finally:
        told["released"].set()


@router.websocket("/waits", dependencies=[Depends(_entered)])
@raises(Forbidden)
async def waits(websocket: WebSocket) -> None:
    """Read until the client leaves or the end comes."""
    await websocket.accept()
    told["entered"].set()
    try:
        while True:
            await websocket.receive()
    except asyncio.CancelledError:
        told["cancelled"].set()
        raise


@router.websocket("/clings")
@raises(Forbidden)
async def clings(websocket: WebSocket) -> None:
    """Make something else of its cancellation."""
    await websocket.accept()
    told["entered"].set()
    try:
        await asyncio.Event().wait()
    finally:
        raise ZeroDivisionError


@router.websocket("/hesitates")
@raises(Forbidden)
async def hesitates(websocket: WebSocket) -> None:
    """Never accept."""
    told["entered"].set()
    await asyncio.Event().wait()


@router.websocket("/user")
async def with_user(websocket: WebSocket, user: CurrentUser) -> None:
    """Read frames; each is a newer token."""
    await websocket.accept()
    state = websocket.app.state
    while True:
        websocket.state.principal = await authenticate(
            state.verifier, await websocket.receive_text(), state.revocations
        )
        await websocket.send_json({"type": "refreshed"})


@router.websocket("/channel")
@raises(Forbidden)
class WaitingChannel(Channel):
    """Welcomes, and waits."""

    released: Annotated[None, Depends(_entered)]


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The server with endpoints that wait."""
    return serve(router)


def end(server: RunningServer, error: AppError) -> None:
    """End every connection of the server, in its own thread."""
    for connection in server.app.state.connections:
        server._server._loop.call_soon_threadsafe(connection.end, error)


async def none_is_open(server: RunningServer) -> bool:
    """Wait until the server counts no connection."""

    async def none() -> bool:
        return len(server.app.state.connections) == 0

    await settle(none)
    return True


@pytest.mark.parametrize("browser", [True, False])
async def test_a_bare_function_is_ended_with_a_word(server: RunningServer, browser: bool) -> None:
    """Its client gets the error frame and the close; the function is cancelled and cleaned up."""
    opened = server.browser_socket if browser else server.socket
    async with opened("/open/waits") as socket:
        await told["entered"].wait()
        end(server, Forbidden("You were put out."))
        code, reason, frames = await socket.ending()
    assert (code, reason) == (4403, "forbidden")
    assert [(frame["type"], frame["data"]["detail"]) for frame in frames] == [
        ("error", "You were put out.")
    ]
    await told["cancelled"].wait()
    await told["released"].wait()
    assert await none_is_open(server)


async def test_only_those_that_are_meant_are_ended(server: RunningServer) -> None:
    """Who is ended is a matter of the connection's principal; the others go on."""
    async with (
        server.socket("/open/user", server.token("1")) as one,
        server.socket("/open/user", server.token("2")) as two,
    ):
        connections: OpenConnections = server.app.state.connections
        of = {c.principal.subject: c for c in connections if c.principal}
        assert of.keys() == {"1", "2"}
        server._server._loop.call_soon_threadsafe(of["1"].end, Unavailable())
        assert (await one.ending())[0] == 1013
        await two.raw(server.token("2"))
        assert (await two.frame())["type"] == "refreshed"


async def test_what_a_function_makes_of_its_end_is_not_told(server: RunningServer) -> None:
    """The client hears why it was ended, whatever the function raised then."""
    async with server.socket("/open/clings") as socket:
        await told["entered"].wait()
        end(server, Forbidden())
        assert (await socket.ending())[:2] == (4403, "forbidden")


async def test_a_socket_that_is_not_accepted_yet_is_denied(server: RunningServer) -> None:
    """A program that waits for its handshake gets status and problem."""
    opening = asyncio.create_task(_open(server))
    await told["entered"].wait()
    end(server, Forbidden())
    with pytest.raises(InvalidStatus) as refused:
        await opening
    response = refused.value.response
    assert (response.status_code, json.loads(response.body or b"")["code"]) == (403, "forbidden")
    assert await none_is_open(server)


async def test_a_page_that_waits_for_its_handshake_is_told(server: RunningServer) -> None:
    """A browser gets the frame and the close code, but is denied where the error denies."""
    opening = asyncio.create_task(_open(server, origin=server.url))
    await told["entered"].wait()
    end(server, Forbidden())
    assert await opening == (4403, "forbidden")

    told["entered"] = Signal()
    opening = asyncio.create_task(_open(server, origin=server.url))
    await told["entered"].wait()
    end(server, Restarting())
    with pytest.raises(InvalidStatus) as refused:
        await opening
    assert refused.value.response.status_code == 503


async def _open(server: RunningServer, **kwargs: Any) -> tuple[int, str]:
    async with server.socket("/open/hesitates", **kwargs) as socket:
        return (await socket.ending())[:2]


async def test_a_channel_ends_itself(server: RunningServer) -> None:
    """A channel's connection is ended by the channel: nothing is cancelled halfway."""
    async with server.socket("/open/channel") as socket:
        assert (await socket.frame())["type"] == "welcome"
        end(server, Forbidden())
        assert (await socket.ending())[:2] == (4403, "forbidden")
    await told["released"].wait()
    assert await none_is_open(server)


async def test_a_bare_function_ends_when_the_token_does(
    serve: Callable[..., RunningServer],
) -> None:
    """A socket lives as long as the newest token of its principal, and is told so at the end."""
    server = serve(router, access_token_seconds=4)
    async with server.socket("/open/user", server.token()) as socket:
        started = time.monotonic()
        code, reason, frames = await socket.ending()
    assert time.monotonic() - started < 7
    assert (code, reason) == (4401, "token_expired")
    assert [frame["data"]["code"] for frame in frames] == ["token_expired"]
    assert await none_is_open(server)


async def test_a_newer_token_keeps_a_bare_function_open(server: RunningServer) -> None:
    """A function that takes a newer token is not ended with the first one."""
    settings = server.settings
    lifetime = settings.access_token_lifetime
    past = Tokens(
        settings.secret_key.get_secret_value(),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=lifetime,
        clock=lambda: time.time() + 2 - lifetime.total_seconds(),
    )
    async with server.socket("/open/user", past.issue("1", session="old")) as socket:
        await socket.raw(server.token())
        assert (await socket.frame())["type"] == "refreshed"
        await asyncio.sleep(2.2)  # until the first one has expired
        await socket.raw(server.token())
        assert (await socket.frame())["type"] == "refreshed"


async def test_a_process_that_ends_takes_no_connection(server: RunningServer) -> None:
    """From then on programs and browsers are denied with 503 alike, and REST is answered."""
    server.app.state.connections.draining = True
    for origin in (None, server.url):
        with pytest.raises(InvalidStatus) as refused:
            async with server.socket("/open/waits", origin=origin):
                pass
        problem = json.loads(refused.value.response.body or b"")
        assert (problem["status"], problem["code"]) == (503, "restarting")
        assert refused.value.response.headers["Retry-After"] == "1"
    async with server.client() as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_a_drain_is_spread() -> None:
    """The first connection ends at once, the others one after the other, in the given time."""
    connections = OpenConnections()
    ended: list[float] = []
    for _ in range(4):
        connections.add(OpenConnection({}, lambda _: ended.append(time.monotonic())))
    started = time.monotonic()
    await connections.drain(Restarting(), seconds=0.8)
    assert all(at - started >= 0.2 * number for number, at in enumerate(ended))
    assert ended[0] - started < 0.2
    assert ended[-1] - started < 2
    with pytest.raises(Restarting):
        connections.add(OpenConnection({}, lambda _: None))


async def test_a_drain_of_many_keeps_to_its_time() -> None:
    """Ten thousand are not a thousandth of a second each, which is how short a sleep can be."""
    connections = OpenConnections()
    ended: list[AppError] = []
    for _ in range(10_000):
        connections.add(OpenConnection({}, ended.append))
    started = time.monotonic()
    await connections.drain(Restarting(), seconds=0.5)
    assert time.monotonic() - started < 3
    assert len(ended) == 10_000


async def test_a_drain_of_nobody_takes_no_time() -> None:
    """Where there is no connection there is nothing to wait for."""
    connections = OpenConnections()
    started = time.monotonic()
    await connections.drain(Restarting(), seconds=60)
    await connections.none_left()
    assert time.monotonic() - started < 5
