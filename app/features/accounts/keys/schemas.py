"""What API keys take and give."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.core.auth import scopes
from app.core.schemas import Schema
from app.features.accounts.people.schemas import Name


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if not scopes.keys() >= set(names):
        known = {"known": ", ".join(sorted(scopes))}
        raise PydanticCustomError("unknown_scope", "There are these scopes: {known}", known)
    return tuple(sorted(set(names)))


Scopes = Annotated[tuple[str, ...], Field(min_length=1, max_length=32), AfterValidator(_known)]


class NewKey(Schema):
    """A key to be made: what it is for, what it may do, and for how long."""

    name: Name
    scopes: Annotated[Scopes, Field(examples=[["rooms:read"]])]
    expires_in_days: Annotated[int, Field(ge=1, le=365)] = 90


class Key(Schema):
    """A key, without its secret."""

    id: int
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None


class MadeKey(Key):
    """A new key; `key` is told this once, and kept by nobody but its owner."""

    key: str


class Scope(Schema):
    """Something that a key may be made for."""

    name: str
    description: str
