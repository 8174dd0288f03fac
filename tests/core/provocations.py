"""What provokes the errors of app/core, on a route and a channel of the test's own."""

import json
import time
from datetime import timedelta
from unittest.mock import patch

import pytest
from fastapi import APIRouter, Depends, HTTPException, Request
from sqlalchemy.engine import make_url
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app import server as server_module
from app.core import errors
from app.core.auth import Admin, CurrentUser, Fresh
from app.core.db import Database, SqlDatabase
from app.core.idempotency import IdempotencyKeyReused
from app.core.limits import Limit
from app.core.outbound import UpstreamFailed, UpstreamTimeout
from app.core.tokens import Tokens
from app.realtime import Channel, Message, on
from tests.core import calling, notes
from tests.core.upstream import hang, response
from tests.provoking import Problem, Provocation, answered, closed, denial, denied, ended, framed
from tests.server import RunningServer

router = APIRouter(prefix="/stage")

AWAY = SqlDatabase(make_url("sqlite+aiosqlite:////no/such/directory/x.db"))
FOREIGN = "https://foreign.example"
SELDOM = Limit("1/minute", name="seldom")
NO_HTTP = b"\x16\x03\x01\x02\x00 TLS\r\n\r\n"
HALF_A_HEADER = b"GET / HTTP/1.1\r\nHos"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: %d\r\n%s\r\n"
)


class Line(Message):
    """Something to say; some of it goes wrong."""

    type = "say"
    text: str


async def said(line: Line) -> Line:
    """What was said, unless that is a teapot or a crash."""
    if line.text == "teapot":
        raise HTTPException(418, "Short and stout.")
    if line.text == "crash":
        raise RuntimeError
    return line


@router.post("/say")
async def say(line: Line, user: CurrentUser) -> Line:
    """Say something over REST."""
    return await said(line)


@router.get("/admin")
async def administer(user: Admin) -> None:
    """Nothing but to be an administrator."""


@router.get("/fresh")
async def cannot_be_undone(user: Fresh) -> None:
    """Nothing but to have proved who one is."""


@router.get("/database")
async def read() -> None:
    """Nothing but to ask a database that is not there."""
    await AWAY.ping()


@router.get("/full")
@errors.raises(errors.Overloaded)
async def full() -> None:
    """Nothing but to have no room."""
    raise errors.Overloaded("There is no room here.", retry_after=5)


@router.get("/seldom", dependencies=[Depends(SELDOM)])
async def seldom() -> None:
    """Nothing, once in a minute."""


@router.post("/end/{session}")
async def end(db: Database, session: str, request: Request) -> None:
    """End a session."""
    async with db.unit_of_work() as uow:
        request.app.state.revocations.revoke_session(uow, session, "It is over.")


@router.websocket("/ws")
class Stage(Channel):
    """Say something, and hear it."""

    user: CurrentUser

    @on
    async def say(self, line: Line) -> Line:
        """Say something through a channel."""
        return await said(line)


@router.websocket("/admin/ws")
class Administration(Channel):
    """Nothing but to be an administrator."""

    user: Admin


@router.websocket("/fresh/ws")
class CannotBeUndone(Channel):
    """Nothing but to have proved who one is."""

    user: Fresh


@router.websocket("/seldom/ws")
class Seldom(Channel):
    """Connects once in a minute."""

    handshakes = SELDOM


@router.websocket("/seldom/say/ws")
class SaysSeldom(Channel):
    """Says something once in a minute."""

    @on(limit=SELDOM)
    async def say(self, line: Line) -> Line:
        """Say something."""
        return line


@router.websocket("/database/ws")
class Reader(Channel):
    """Nothing but to ask a database that is not there."""

    @on
    async def say(self, line: Line) -> None:
        """Ask the database."""
        await AWAY.ping()


async def posted(server: RunningServer, **request: object) -> Problem:
    """The problem that answers a POST to the stage."""
    async with server.client(server.token()) as client:
        return answered(await client.request("POST", "/stage/say", **request))  # type: ignore[arg-type]


async def asked(server: RunningServer, path: str, token: str | None = None) -> Problem:
    """The problem that answers a GET."""
    async with server.client(token) as client:
        return answered(await client.get(path))


async def on_stage(server: RunningServer, frame: str | bytes) -> Problem:
    """The problem that answers a frame as it is; the socket lives on."""
    async with server.socket("/stage/ws", server.token()) as socket:
        await socket.raw(frame)
        problem: Problem = (await socket.until("error"))["data"]
        assert (await socket.ask("say", {"text": "Still here."}))["type"] == "say"
        return problem


async def tells(server: RunningServer, path: str, data: object) -> Problem:
    """The problem that answers the frame `say`."""
    async with server.socket(path, server.token()) as socket:
        return await framed(socket, "say", data)


async def crashes(server: RunningServer) -> Problem:
    """The problem after which a channel whose handler crashed is closed."""
    async with server.socket("/stage/ws", server.token()) as socket:
        await socket.send("say", {"text": "crash"})
        return await ended(socket)


def expired(server: RunningServer) -> str:
    """A token that was good until a while ago."""
    settings = server.settings
    tokens = Tokens(
        settings.secret_key.get_secret_value(),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=timedelta(minutes=1),
        clock=lambda: time.time() - 3600,
    )
    return tokens.issue("1", session="old")


def limited(server: RunningServer) -> str:
    """A token that is good for nothing in particular."""
    return server.token(scopes=[])


async def ends(server: RunningServer, session: str = "session-1") -> None:
    """End somebody's session."""
    async with server.client() as client:
        assert (await client.post(f"/stage/end/{session}")).status_code == 200


async def revoked(server: RunningServer) -> Problem:
    """The answer to a token whose session has ended."""
    await ends(server)
    return await asked(server, "/stage/admin", server.token())


async def revoked_program(server: RunningServer) -> Problem:
    """How a program is denied whose session has ended."""
    await ends(server)
    return await denied(server, "/stage/ws", server.token())


async def revoked_page(server: RunningServer) -> Problem:
    """How a page is closed whose session has ended."""
    await ends(server)
    return await closed(server, "/stage/ws", server.token())


async def revoked_meanwhile(server: RunningServer) -> Problem:
    """How a socket is closed whose session ends while it is open."""
    async with server.socket("/stage/ws", server.token("2")) as socket:
        await socket.until("welcome")
        await ends(server, "session-2")
        return await ended(socket)


async def preflight(server: RunningServer) -> Problem:
    """The answer to a page of elsewhere that asks whether it may."""
    headers = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
    async with server.client() as client:
        return answered(await client.options("/stage/say", headers=headers))


async def foreign_host(server: RunningServer) -> Problem:
    """The answer to a request for a host that is not served."""
    async with server.client() as client:
        host = {"Host": "foreign.example"}
        return answered(await client.get("/stage/say", headers=host))


async def foreign_host_of_a_socket(server: RunningServer) -> Problem:
    """The answer to a handshake for a host that is not served."""
    address = "ws://foreign.example/stage/ws"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, host="127.0.0.1", port=server.port, proxy=None):
            pass
    return denial(refused.value, "/stage/ws")


async def wrong_method(server: RunningServer) -> Problem:
    """The answer to a method that a route does not take."""
    async with server.client() as client:
        response = await client.delete("/stage/say")
    assert response.headers["Allow"] == "POST"
    return answered(response)


async def raw(server: RunningServer, sent: bytes) -> Problem:
    """The problem that answers bytes which no application sees."""
    head, _, body = (await server.exchange(sent)).partition(b"\r\n\r\n")
    problem: Problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % problem["status"])
    assert b"application/problem+json" in head
    return problem


async def too_often(server: RunningServer) -> Problem:
    """The answer to the second request of a minute."""
    async with server.client() as client:
        assert (await client.get("/stage/seldom")).status_code == 200
    return await asked(server, "/stage/seldom")


async def one_too_many(server: RunningServer, subject: str, **kwargs: str) -> Problem:
    """How a handshake is denied while somebody holds a socket already."""
    token = server.token(subject)
    async with server.socket("/stage/ws", token) as socket:
        await socket.until("welcome")
        return await denied(server, "/stage/ws", token, **kwargs)


async def too_many_sockets(server: RunningServer) -> Problem:
    """How the first handshake is denied for which there is no room."""
    token = server.token()
    async with server.socket("/stage/ws", token) as socket:
        await socket.until("welcome")
        return await denied(server, "/stage/ws", token)


async def many_headers(server: RunningServer) -> Problem:
    """The answer to a request with more header lines than are taken."""
    async with server.client() as client:
        headers = [(f"X-{number}", "y") for number in range(120)]
        return answered(await client.get("/health/live", headers=headers))


async def half_a_header(server: RunningServer) -> Problem:
    """The answer to somebody who does not finish the header."""
    with patch.object(server_module, "HEADER_SECONDS", 0.1):
        return await raw(server, HALF_A_HEADER)


async def restarts(server: RunningServer) -> Problem:
    """The problem that a channel's client is told when the process ends."""
    async with server.socket("/stage/ws", server.token()) as socket:
        for connection in server.app.state.connections:
            server._server._loop.call_soon_threadsafe(connection.end, errors.Restarting())
        return await ended(socket)


async def restarting(server: RunningServer) -> Problem:
    """The answer to a handshake at a process that ends."""
    server.app.state.connections.draining = True
    return await denied(server, "/stage/ws", server.token())


STAGE = (router,)
DETAIL = frozenset({"detail"})
CALLS = {"outbound_timeout_seconds": 0.1, "outbound_token_hosts": "127.0.0.1"}

PROVOCATIONS = [
    Provocation(
        errors.InvalidParameter,
        rest=lambda s: posted(s, json={"text": 7}),
        channel=(lambda s: tells(s, "/stage/ws", {"text": 7}),),
        routers=STAGE,
    ),
    Provocation(
        errors.MalformedBody,
        rest=lambda s: posted(s, content="{", headers={"Content-Type": "application/json"}),
        channel=(lambda s: on_stage(s, "{"),),
        routers=STAGE,
    ),
    Provocation(
        errors.UnsupportedMediaType,
        rest=lambda s: posted(s, content="text", headers={"Content-Type": "text/plain"}),
        channel=(lambda s: on_stage(s, b"\x00\x01"),),
        routers=STAGE,
        differ=DETAIL,  # what is taken instead
    ),
    Provocation(
        errors.HttpError,
        rest=lambda s: posted(s, json={"text": "teapot"}),
        channel=(lambda s: tells(s, "/stage/ws", {"text": "teapot"}),),
        routers=STAGE,
    ),
    Provocation(
        errors.InternalError,
        rest=lambda s: posted(s, json={"text": "crash"}),
        channel=(crashes,),
        routers=STAGE,
    ),
    Provocation(
        errors.NotFound,
        rest=lambda s: asked(s, "/nowhere"),
        channel=(lambda s: denied(s, "/nowhere", s.token()),),
    ),
    Provocation(
        errors.AuthenticationFailed,
        rest=lambda s: asked(s, "/stage/admin"),
        channel=(
            lambda s: denied(s, "/stage/ws", None),
            lambda s: closed(s, "/stage/ws", None),
        ),
        routers=STAGE,
    ),
    Provocation(
        errors.TokenExpired,
        rest=lambda s: asked(s, "/stage/admin", expired(s)),
        channel=(
            lambda s: denied(s, "/stage/ws", expired(s)),
            lambda s: closed(s, "/stage/ws", expired(s)),
        ),
        routers=STAGE,
    ),
    Provocation(
        errors.InsufficientScope,
        rest=lambda s: asked(s, "/stage/fresh", limited(s)),
        channel=(
            lambda s: denied(s, "/stage/ws", limited(s)),
            lambda s: closed(s, "/stage/ws", limited(s)),
        ),
        routers=STAGE,
    ),
    Provocation(
        errors.StepUpRequired,
        rest=lambda s: asked(s, "/stage/fresh", s.token()),
        channel=(
            lambda s: denied(s, "/stage/fresh/ws", s.token()),
            lambda s: closed(s, "/stage/fresh/ws", s.token()),
        ),
        routers=STAGE,
    ),
    Provocation(
        errors.SessionRevoked,
        rest=revoked,
        channel=(revoked_program, revoked_page, revoked_meanwhile),
        routers=STAGE,
    ),
    Provocation(
        IdempotencyKeyReused,
        rest=notes.reused,
        channel=(notes.reused_on_a_socket,),
        routers=(notes.router,),
    ),
    Provocation(
        errors.Forbidden,
        rest=lambda s: asked(s, "/stage/admin", s.token()),
        channel=(
            lambda s: denied(s, "/stage/admin/ws", s.token()),
            lambda s: closed(s, "/stage/admin/ws", s.token()),
        ),
        routers=STAGE,
    ),
    Provocation(
        errors.Unavailable,
        rest=lambda s: asked(s, "/stage/database"),
        channel=(lambda s: tells(s, "/stage/database/ws", {"text": "?"}),),
        routers=STAGE,
    ),
    Provocation(
        errors.Restarting,
        channel=(restarts, restarting),
        routers=STAGE,
        alone="REST is served until the process ends.",
    ),
    Provocation(
        errors.RateLimited,
        rest=too_often,
        channel=(
            lambda s: tells(s, "/stage/seldom/say/ws", {"text": "Again."}),
            lambda s: denied(s, "/stage/seldom/ws", None),
            lambda s: closed(s, "/stage/seldom/ws", None),
        ),
        routers=STAGE,
        differ=frozenset({"retry_after"}),
    ),
    Provocation(
        errors.TooManyConnections,
        channel=(
            lambda s: one_too_many(s, "1"),
            lambda s: one_too_many(s, "2", origin=s.url),
        ),
        routers=STAGE,
        settings={"ws_max_per_user": 1},
        alone="Requests hold no place: what limits them is how often they come.",
    ),
    Provocation(
        errors.Overloaded,
        rest=lambda s: asked(s, "/stage/full"),
        channel=(too_many_sockets,),
        routers=STAGE,
        settings={"ws_max_connections": 1},
        differ=DETAIL,  # what there is too much of
    ),
    Provocation(
        errors.OriginNotAllowed,
        rest=preflight,
        channel=(lambda s: denied(s, "/stage/ws", s.token(), origin=FOREIGN),),
        routers=STAGE,
        differ=DETAIL,  # over REST, which part of the preflight
    ),
    Provocation(
        errors.HostNotAllowed,
        rest=foreign_host,
        channel=(foreign_host_of_a_socket,),
        routers=STAGE,
    ),
    Provocation(
        errors.MalformedRequest,
        rest=lambda s: raw(s, NO_HTTP),
        channel=(lambda s: raw(s, UPGRADE % (8, b"")),),
        differ=DETAIL,  # the version that is spoken
    ),
    Provocation(
        errors.HeadersTooLarge,
        rest=many_headers,
        channel=(lambda s: raw(s, UPGRADE % (13, b"X: y\r\n" * 120)),),
    ),
    Provocation(
        errors.RequestTimeout,
        rest=half_a_header,
        alone="Whoever has not finished the header has not said which door it is to be.",
    ),
    Provocation(
        errors.MethodNotAllowed,
        rest=wrong_method,
        routers=STAGE,
        alone="A handshake is a GET, and an address without a channel is not_found.",
    ),
    Provocation(
        errors.BodyTooLarge,
        rest=lambda s: posted(s, json={"text": "a" * 2000}),
        routers=STAGE,
        settings={"max_body_bytes": 1024},
        alone="The protocol itself closes on a frame that is too large, with 1009 (RFC 6455).",
    ),
    Provocation(
        UpstreamFailed,
        rest=lambda s: calling.fails(s, response(500)),
        channel=(lambda s: calling.fails_in_a_frame(s, response(500)),),
        routers=(calling.router,),
        settings=CALLS,
    ),
    Provocation(
        UpstreamTimeout,
        rest=lambda s: calling.fails(s, hang),
        channel=(lambda s: calling.fails_in_a_frame(s, hang),),
        routers=(calling.router,),
        settings=CALLS,
    ),
]
