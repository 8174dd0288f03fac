"""Both doors' way out, as a client of the real server sees it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, Query, WebSocket
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException, WebSocketException
from websockets.exceptions import InvalidStatus

from app.core.errors import Forbidden, MethodNotAllowed, raises
from tests.conftest import settings_for
from tests.realtime.probe import settle
from tests.server import RunningServer

HIDDEN = "what-no-client-may-read"

router = APIRouter(prefix="/probe")


@raises(Forbidden)
async def refusing_guard() -> None:
    raise Forbidden("The lamp is off.")


@router.get("/forbidden", dependencies=[Depends(refusing_guard)])
async def rest_forbidden() -> None:
    """Refused by its guard."""


@router.get("/crash")
async def rest_crash() -> None:
    """Crashes."""
    raise RuntimeError(HIDDEN)


@router.get("/half")
async def rest_half() -> StreamingResponse:
    """Crashes with half of its answer sent."""

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError(HIDDEN)

    return StreamingResponse(body())


@router.get("/undeclared")
async def rest_undeclared() -> None:
    """Raises what it has not declared."""
    raise Forbidden


@router.get("/status/{status}")
@raises(Forbidden, MethodNotAllowed)
async def rest_status(status: int) -> None:
    """Raises an HTTPException of any status."""
    raise HTTPException(status)


@router.websocket("/guarded", dependencies=[Depends(refusing_guard)])
async def ws_guarded(websocket: WebSocket) -> None:
    """Refused by its guard."""


@router.websocket("/validated")
async def ws_validated(websocket: WebSocket, after: Annotated[int, Query()]) -> None:
    """Takes a number in the query."""


@router.websocket("/undeclared")
async def ws_undeclared(websocket: WebSocket) -> None:
    """Raises what it has not declared."""
    raise Forbidden


Probe = Callable[[WebSocket], Awaitable[Any]]


async def forbidden(websocket: WebSocket) -> None:
    raise Forbidden("The lamp is off.")


async def http_exception(websocket: WebSocket) -> None:
    raise HTTPException(409, "Already on.")


async def websocket_exception(websocket: WebSocket) -> None:
    raise WebSocketException(4409, "Already on.")


async def crash(websocket: WebSocket) -> None:
    raise RuntimeError(HIDDEN)


async def receive_json(websocket: WebSocket) -> None:
    await websocket.receive_json()


async def nothing(websocket: WebSocket) -> None:
    pass


PROBES: dict[str, Probe] = {
    each.__name__: each
    for each in (forbidden, http_exception, websocket_exception, crash, receive_json, nothing)
}


@router.websocket("/before/{name}")
@raises(Forbidden)
async def ws_before(websocket: WebSocket, name: str) -> None:
    """Does something before it accepts."""
    await PROBES[name](websocket)


@router.websocket("/after/{name}")
@raises(Forbidden)
async def ws_after(websocket: WebSocket, name: str) -> None:
    """Does something once it has accepted."""
    await websocket.accept()
    await PROBES[name](websocket)


@pytest.fixture(scope="module")
def servers(new_sqlite: Callable[[], str]) -> Iterator[dict[str, RunningServer]]:
    """The service with the probes, a server for each environment."""
    made = {
        name: settings_for(new_sqlite(), environment=name)
        for name in ("development", "test", "production")
    }
    with (
        RunningServer(made["development"], router) as development,
        RunningServer(made["test"], router) as test,
        RunningServer(made["production"], router) as production,
    ):
        yield {"development": development, "test": test, "production": production}


@pytest.fixture
def server(servers: dict[str, RunningServer]) -> RunningServer:
    """The service with the probes."""
    return servers["production"]


async def denial(
    server: RunningServer, path: str, **kwargs: Any
) -> tuple[int, dict[str, Any], Any]:
    """The status, problem and headers of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket(path, **kwargs):
            pass
    response = refused.value.response
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, json.loads(response.body or b""), response.headers


async def ending(server: RunningServer, path: str, **kwargs: Any) -> tuple[int, str, Any]:
    """The close code, its reason and the data of the one error frame before it."""
    async with server.browser_socket(path, **kwargs) as socket:
        code, reason, frames = await socket.ending()
    assert [frame["type"] for frame in frames] == ["error"]
    return code, reason, frames[0]["data"]


async def test_one_error_is_the_same_at_every_door(server: RunningServer) -> None:
    """An answer, a denial and an error frame agree in every field but who and where."""
    async with server.client() as client:
        answered = await client.get("/probe/forbidden")
    status, denied, _ = await denial(server, "/probe/guarded")
    close, reason, framed = await ending(server, "/probe/guarded")
    problem = answered.json()
    assert problem == {
        "type": "/errors/forbidden",
        "title": "You may not do this.",
        "status": 403,
        "detail": "The lamp is off.",
        "instance": "/probe/forbidden",
        "code": "forbidden",
        "error_code": 1004,
        "retryable": False,
        "request_id": answered.headers["x-request-id"],
    }
    for other in (denied, framed):
        differing = {key for key in problem | other if problem.get(key) != other.get(key)}
        assert differing == {"instance", "request_id"}
        assert other["instance"] == "/probe/guarded"
    assert (answered.status_code, status, close, reason) == (403, 403, 4403, "forbidden")
    assert answered.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("probe", "status", "code"),
    [
        ("forbidden", 403, "forbidden"),
        ("http_exception", 409, "http_error"),
        ("websocket_exception", 409, "http_error"),
        ("crash", 500, "internal"),
        ("nothing", 500, "internal"),
    ],
)
async def test_a_bare_function_may_raise_before_it_accepts(
    server: RunningServer, probe: str, status: int, code: str
) -> None:
    """A program gets the HTTP status and problem; a browser the frame and the close code."""
    path = f"/probe/before/{probe}"
    denied, problem, headers = await denial(server, path)
    assert (denied, problem["status"], problem["code"]) == (status, status, code)
    assert headers["x-request-id"] == problem["request_id"]
    close, reason, problem = await ending(server, path)
    assert (close, reason) == (4000 + status if status < 500 else 1011, code)
    assert problem["code"] == code


@pytest.mark.parametrize(
    ("probe", "close", "code"),
    [
        ("forbidden", 4403, "forbidden"),
        ("http_exception", 4409, "http_error"),
        ("websocket_exception", 4409, "http_error"),
        ("crash", 1011, "internal"),
    ],
)
@pytest.mark.parametrize("browser", [True, False])
async def test_a_bare_function_may_raise_once_it_has_accepted(
    server: RunningServer, probe: str, close: int, code: str, browser: bool
) -> None:
    """Whoever it is gets the error frame and the close code."""
    opened = server.browser_socket if browser else server.socket
    async with opened(f"/probe/after/{probe}") as socket:
        closed, reason, frames = await socket.ending()
    assert (closed, reason) == (close, code)
    assert [(frame["type"], frame["data"]["code"]) for frame in frames] == [("error", code)]


async def test_returning_without_a_close_is_a_close(server: RunningServer) -> None:
    """A function that returns with its socket open has it closed with 1000."""
    async with server.socket("/probe/after/nothing") as socket:
        assert await socket.ending() == (1000, "", [])


@pytest.mark.parametrize(
    ("frame", "close", "code"),
    [
        ("{", 4400, "malformed_body"),
        ('{"a": "\\ud8', 4400, "malformed_body"),
        pytest.param("[" * 60_000, 4400, "malformed_body", id="deep"),
        (b"{}", 4415, "unsupported_media_type"),
    ],
)
async def test_a_frame_that_a_bare_function_cannot_read_is_the_clients_error(
    server: RunningServer, frame: str | bytes, close: int, code: str
) -> None:
    """What `receive_json()` cannot read ends the socket with a registered error."""
    async with server.socket("/probe/after/receive_json") as socket:
        await socket.raw(frame)
        closed, reason, _ = await socket.ending()
    assert (closed, reason) == (close, code)


async def test_a_mistake_in_reading_is_the_codes_own(server: RunningServer) -> None:
    """A function that reads before it accepts has crashed."""
    assert (await denial(server, "/probe/before/receive_json"))[0] == 500


async def test_a_client_that_leaves_is_no_error(
    server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A socket that its client closes while the function waits leaves nothing in the log."""
    async with server.socket("/probe/after/receive_json"):
        pass
    async with server.client() as client:
        await client.get("/health/live")
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_a_validation_error_keeps_its_code_before_accept(server: RunningServer) -> None:
    """A wrong query is 422 with its fields for a program, and 4422 for a browser."""
    path = "/probe/validated?after=hunter2"
    status, denied, _ = await denial(server, path)
    close, reason, framed = await ending(server, path)
    assert (status, close, reason) == (422, 4422, "invalid_parameter")
    for problem in (denied, framed):
        assert [error["loc"] for error in problem["errors"]] == [["query", "after"]]
        assert problem["instance"] == "/probe/validated"
        assert "hunter2" not in json.dumps(problem)


async def test_only_the_bearer_subprotocol_is_echoed(server: RunningServer) -> None:
    """A browser that is refused hears of `bearer`, if it offered that, and never of its token."""
    async with server.browser_socket("/probe/guarded", "a.b.c") as socket:
        assert socket.connection.subprotocol == "bearer"
        assert (await socket.ending())[0] == 4403
    others: dict[str, Any] = {"origin": server.url, "subprotocols": ["other"]}
    async with server.socket("/probe/guarded", **others) as socket:
        assert socket.connection.subprotocol is None
        assert (await socket.ending())[0] == 4403


@pytest.mark.parametrize("environment", ["development", "test", "production"])
async def test_an_unexpected_exception_is_registered(
    servers: dict[str, RunningServer], environment: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Development tells a client the traceback; elsewhere there is a request id and no more."""
    server = servers[environment]
    async with server.client() as client:
        answered = await client.get("/probe/crash")
    problem = answered.json()
    assert (answered.status_code, problem["code"]) == (500, "internal")
    assert problem["request_id"] == answered.headers["x-request-id"]
    if environment == "development":
        assert any(HIDDEN in line for line in problem["traceback"])
    else:
        assert set(problem) == {
            *("type", "title", "status", "instance", "code", "error_code"),
            *("retryable", "request_id"),
        }
        assert HIDDEN not in answered.text
    assert HIDDEN in str([record.msg for record in caplog.records])


async def test_a_crash_with_half_an_answer_cuts_the_connection(server: RunningServer) -> None:
    """An answer that cannot be finished is seen to be broken, and the server lives on."""
    async with server.client() as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/probe/half")
        assert (await client.get("/health/live")).status_code == 200


async def test_under_test_an_undeclared_error_is_a_crash(
    servers: dict[str, RunningServer],
) -> None:
    """Where ENVIRONMENT=test, what no `@raises` declares becomes a 500 that names it."""
    sentence = "Forbidden is raised and not declared with @raises"
    async with servers["test"].client() as client:
        problem = (await client.get("/probe/undeclared")).json()
    assert (problem["status"], problem["detail"]) == (500, sentence)
    status, problem, _ = await denial(servers["test"], "/probe/undeclared")
    assert (status, problem["detail"]) == (500, sentence)
    assert (await ending(servers["test"], "/probe/undeclared"))[0] == 1011
    async with servers["production"].client() as client:
        assert (await client.get("/probe/undeclared")).status_code == 403


@pytest.mark.parametrize("status", [402, 418, 451, 599, 600, 700])
async def test_an_http_exception_of_any_status_is_answered(
    server: RunningServer, status: int
) -> None:
    """An error that the registry has no class for keeps its status; what is none is a 500."""
    async with server.client() as client:
        answered = await client.get(f"/probe/status/{status}")
    known = status <= 599
    assert answered.status_code == answered.json()["status"] == (status if known else 500)
    assert answered.json()["code"] == ("http_error" if known else "internal")


@pytest.mark.parametrize("status", [204, 304, 307])
async def test_an_http_exception_that_is_no_error_passes(
    server: RunningServer, status: int
) -> None:
    """A redirect that is raised is a redirect."""
    async with server.client() as client:
        answered = await client.get(f"/probe/status/{status}")
    assert answered.status_code == status
    assert answered.headers.get("content-type") != "application/problem+json"


async def test_many_refusals_leave_nothing_behind(server: RunningServer) -> None:
    """Refused sockets, however they end, leave no task of the server's."""

    async def tasks() -> int:
        async with server.client() as client:
            return int((await client.get("/probe/tasks")).json())

    await asyncio.gather(*(ending(server, "/probe/guarded") for _ in range(20)))
    before = await tasks()
    await asyncio.gather(*(ending(server, "/probe/before/crash") for _ in range(20)))
    await asyncio.gather(*(denial(server, "/probe/guarded") for _ in range(20)))

    async def none_is_left() -> bool:
        return await tasks() <= before + 1

    await settle(none_is_left)


@router.get("/tasks")
async def rest_tasks() -> int:
    """How many tasks there are."""
    return len(asyncio.all_tasks())
