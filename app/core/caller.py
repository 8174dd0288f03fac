"""Who is at the other end of the connection, as far as the network tells: for records of it."""

from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

MAX_AGENT = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's id, the address it came from, and what the client calls itself.

    All are empty outside of requests and connections: in commands and in jobs.
    """

    request_id: str = ""
    address: str = ""
    agent: str = ""


NOBODY = Caller()

_current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def caller_of(scope: Scope, request_id: str) -> Caller:
    """The caller of an ASGI scope; its agent is cut, and holds printable characters only."""
    agent = Headers(scope=scope).get("user-agent", "")[:MAX_AGENT]
    address = scope["client"][0] if scope.get("client") else ""
    return Caller(request_id, address, "".join(c if c.isprintable() else "?" for c in agent))


def current_caller() -> Caller:
    """The caller of the request or connection that this is done for."""
    return _current.get()


def enter(caller: Caller) -> None:
    """Make `caller` the current one, for this task and those that it starts."""
    _current.set(caller)
