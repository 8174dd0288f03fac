"""What the framework alone would lose, a client now gets: a registered code, in every case."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, WebSocket
from fastapi.security import HTTPBearer, OAuth2PasswordBearer
from starlette.exceptions import WebSocketException

from app.core.errors import (
    AuthenticationFailed,
    Forbidden,
    NotFound,
    Unavailable,
    raises,
    registry,
)
from tests.realtime.probe import denial, settle
from tests.server import DEADLINE, RunningServer, Socket

router = APIRouter(prefix="/platform")

#: What an endpoint may raise, with the status and the code that it becomes.
RAISED: dict[str, tuple[Exception, int, str]] = {
    "WebSocketException-4409": (WebSocketException(4409, "Not now."), 409, "http_error"),
    "WebSocketException-4404": (WebSocketException(4404), 404, "not_found"),
    "WebSocketException-1008": (WebSocketException(1008), 403, "forbidden"),
    "WebSocketException-1013": (WebSocketException(1013), 503, "unavailable"),
    "WebSocketException-4999": (WebSocketException(4999), 500, "http_error"),
    "HTTPException-409": (HTTPException(409, "Not now."), 409, "http_error"),
    "HTTPException-401": (HTTPException(401), 401, "authentication_failed"),
    "HTTPException-418": (HTTPException(418), 418, "http_error"),
    "HTTPException-503": (HTTPException(503), 503, "unavailable"),
    "AppError": (Forbidden("Not you."), 403, "forbidden"),
    "NotFound": (NotFound(), 404, "not_found"),
    "Unavailable": (Unavailable(), 503, "unavailable"),
    "unhandled": (RuntimeError("a secret"), 500, "internal"),
    "RecursionError": (RecursionError("a secret"), 500, "internal"),
    "ExceptionGroup": (ExceptionGroup("a secret", [ValueError()]), 500, "internal"),
}


@router.websocket("/before/{name}")
@raises(Forbidden, AuthenticationFailed)
async def before(websocket: WebSocket, name: str) -> None:
    """Raise before accept."""
    raise RAISED[name][0]


@router.websocket("/after/{name}")
@raises(Forbidden, AuthenticationFailed)
async def after(websocket: WebSocket, name: str) -> None:
    """Raise after accept."""
    await websocket.accept()
    raise RAISED[name][0]


@router.websocket("/validated/{number}")
async def validated(
    websocket: WebSocket,
    number: Annotated[int, Path()],
    limit: Annotated[int, Query()] = 1,
    x_number: Annotated[int, Header()] = 1,
) -> None:
    """Take numbers only."""
    await websocket.accept()
    await websocket.close()


@router.websocket("/json")
async def reads_json(websocket: WebSocket) -> None:
    """Read JSON as the framework does."""
    await websocket.accept()
    await websocket.receive_json()


@router.websocket("/returns")
async def returns(websocket: WebSocket) -> None:
    """Accept and return without closing."""
    await websocket.accept()


@router.websocket("/nothing")
async def does_nothing(websocket: WebSocket) -> None:
    """Return without accepting."""


@router.websocket("/closes")
async def closes(websocket: WebSocket) -> None:
    """Close in its own way."""
    await websocket.accept()
    await websocket.close(4321, "mine")


@router.websocket("/reads")
async def reads(websocket: WebSocket) -> None:
    """Read until the client has gone, and do not catch that."""
    await websocket.accept()
    while True:
        await websocket.receive_text()


@router.websocket("/slow")
async def slow(websocket: WebSocket) -> None:
    """Accept when the client may be gone already."""
    state = websocket.app.state
    state.begun.set()
    await asyncio.to_thread(state.goes_on.wait, DEADLINE)
    await websocket.accept()


@router.websocket("/bearer")
@raises(AuthenticationFailed)
async def bearer(websocket: WebSocket, token: Annotated[Any, Depends(HTTPBearer())]) -> None:
    """Use the framework's own security."""


@router.websocket("/oauth2")
@raises(AuthenticationFailed)
async def oauth2(
    websocket: WebSocket, token: Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="x"))]
) -> None:
    """Use the framework's own security."""


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """The server with endpoints written as the framework's documents do."""
    return serve_module(router)


@asynccontextmanager
async def connected(server: RunningServer, path: str) -> AsyncIterator[Socket]:
    async with server.socket(f"/platform{path}") as socket:
        yield socket


def expected_close(status: int) -> int:
    if status == 503:
        return 1013
    return 1011 if status >= 500 else 4000 + status


async def is_denied(server: RunningServer, path: str, status: int, code: str) -> None:
    found, headers, problem = await denial(server, f"/platform{path}")
    assert (found, problem["status"], problem["code"]) == (status, status, code)
    assert headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == headers["X-Request-ID"]
    assert code in registry
    assert "secret" not in json.dumps(problem)


async def is_closed(socket: Socket, status: int, code: str) -> None:
    close_code, reason, frames = await socket.ending()
    assert (close_code, reason) == (expected_close(status), code)
    assert [frame["type"] for frame in frames] == ["error"]
    assert frames[0]["data"]["code"] == code
    assert "secret" not in json.dumps(frames)


@pytest.mark.parametrize("name", RAISED)
async def test_what_is_raised_before_accept_is_a_status(server: RunningServer, name: str) -> None:
    """Before accept a program gets the status and the problem, a browser the close code."""
    _, status, code = RAISED[name]
    await is_denied(server, f"/before/{name}", status, code)
    if not registry[code].denies_handshake:
        async with server.browser_socket(f"/platform/before/{name}") as socket:
            await is_closed(socket, status, code)


@pytest.mark.parametrize("name", RAISED)
async def test_what_is_raised_after_accept_is_a_close_code(
    server: RunningServer, name: str
) -> None:
    """After accept everybody gets an error frame and the close code, whatever was raised."""
    _, status, code = RAISED[name]
    async with connected(server, f"/after/{name}") as socket:
        await is_closed(socket, status, code)


@pytest.mark.parametrize(
    ("path", "headers", "where"),
    [
        ("/validated/x", {}, ["path", "number"]),
        ("/validated/1?limit=x", {}, ["query", "limit"]),
        ("/validated/1", {"X-Number": "x"}, ["header", "x-number"]),
    ],
)
async def test_what_is_not_valid_is_told(
    server: RunningServer, path: str, headers: dict[str, str], where: list[str]
) -> None:
    """A path, query or header that is not valid is told as such, with its place."""
    path = f"/platform{path}"
    status, _, problem = await denial(server, path, headers=headers)
    assert (status, problem["code"]) == (422, "invalid_parameter")
    assert problem["errors"][0]["loc"] == where
    async with server.browser_socket(path, headers=headers) as socket:
        await is_closed(socket, 422, "invalid_parameter")


async def test_bad_json_is_a_close_code(server: RunningServer) -> None:
    """`receive_json()` of what is no JSON is malformed, in an endpoint of one's own too."""
    async with connected(server, "/json") as socket:
        await socket.raw("{")
        await is_closed(socket, 400, "malformed_body")


async def test_an_endpoint_that_returns_has_closed(server: RunningServer) -> None:
    """An endpoint that returns without closing closes with 1000."""
    async with connected(server, "/returns") as socket:
        assert await socket.ending() == (1000, "", [])


async def test_an_endpoint_that_does_nothing_is_an_error(server: RunningServer) -> None:
    """An endpoint that returns without accepting is a mistake in the code, and a 500."""
    await is_denied(server, "/nothing", 500, "internal")


async def test_an_endpoint_may_close_as_it_likes(server: RunningServer) -> None:
    """A close of the endpoint's own is left as it is."""
    async with connected(server, "/closes") as socket:
        assert await socket.ending() == (4321, "mine", [])


async def test_a_disconnect_is_no_error(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that does not catch the client's going is no reason for a line in the log."""
    async with connected(server, "/reads") as socket:
        await socket.connection.close(4000)
        assert socket.connection.close_code == 4000
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_disconnect_in_the_handshake_is_no_error(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is a client that goes before it is answered; and it is forgotten."""
    state = server.app.state
    state.begun, state.goes_on = threading.Event(), threading.Event()
    client = asyncio.create_task(denial(server, "/platform/slow"))
    assert await asyncio.to_thread(state.begun.wait, DEADLINE)
    client.cancel()
    await settle(server.has_no_client)
    state.goes_on.set()

    async def nothing_is_open() -> bool:
        return len(state.connections) == 0

    await settle(nothing_is_open)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("path", ["/unknown", "/before", "/api/v1/unknown/ws", "/health/live", "/"])
async def test_an_unknown_path_is_not_found(server: RunningServer, path: str) -> None:
    """A path without a WebSocket is a 404, for a browser too, which is denied the handshake."""
    for origin in (None, server.url):
        status, _, problem = await denial(server, path, origin=origin)
        assert (status, problem["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/bearer", "/oauth2"])
async def test_the_frameworks_own_security_is_told(server: RunningServer, path: str) -> None:
    """What FastAPI's security classes refuse is the registered 401, at both kinds of client."""
    await is_denied(server, path, 401, "authentication_failed")
    async with server.browser_socket(f"/platform{path}") as socket:
        await is_closed(socket, 401, "authentication_failed")


async def test_a_query_reaches_no_log(
    server: RunningServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A token that somebody puts into the query stands in no line of the log."""
    await denial(server, "/platform/bearer?token=a-secret-token")
    async with connected(server, "/returns?token=a-secret-token") as socket:
        await socket.ending()
    printed = capfd.readouterr()
    assert "a-secret-token" not in printed.out + printed.err + caplog.text
