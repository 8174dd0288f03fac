"""What tickets take and give."""

from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.schemas import Schema
from app.core.tickets import MAX_PATH


def _decoded(path: str) -> str:
    """As the server sees it: percent-escapes decoded."""
    decoded = unquote(path)
    if not decoded.isprintable():
        raise PydanticCustomError("path", "A path is text that can be printed")
    return decoded


Path = Annotated[
    str,
    StringConstraints(max_length=MAX_PATH, pattern=r"^/[\x21\x22\x24-\x3e\x40-\x7e]*$"),
    AfterValidator(_decoded),
    Field(
        description="of the WebSocket's address, without a query", examples=["/api/v1/rooms/7/ws"]
    ),
]


class Door(Schema):
    """A WebSocket that there is, and what it is for."""

    path: str
    description: str


class Way(Schema):
    """Where a ticket is to let somebody in."""

    path: Path


class Ticket(Schema):
    """A ticket, for `?ticket=`, and for how many seconds it is good."""

    ticket: str
    expires_in: int
