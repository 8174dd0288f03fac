"""What the list of sessions gives."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.core.schemas import Schema


class ListedSession(Schema):
    """One log-in of whoever asks. The id opens nothing: it only names the session."""

    id: str
    device: Annotated[str, Field(examples=["Firefox on Linux"])]
    address: str | None
    created_at: datetime
    used_at: Annotated[datetime, Field(description="when a token was last asked for")]
    methods: Annotated[list[str], Field(description="how it was logged in (RFC 8176)")]
    current: Annotated[bool, Field(description="whether it is the one that asks")]


class SessionList(Schema):
    """The sessions that go on: the one that asks first, then those that were used last."""

    items: list[ListedSession]
