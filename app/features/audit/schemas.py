"""What the audit log is asked, and what it tells."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints
from pydantic_core import PydanticCustomError

from app.core.schemas import Cursor, Limit, Schema


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("datetime_range", "There is no such moment in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class AuditQuery(Schema):
    """Which entries; what is left out does not matter."""

    action: Annotated[
        str | None,
        StringConstraints(max_length=64, pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*\.?$"),
        Field(
            description="What was done: `session.begun`, or `session.` for all that begins so.",
            examples=["session."],
        ),
    ] = None
    subject: Annotated[
        str | None,
        StringConstraints(max_length=255, pattern=r"^[\x20-\x7e]+$"),
        Field(description="Whom it was done to or for, as their tokens name them."),
    ] = None
    since: Annotated[Moment | None, Field(description="Not before this.")] = None
    until: Annotated[Moment | None, Field(description="Before this.")] = None
    after: Cursor | None = None
    limit: Limit = 50


class AuditEntry(Schema):
    """Something that somebody did: `actor` (null: an operator, or nobody), to or for `subject`."""

    id: int
    at: datetime
    action: str
    actor: str | None
    subject: str | None
    address: str
    request_id: str
    details: dict[str, Any]
