"""Models that cross a door, and the types that many of them share."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import TypeAdapter, ValidationError

from app.core.errors import NotFound
from app.core.schemas import MAX_ID, Cursor, Email, Id, Limit, Page, Schema
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter()


class Inner(Schema):
    """A model within another."""

    text: str = ""


class Thing(Schema):
    """A model."""

    text: str = ""
    texts: list[str] = []
    names: dict[str, str] = {}
    inner: Inner = Inner()
    number: float = 0


@router.get("/probe/{thing_id}")
async def thing(thing_id: Id) -> int:
    """Takes an id in its path."""
    return thing_id


@pytest.mark.parametrize("bad", ["\0", "a\0b", "\ud800", "a\udfff"])
@pytest.mark.parametrize("place", ["text", "texts", "names", "inner"])
def test_text_that_cannot_be_stored_is_refused(bad: str, place: str) -> None:
    """NUL and lone surrogates are refused wherever in a model they are."""
    value: Any = {"text": bad, "texts": ["a", bad], "names": {"a": bad}, "inner": {"text": bad}}
    with pytest.raises(ValidationError) as refused:
        Thing.model_validate({place: value[place]})
    assert [error["type"] for error in refused.value.errors()] == ["string_unstorable"]


def test_other_text_is_taken() -> None:
    """Whatever else Unicode has is text, beyond the first plane and control characters too."""
    assert Thing(text="é \U0001f600 \x01 \uffff").text == "é \U0001f600 \x01 \uffff"


def test_a_document_however_deep_is_looked_through() -> None:
    """Depth is the client's, so looking for NUL does not recurse."""
    deep: Any = "\0"
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(ValidationError, match="NUL"):
        Thing.model_validate({"texts": deep})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), "NaN", "1e400"])
def test_numbers_are_finite(number: Any) -> None:
    """NaN and infinity, which JSON does not have, are refused."""
    with pytest.raises(ValidationError, match="finite"):
        Thing(number=number)


def test_unknown_fields_are_refused_and_models_frozen() -> None:
    """A field that the model does not have is an error, and no field changes."""
    with pytest.raises(ValidationError, match="extra"):
        Thing.model_validate({"unknown": 1})
    with pytest.raises(ValidationError, match="frozen"):
        Thing().text = "other"  # type: ignore[misc]


def test_an_error_does_not_quote_its_input() -> None:
    """The text of a validation error has no value in it."""
    with pytest.raises(ValidationError) as refused:
        Thing.model_validate({"number": "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", ["1", "7", str(MAX_ID)])
async def test_an_id_is_a_whole_number(server: RunningServer, text: str) -> None:
    """An id as the service writes it is taken."""
    async with server.client() as client:
        answered = await client.get(f"/probe/{text}")
    assert answered.json() == int(text)


@pytest.mark.parametrize(
    "text", ["0", "-1", "+7", "007", "7.0", "7e0", "%207", "7%0a", "x", "\u0667", str(MAX_ID + 1)]
)  # fmt: skip
async def test_what_is_no_id_names_nothing(server: RunningServer, text: str) -> None:
    """Any other way to write a number is a 404, so that one thing has one address."""
    async with server.client() as client:
        answered = await client.get(f"/probe/{text}")
    assert (answered.status_code, answered.json()["code"]) == (404, "not_found")


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Any:
    """The service with the probe."""
    with RunningServer(settings_for(new_sqlite()), router) as running:
        yield running


def test_an_id_in_a_body_raises_not_found() -> None:
    """The same type outside a path refuses in the same way."""
    with pytest.raises(NotFound):
        TypeAdapter(Id).validate_python("007")


@pytest.mark.parametrize("limit", [0, 101, -1])
def test_a_page_has_from_1_to_100_items(limit: int) -> None:
    """A limit beyond the bounds is refused."""
    with pytest.raises(ValidationError):
        TypeAdapter(Limit).validate_python(limit)
    assert TypeAdapter(Limit).validate_python(100) == 100


@pytest.mark.parametrize("cursor", [0, -1, MAX_ID + 1])
def test_a_cursor_fits_the_database(cursor: int) -> None:
    """A cursor that no row can have is refused."""
    with pytest.raises(ValidationError):
        TypeAdapter(Cursor).validate_python(cursor)


def test_the_last_page_has_no_cursor() -> None:
    """A page without a next one says so with null."""
    assert Page[int](items=[1]).model_dump() == {"items": [1], "next": None}


@pytest.mark.parametrize("address", ["a@b.example", "A.B+c@xn--bcher-kva.example", "ü@bücher.com"])
def test_an_address_is_kept_as_written(address: str) -> None:
    """A valid address passes unchanged."""
    assert TypeAdapter(Email).validate_python(address.replace("example", "com")) == (
        address.replace("example", "com")
    )


@pytest.mark.parametrize(
    "address",
    ["", "a", "a@", "@b.com", "a@b", "Bob <a@b.com>", "a@b.com\n", "a\r\nBcc: c@d.com@b.com",
     " a@b.com", "a@b..com", "a@[127.0.0.1]", "a b@c.com", "a@b.com,c@d.com"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    """Display names, line breaks, blanks and lists are no address."""
    with pytest.raises(ValidationError):
        TypeAdapter(Email).validate_python(address)


def test_a_huge_address_is_refused_at_once() -> None:
    """A megabyte is refused by its length and never parsed."""
    started = time.perf_counter()
    with pytest.raises(ValidationError, match="at most 254"):
        TypeAdapter(Email).validate_python("a" * 1_000_000 + "@b.com")
    assert time.perf_counter() - started < 3
