"""What people's accounts take and give."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.schemas import Email, Schema
from app.features.accounts.passwords import PASSWORD_MAX, PASSWORD_MIN
from app.features.accounts.sessions.schemas import TokenPair

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


# A password that is asked for again, and a token of a link, are only looked at.
Given = Annotated[SecretStr, Field(min_length=1, max_length=PASSWORD_MAX)]


class NewAddress(Schema):
    """An address that somebody says is theirs, and what they are called."""

    email: Email
    name: Name


class Address(Schema):
    """An address; in an answer the one that was given, whatever is known of it."""

    email: Email


class Choice(Schema):
    """A mailed link's token, and the password that is chosen with it."""

    token: Given
    password: Password


class Token(Schema):
    """A mailed link's token."""

    token: Given


class PasswordChange(Schema):
    """The password, and the one that takes its place."""

    current: Given
    new: Password


class EmailChange(Schema):
    """Another address, and the password."""

    email: Email
    password: Given


class Rename(Schema):
    """Another name."""

    name: Name


class Reset(Schema):
    """What a reset of the password has left: so many API keys are still good."""

    api_keys: int


class Deletion(Schema):
    """The password, for what cannot be undone."""

    password: Given


class Account(Schema):
    """Somebody's account, as they see it."""

    id: int
    email: str
    name: str
    roles: tuple[str, ...]
    has_password: Annotated[bool, Field(description="false: they log in by a provider alone")]
    created_at: datetime


class Confirmed(TokenPair):
    """The account that there is now, and the tokens of its first session."""

    account: Account
