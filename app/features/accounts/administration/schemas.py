"""What administration takes and gives."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.schemas import Cursor, Email, Limit, Schema
from app.features.accounts.people.schemas import Name, Password
from app.features.accounts.roles import ROLES


def _known(roles: tuple[str, ...]) -> tuple[str, ...]:
    if not ROLES.keys() >= set(roles):
        known = {"known": ", ".join(sorted(ROLES))}
        raise PydanticCustomError("unknown_role", "There are these roles: {known}", known)
    return tuple(sorted(set(roles)))


class Roles(Schema):
    """All the roles that somebody is to have."""

    roles: Annotated[
        tuple[str, ...], Field(max_length=32, examples=[["admin"]]), AfterValidator(_known)
    ]


class AccountQuery(Schema):
    """Which accounts, the newest first."""

    search: Annotated[
        str | None,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=254, pattern=r"^[^\x00-\x1f\x7f]+$"
        ),
        Field(description="How the e-mail address or the name begins, in capitals or not."),
    ] = None
    after: Cursor | None = None
    limit: Limit = 50


class AdministeredAccount(Schema):
    """Somebody's account, as an administrator sees it."""

    id: int
    email: str
    name: str
    roles: tuple[str, ...]
    created_at: datetime
    disabled: bool
    locked: bool  # for a while, after wrong passwords or codes
    second_factor: bool
    sessions: int  # that have not ended


class NewAccount(Schema):
    """An account that an operator makes; without a password nobody logs in with one."""

    email: Email
    name: Name
    password: Password | None
