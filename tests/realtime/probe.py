"""A channel and routes for the tests of the engine, so that they need no feature of the service."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends
from pydantic import StringConstraints
from sqlalchemy import text
from starlette.requests import HTTPConnection, Request
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser, Principal
from app.core.db import Database
from app.core.errors import AppError, Forbidden, HttpError, NotFound, Unavailable, raises
from app.core.tokens import Tokens
from app.realtime import Channel, Hub, Message, Topic, on
from tests.server import DEADLINE, RunningServer, Socket

TEXT_LIMIT = 50_000


class Signal:
    """An event between threads: the server's loop sets it and a test awaits it, or the reverse."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def set(self) -> None:
        """Let whoever waits go on."""
        if not self._future.done():
            self._future.set_result(None)

    @property
    def is_set(self) -> bool:
        """Whether it was set."""
        return self._future.done()

    async def wait(self) -> None:
        """Wait until it is set; a cancelled wait leaves it as it is."""
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._future)), DEADLINE)


@dataclass
class Probe:
    """What a test tells the channel to do, and what it learns from it."""

    entered: Signal = field(default_factory=Signal)
    release: Signal = field(default_factory=Signal)
    cancelled: Signal = field(default_factory=Signal)
    ended: Signal = field(default_factory=Signal)
    closed: list[int] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    fail_in: dict[str, Exception] = field(default_factory=dict)
    hold_opened: bool = False
    writer: asyncio.Task[Any] | None = None
    asked: int = 0  # how often `authorise` was

    def has_been_asked(self, times: int) -> Callable[[], Awaitable[bool]]:
        """Whether `authorise` has been asked so many times from now on."""
        begun = self.asked

        async def fact() -> bool:
            return self.asked >= begun + times

        return fact


async def _probe(connection: HTTPConnection) -> Probe:
    probe: Probe = connection.app.state.probe
    return probe


ProbeState = Annotated[Probe, Depends(_probe)]


class Say(Message):
    """Something to tell everyone."""

    type = "say"
    text: Annotated[str, StringConstraints(min_length=1, max_length=TEXT_LIMIT)]


class Note(Message):
    """Something that is not answered."""

    type = "note"
    text: str = ""


class Wait(Message):
    """Wait until the test lets the handler go on."""

    type = "wait"


class Fail(Message):
    """Fail, in one of the ways of FAILURES."""

    type = "fail"
    how: str


class Write(Message):
    """Write a row, tell everyone, and wait before the end where `hold` is set."""

    type = "write"
    text: str
    hold: bool = False


class Said(Message):
    """Something that was said."""

    type = "said"
    text: str
    by: str = ""


class Noise(Message):
    """An event of no topic of the probe's."""

    type = "noise"


probe_events = Topic[Said]("probe:{room}")
logged_events = Topic[Said]("logged:{room}", durable=True, keep=5000)

FAILURES: dict[str, Exception] = {
    "forbidden": Forbidden("Not you."),
    "unavailable": Unavailable("Come back.", retry_after=7),
    "http": HttpError(409, "Not now."),
    "not_found": NotFound("No such thing."),
    "crash": RuntimeError("a secret of the code"),
}


@dataclass(frozen=True)
class Access:
    """The guard's value: who is in which room."""

    room: int
    user: Principal
    roles: frozenset[str]


@raises(Forbidden)
async def admitted(room: int, user: CurrentUser, probe: ProbeState) -> Access:
    """Let in whoever the test has not refused."""
    if user.subject in probe.refused:
        raise Forbidden("The test refuses you.")
    return Access(room, user, user.roles)


Admitted = Annotated[Access, Depends(admitted)]


router = APIRouter(prefix="/probe")


@router.websocket("/{room}/ws")
@raises(Forbidden)
class ProbeChannel(Channel):
    """Says what it hears, waits, fails and writes, as the test wants it."""

    topic = probe_events
    access: Admitted
    hub: Hub
    db: Database
    probe: ProbeState

    async def opened(self) -> None:
        """Wait and fail where the test wants it to."""
        if self.probe.hold_opened:
            self.probe.entered.set()
            await self.probe.release.wait()
        self._perhaps_fail("opened")

    async def authorise(self) -> None:
        """Fail where the test wants it to, and otherwise check all anew."""
        self.probe.asked += 1
        await super().authorise()
        self._perhaps_fail("authorise")

    async def closed(self, code: int) -> None:
        """Note the code."""
        self.probe.closed.append(code)
        self.probe.ended.set()
        self._perhaps_fail("closed")

    def _perhaps_fail(self, where: str) -> None:
        if error := self.probe.fail_in.get(where):
            raise error

    @on
    async def say(self, message: Say) -> Said:
        """Tell everyone, and answer the same."""
        said = Said(text=message.text, by=self.access.user.subject)
        self.hub.emit(probe_events.at(room=self.access.room), said)
        return said

    @on
    async def note(self, message: Note) -> None:
        """Write it down."""
        self.probe.handled.append(message.text)

    @on
    async def wait(self, message: Wait) -> Said:
        """Wait for the test."""
        self.probe.entered.set()
        try:
            await self.probe.release.wait()
        except asyncio.CancelledError:
            self.probe.cancelled.set()
            raise
        self.probe.handled.append("waited")
        return Said(text="waited")

    @on
    async def fail(self, message: Fail) -> None:
        """Fail as told."""
        raise FAILURES[message.how]

    @on
    async def write(self, message: Write) -> Said:
        """Write a row in a unit of work."""
        said = Said(text=message.text, by=",".join(sorted(self.access.roles)))
        self.probe.writer = asyncio.current_task()
        try:
            async with self.db.unit_of_work() as uow:
                await uow.execute(text("INSERT INTO probe VALUES (:text)"), {"text": message.text})
                self.hub.publish(uow, probe_events.at(room=self.access.room), said)
                if message.hold:
                    self.probe.entered.set()
                    await self.probe.release.wait()
        except asyncio.CancelledError:
            self.probe.cancelled.set()
            raise
        return said


@router.websocket("/{room}/binary")
class BinaryChannel(Channel):
    """Sends back the bytes it is sent, turned round."""

    subprotocols = ("v2.probe", "v1.probe")
    access: Admitted

    @on
    async def turn(self, data: bytes) -> bytes:
        """Turn the bytes round."""
        return data[::-1]


@router.websocket("/open")
class OpenChannel(Channel):
    """Takes anybody, and knows one message."""

    @on
    async def say(self, message: Say) -> Said:
        """Answer with the same."""
        return Said(text=message.text)


@router.websocket("/key")
class KeyChannel(Channel):
    """Says which key a message came with."""

    @on
    async def say(self, message: Say, key: str | None) -> Said:
        """Answer with the key."""
        return Said(text=message.text, by=repr(key))

    @on
    async def note(self, message: Note) -> None:
        """Take none."""


@router.get("/tasks")
async def tasks() -> list[str]:
    """The names of the server's tasks that belong to a connection."""
    kinds = ("read ", "work ", "write ", "end ")
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(kinds)]


@router.get("/{room}/count")
async def count(room: int, hub: Hub) -> int:
    """How many are subscribed."""
    return sum(hub.count(topic.at(room=room)) for topic in (probe_events, logged_events))


@router.post("/{room}/say")
async def say_to_all(room: int, message: Say, hub: Hub, times: int = 1) -> int:
    """Tell everyone; how many that were."""
    address = probe_events.at(room=room)
    for _ in range(times):
        hub.emit(address, Said(text=message.text))
    return hub.count(address)


@router.post("/{room}/revoke/{subject}")
async def revoke(room: int, subject: str, hub: Hub, db: Database) -> None:
    """End somebody's subscriptions."""
    async with db.unit_of_work() as uow:
        for topic in (probe_events, logged_events):
            hub.revoke(uow, topic.at(room=room), subject, Forbidden("You were put out."))


@router.post("/end/{session}")
async def end_session(session: str, request: Request, db: Database) -> None:
    """End a session."""
    async with db.unit_of_work() as uow:
        request.app.state.revocations.revoke_session(uow, session)


def failing(how: str) -> AppError:
    """The error that `fail` raises."""
    error = FAILURES[how]
    assert isinstance(error, AppError)
    return error


def expired_token(server: RunningServer, subject: str = "1") -> str:
    """A token that this server issued, some time ago."""
    settings = server.settings
    past = Tokens(
        settings.secret_key.get_secret_value(),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=settings.access_token_lifetime,
        clock=lambda: time.time() - 2 * settings.access_token_seconds,
    )
    return past.issue(subject, session="old")


async def welcomed(socket: Socket) -> Socket:
    """The socket, once it has been welcomed."""
    assert (await socket.frame())["type"] == "welcome"
    return socket


async def denial(
    server: RunningServer, path: str, token: str | None = None, **kwargs: Any
) -> tuple[int, Headers, dict[str, Any]]:
    """Status, headers and problem of a handshake that is denied."""
    with pytest.raises(InvalidStatus) as denied:
        async with server.socket(path, token, **kwargs):
            pass
    response = denied.value.response
    assert response.body is not None
    return response.status_code, response.headers, json.loads(response.body)


async def settle(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds: for what the server does once a client is gone."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110 - asked of another thread, over HTTP
            await asyncio.sleep(0.01)
