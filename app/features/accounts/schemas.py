"""What accounts take and give."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints

from app.core.schemas import Email, Schema

PASSWORD_MIN, PASSWORD_MAX = 10, 200

# No control characters: the name is a claim of access tokens, which take none.
Name = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=80, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]
Password = Annotated[SecretStr, Field(min_length=PASSWORD_MIN, max_length=PASSWORD_MAX)]


class SignUp(Schema):
    """A new account."""

    email: Email
    password: Password
    name: Name


class Account(Schema):
    """Somebody's account, as they see it."""

    id: int
    email: str
    name: str
    roles: tuple[str, ...]
    created_at: datetime


class RefreshToken(Schema):
    """A refresh token, as log-in or the last refresh gave it."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TokenPair(Schema):
    """An access token, its lifetime in seconds, and what to get the next one with (RFC 6749)."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind of token, not one
    expires_in: int
    refresh_token: str
