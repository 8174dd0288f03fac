"""What a `provocations.py` is written with: an error, how each door is made to answer with it.

    PROVOCATIONS = [Provocation(RoomReadOnly, rest=post_too_late, channel=say_too_late)]

tests/test_parity.py collects them from every folder of the tests.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from websockets.exceptions import InvalidStatus

from app.core.errors import AppError, registry
from tests.server import RunningServer, Socket

Problem = dict[str, Any]
Play = Callable[[RunningServer], Awaitable[Problem]]


@dataclass(frozen=True)
class Provocation:
    """An error and what makes a running server answer with it, through each door.

    Args:
        error: the class, as it is registered.
        rest: provokes it over REST; gives the problem.
        channel: provokes it through channels: as many ways as there are, each gives the problem.
        alone: why one of the doors cannot raise it.
        routers: routers of the test's own that it takes.
        settings: settings that it takes.
        differ: members that tell of the occasion, where the two doors have two.
    """

    error: type[AppError]
    rest: Play | None = None
    channel: tuple[Play, ...] = ()
    alone: str = ""
    routers: tuple[APIRouter, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    differ: frozenset[str] = frozenset()


def answered(response: httpx2.Response) -> Problem:
    """The problem that an HTTP response carries, as it has to."""
    problem: Problem = response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == problem["request_id"]
    assert response.status_code == problem["status"]
    assert response.request.url.path == problem["instance"]
    if problem["status"] == 401:
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    if "retry_after" in problem:
        assert response.headers["Retry-After"] == str(problem["retry_after"])
    return problem


async def denied(server: RunningServer, path: str, token: str | None, **kwargs: Any) -> Problem:
    """The problem that a program's handshake is denied with."""
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket(path, token, **kwargs):
            pass
    return denial(refused.value, path)


def denial(refused: InvalidStatus, path: str) -> Problem:
    """The problem in the answer to a handshake, as it has to be."""
    response = refused.response
    problem: Problem = json.loads(response.body or b"")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == problem["request_id"]
    assert response.status_code == problem["status"]
    assert problem["instance"] == path
    return problem


async def closed(server: RunningServer, path: str, token: str | None) -> Problem:
    """The problem that a page's socket is told before it is closed."""
    async with server.browser_socket(path, token) as socket:
        return await ended(socket)


async def ended(socket: Socket) -> Problem:
    """The problem in the last frame of a socket that the server closes, with its code."""
    close_code, reason, frames = await socket.ending()
    assert frames[-1]["type"] == "error"
    problem: Problem = frames[-1]["data"]
    assert close_code == registry[problem["code"]].describe()["close_code"]
    assert reason == problem["code"]
    return problem


async def framed(socket: Socket, kind: str, data: Any = None, *, key: str | None = None) -> Problem:
    """The problem that answers a frame, on a socket that lives on."""
    answer = await socket.ask(kind, data, ref="provoked", key=key)
    assert answer["type"] == "error"
    assert await socket.ask("ping", ref="alive") == {"type": "pong", "ref": "alive"}
    problem: Problem = answer["data"]
    return problem
