"""What second factors take and give."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from app.core.schemas import Schema
from app.features.accounts.codes import MAX_CODE


class SetUp(Schema):
    """What an authenticator is set up with: a secret to type, an address, and that as a QR code."""

    secret: str
    uri: str
    qr: Annotated[str, Field(description="an `<svg>` element")]


class Confirmation(Schema):
    """A code of the authenticator that has been set up."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE)]


class RecoveryCodes(Schema):
    """Codes that stand in for the authenticator, each of them once; they are not shown again."""

    recovery_codes: list[str]


class SecondFactorStatus(Schema):
    """Whether a second factor is asked for, since when, and how many recovery codes are left."""

    enabled: bool
    created_at: datetime | None = None
    recovery_codes_left: int = 0
