"""What accounts take and give."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.schemas import Email, Schema

PASSWORD_MIN, PASSWORD_MAX = 10, 200

# No control characters: the name is a claim of access tokens, which take none.
Name = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=80, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
]


def _fits(password: SecretStr) -> SecretStr:
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        # pydantic's own message would speak of items.
        message = "A password has {least} to {most} characters"
        limits = {"least": PASSWORD_MIN, "most": PASSWORD_MAX}
        raise PydanticCustomError("password_length", message, limits)
    return password


Password = Annotated[
    SecretStr,
    AfterValidator(_fits),
    Field(json_schema_extra={"minLength": PASSWORD_MIN, "maxLength": PASSWORD_MAX}),
]


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
