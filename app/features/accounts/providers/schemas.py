"""What logging in with a provider takes and gives."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, SecretStr

from app.core.schemas import Schema
from app.core.sign_in_providers import NAME_PATTERN
from app.features.accounts.codes import MAX_CODE

# Codes of some providers are tokens themselves, and long.
Code = Annotated[SecretStr, Field(min_length=1, max_length=4096)]
Blob = Annotated[SecretStr, Field(min_length=1, max_length=1024)]


class ListedProvider(Schema):
    """A provider to log in with."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    label: str


class ProviderList(Schema):
    """All of them."""

    items: list[ListedProvider]


class Begun(Schema):
    """Where to send the browser, and what to keep until it comes back."""

    url: str
    attempt: Annotated[str, Field(description="send it along with what the provider sends back")]


class Return(Schema):
    """What the provider has sent back, and the attempt from before."""

    code: Code
    state: Annotated[str, Field(max_length=255)]
    iss: Annotated[str, Field(max_length=255)] | None = None
    attempt: Blob


class Proved(Schema):
    """That somebody is who the provider says: it begins one session, within five minutes."""

    proof: str
    second_factor: Annotated[bool, Field(description="whether a code is asked for as well")]


class LogIn(Schema):
    """A proof, and a code of the second factor or a recovery code where there is one."""

    proof: Blob
    otp: Annotated[str, Field(max_length=MAX_CODE)] | None = None


class LinkedIdentity(Schema):
    """Somebody at a provider, who is linked to the account."""

    id: int
    provider: Annotated[str | None, Field(description="null where it is no provider here any more")]
    label: str
    email: str | None
    created_at: datetime


class LinkedIdentities(Schema):
    """All that are linked."""

    items: list[LinkedIdentity]
