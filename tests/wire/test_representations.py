"""One error, one object: as HTTP, as a denied handshake, as a frame, and as frame and close."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Query

from app.core.auth import CurrentUser
from app.core.errors import (
    AppError,
    AuthenticationFailed,
    Forbidden,
    HttpError,
    InternalError,
    InvalidParameter,
    NotFound,
    Overloaded,
    TokenExpired,
    Unavailable,
    raises,
)
from app.realtime import Channel, Message, on
from tests.realtime.probe import denial, expired_token, welcomed
from tests.server import RunningServer

ERRORS: dict[str, Exception] = {
    "forbidden": Forbidden("You are not of this house."),
    "no detail": Forbidden(),
    "retry_after": Unavailable("Come back.", retry_after=7),
    "overloaded": Overloaded(retry_after=3),
    "not found": NotFound("There is no room 7."),
    "http": HttpError(409, "Somebody was faster."),
    "fields": InvalidParameter(
        errors=[{"loc": ["body", "text"], "msg": "Too long", "type": "string_too_long"}]
    ),
    "token": TokenExpired(),
    "nobody": AuthenticationFailed("No token was given."),
    "crash": ZeroDivisionError("a secret"),
    "any script": Forbidden("Räume für 😀 only.\u2028"),
}
DECLARED = (Forbidden, TokenExpired, AuthenticationFailed)


class Ask(Message):
    """Ask for an error."""

    type = "ask"
    name: str


@raises(*DECLARED)
async def fails(name: Annotated[str, Query()] = "") -> None:
    """Raise the error of that name."""
    if name:
        raise ERRORS[name]


router = APIRouter(prefix="/same", dependencies=[Depends(fails)])


@router.get("/error")
async def rest() -> None:
    """Answer nothing, since the guard raises."""


@router.websocket("/ws")
class SameChannel(Channel):
    """Raises what it is asked for, or what its guard raises."""

    @on
    @raises(*DECLARED)
    async def ask(self, message: Ask) -> None:
        """Raise the error of that name."""
        raise ERRORS[message.name]


@router.get("/me")
async def rest_me(user: CurrentUser, limit: Annotated[int, Query(le=9)] = 1) -> None:
    """Ask for a token and a small number."""


@router.websocket("/me-ws")
class MyChannel(Channel):
    """Asks for a token and a small number."""

    user: CurrentUser
    limit: Annotated[int, Query(le=9)] = 1


@pytest.fixture(scope="module")
def server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """The server with one error at every door."""
    return serve_module(router)


def alike(problem: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same at every door: all but where it was and its id."""
    assert problem["request_id"]
    return {name: problem[name] for name in problem if name not in ("instance", "request_id")}


def expected(exc: Exception) -> dict[str, Any]:
    error = exc if isinstance(exc, AppError) else InternalError()
    return alike(error.problem(instance=None, request_id="any"))


def close_code_of(status: int) -> int:
    """The rule as a person knows it: 4000 + status, 1011 for 5xx, 1013 for 503."""
    return {True: 4000 + status, False: 1013 if status == 503 else 1011}[status < 500]


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_is_the_same_at_every_door(server: RunningServer, name: str) -> None:
    """HTTP, denial, frame in a handler, and frame before a close say the same, field by field."""
    error = expected(ERRORS[name])
    query = f"?name={name.replace(' ', '%20')}"

    async with server.client() as http:
        response = await http.get(f"/same/error{query}")
    assert response.status_code == error["status"]
    assert response.headers["Content-Type"] == "application/problem+json"
    assert alike(response.json()) == error
    assert response.json()["instance"] == "/same/error"
    assert response.json()["request_id"] == response.headers["X-Request-ID"]

    status, headers, denied = await denial(server, f"/same/ws{query}")
    assert (status, alike(denied)) == (error["status"], error)
    assert headers["Content-Type"] == "application/problem+json"
    assert denied["instance"] == "/same/ws"
    for header in ("Retry-After", "WWW-Authenticate"):
        assert headers.get(header) == response.headers.get(header)

    async with server.socket("/same/ws") as socket:
        await welcomed(socket)
        answer = await socket.ask("ask", {"name": name})
        assert (answer["type"], alike(answer["data"])) == ("error", error)
        assert answer["data"]["instance"] == "/same/ws"


@pytest.mark.parametrize(
    "name", [name for name, exc in ERRORS.items() if not getattr(exc, "denies_handshake", False)]
)
async def test_a_browser_gets_frame_and_close(server: RunningServer, name: str) -> None:
    """A browser is told in a frame, and closed with a code by the rule and the code as reason."""
    error = expected(ERRORS[name])
    path = f"/same/ws?name={name.replace(' ', '%20')}"
    async with server.browser_socket(path) as socket:
        code, reason, frames = await socket.ending()
    assert [(frame["type"], alike(frame["data"])) for frame in frames] == [("error", error)]
    assert frames[0].keys() == {"type", "data"}
    assert frames[0]["data"]["instance"] == "/same/ws"
    assert (code, reason) == (close_code_of(error["status"]), error["code"])


@pytest.mark.parametrize(
    "name", [name for name, exc in ERRORS.items() if getattr(exc, "denies_handshake", False)]
)
async def test_some_errors_deny_a_browser_too(server: RunningServer, name: str) -> None:
    """What is not there, and what is too full, opens no socket for a browser either."""
    path = f"/same/ws?name={name.replace(' ', '%20')}"
    status, _, problem = await denial(server, path, origin=server.url)
    assert (status, alike(problem)) == (problem["status"], expected(ERRORS[name]))


@pytest.mark.parametrize(
    ("query", "who"),
    [("", "nobody"), ("", "bad"), ("", "expired"), ("?limit=10", "ann"), ("?limit=x", "ann")],
)
async def test_what_a_guard_refuses_is_the_same(
    server: RunningServer, query: str, who: str
) -> None:
    """Missing, bad and expired tokens and values that are not valid are the same everywhere."""
    tokens = {"nobody": None, "bad": "no", "expired": expired_token(server), "ann": server.token()}
    token = tokens[who]
    async with server.client(token) as http:
        response = await http.get(f"/same/me{query}")
    status, headers, denied = await denial(server, f"/same/me-ws{query}", token)
    async with server.browser_socket(f"/same/me-ws{query}", token) as socket:
        code, reason, frames = await socket.ending()
    assert response.status_code == status >= 400
    assert alike(response.json()) == alike(denied) == alike(frames[0]["data"])
    assert headers.get("WWW-Authenticate") == response.headers.get("WWW-Authenticate")
    assert (code, reason) == (4000 + status, denied["code"])


async def test_a_refusal_says_how_to_sign_in(server: RunningServer) -> None:
    """A 401 carries WWW-Authenticate (RFC 6750 section 3), also where it denies a handshake."""
    _, headers, _ = await denial(server, "/same/me-ws")
    assert headers["WWW-Authenticate"] == "Bearer"
    _, headers, _ = await denial(server, "/same/me-ws", expired_token(server))
    assert headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_request_id_is_taken_over(server: RunningServer) -> None:
    """A client's own request id stands in the error at every door."""
    headers = {"X-Request-ID": "from-the-client"}
    async with server.client() as http:
        problem = (await http.get("/same/me", headers=headers)).json()
    _, _, denied = await denial(server, "/same/me-ws", headers=headers)
    assert problem["request_id"] == denied["request_id"] == "from-the-client"


async def test_an_unexpected_error_tells_nothing(
    serve: Callable[..., RunningServer], server: RunningServer
) -> None:
    """Only in development does an unexpected error carry its traceback; else nothing of it."""
    async with server.client() as http:
        problem = (await http.get("/same/error?name=crash")).json()
    assert "secret" not in json.dumps(problem)
    developing = serve(router, environment="development")
    async with developing.client() as http:
        problem = (await http.get("/same/error?name=crash")).json()
    assert "ZeroDivisionError: a secret" in "".join(problem["traceback"])
    async with developing.browser_socket("/same/ws?name=crash") as socket:
        _, _, frames = await socket.ending()
    assert "ZeroDivisionError: a secret" in "".join(frames[0]["data"]["traceback"])
