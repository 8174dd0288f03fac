"""The base of every model that crosses a door, and the types that many of them share."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Generic, Protocol, TypeVar

from email_validator import EmailNotValidError, validate_email
from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.core.errors import NotFound

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
MAX_ID = 2**63 - 1
MAX_EMAIL_LENGTH = 254  # RFC 5321 section 4.5.3.1, less the angle brackets of a path
MAX_LOCAL_PART_LENGTH = 64

T = TypeVar("T")


class Schema(BaseModel):
    """A frozen model that refuses unknown fields, text that cannot be stored, NaN and infinity.

    Its errors never quote their input.
    """

    model_config = ConfigDict(
        allow_inf_nan=False, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _is_storable(cls, data: Any) -> Any:
        # PostgreSQL takes no NUL in text and UTF-8 no surrogates, so SQLite is spared them too.
        if isinstance(data, dict) and any(UNSTORABLE.search(text) for text in _texts(data)):
            raise PydanticCustomError("string_unstorable", "Text may hold no NUL and no surrogate")
        return data


def _texts(data: dict[Any, Any]) -> Iterator[str]:
    """All text in a document; without recursion, since its depth is the client's."""
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


class Page(Schema, Generic[T]):
    """One page of a list, and the cursor that the next one starts from (null: no more)."""

    items: Sequence[T]
    next: int | None = None


class Numbered(Protocol):
    """A row, or what is told of it."""

    @property
    def id(self) -> int:
        """What the next page starts from."""
        ...


def following(found: Sequence[Numbered], limit: int) -> int | None:
    """The `next` of a page, of what was found: one more than the `limit` that it shows."""
    return found[limit - 1].id if len(found) > limit else None


def _canonical_id(value: Any) -> Any:
    text = str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,18}", text) or int(text) > MAX_ID:
        raise NotFound("An id is a whole number from 1, written without leading zeros.")
    return int(text)


Id = Annotated[int, Path(examples=[7]), BeforeValidator(_canonical_id)]
"""A database id in a path. What is not one, as the service writes it (`007`, `+7`, `2**63`),
names nothing: 404, so that two addresses never mean the same thing."""

Limit = Annotated[int, Field(ge=1, le=100, description="how many at most")]
Cursor = Annotated[int, Field(ge=1, le=MAX_ID, description="`next` of the page before")]


def _valid_email(address: str) -> str:
    try:
        local_part = validate_email(address, check_deliverability=False).local_part
    except EmailNotValidError as error:
        raise PydanticCustomError("email", "{reason}", {"reason": str(error)}) from None
    # In the form that addresses are compared in: one letter can stand for eighteen there.
    if len(unicodedata.normalize("NFKC", local_part)) > MAX_LOCAL_PART_LENGTH:
        raise PydanticCustomError("email", "The part before the @-sign is too long.")
    return address


Email = Annotated[
    str,
    # The length is checked first: the library takes seconds over a megabyte.
    Field(max_length=MAX_EMAIL_LENGTH, json_schema_extra={"format": "email"}),
    AfterValidator(_valid_email),
]
"""An e-mail address as it was written (RFC 5321, 6531), without display name; no DNS is asked."""
