"""What sessions take and give."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from app.core.schemas import Schema


class RefreshToken(Schema):
    """A refresh token, as log-in or the last refresh gave it."""

    refresh_token: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TokenPair(Schema):
    """An access token, its lifetime in seconds, and what to get the next one with (RFC 6749)."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the kind of token, not one
    expires_in: int
    refresh_token: str
