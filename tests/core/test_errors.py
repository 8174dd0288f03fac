"""The registry of errors, and the way from any exception to an entry of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException, WebSocketException

from app.core.errors import (
    MAX_LISTED_ERRORS,
    AppError,
    AuthenticationFailed,
    BodyTooLarge,
    Forbidden,
    HttpError,
    InternalError,
    InvalidParameter,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Restarting,
    TokenExpired,
    Unavailable,
    UnsupportedMediaType,
    close_code,
    declared,
    invalid,
    raises,
    registry,
    to_app_error,
)

Define = Callable[..., type[AppError]]


@pytest.fixture
def define() -> Iterator[Define]:
    """Defines an error class; afterwards the registry is as it was."""
    before = dict(registry)

    def make(
        name: str = "Probe", base: type[AppError] = AppError, **members: Any
    ) -> type[AppError]:
        return type(name, (base,), members)

    yield make
    registry.clear()
    registry.update(before)


def test_an_error_registers_itself_under_its_code(define: Define) -> None:
    """An error class is in the registry as soon as it is defined."""
    probe = define(status=409, code="probe.taken", title="Taken.", error_code=9001)
    assert registry["probe.taken"] is probe


def test_a_base_without_a_code_is_no_entry(define: Define) -> None:
    """A class that names no code of its own registers nothing."""
    before = dict(registry)
    define(status=409, title="Taken.")
    define(base=NotFound)
    assert registry == before


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"status": 404, "code": "not_found", "title": "T"}, "'not_found' is taken by NotFound"),
        (
            {"status": 400, "code": "probe.x", "title": "T", "error_code": 1001},
            "1001 is taken by NotFound",
        ),
        ({"status": 400, "code": "Probe.x", "title": "T"}, "is not a code"),
        ({"status": 400, "code": "probe..x", "title": "T"}, "is not a code"),
        ({"status": 400, "code": "probe.x\n", "title": "T"}, "is not a code"),
        ({"status": 400, "code": "probe-x", "title": "T"}, "is not a code"),
        ({"status": 400, "code": "", "title": "T"}, "is not a code"),
        ({"status": 400, "code": "p" * 124, "title": "T"}, "is not a code"),
        ({"status": 400, "code": "probe.x"}, "needs a title and a status"),
        ({"status": 400, "code": "probe.x", "title": ""}, "needs a title and a status"),
        ({"code": "probe.x", "title": "T"}, "needs a title and a status"),
        ({"status": 399, "code": "probe.x", "title": "T"}, "needs a title and a status"),
        ({"status": 600, "code": "probe.x", "title": "T"}, "needs a title and a status"),
    ],
)
def test_a_wrong_definition_fails_where_it_is_written(
    define: Define, members: dict[str, Any], reason: str
) -> None:
    """A duplicate or malformed entry raises TypeError as the class is defined."""
    before = dict(registry)
    with pytest.raises(TypeError, match=f"^Probe: .*{reason}"):
        define(**members)
    assert registry == before


def test_the_longest_code_fits_a_close_reason(define: Define) -> None:
    """A code of 123 bytes is taken, which is what a close frame holds (RFC 6455, 5.5)."""
    define(status=400, code="p" * 123, title="T")
    assert all(len(code.encode()) <= 123 for code in registry)


def test_core_has_the_numbers_that_people_know() -> None:
    """The numbers of the common errors are fixed."""
    numbers = {error.error_code: code for code, error in registry.items() if error.error_code}
    known = {
        999: "internal",
        1000: "invalid_parameter",
        1001: "not_found",
        1004: "forbidden",
        1005: "authentication_failed",
        1007: "http_error",
        109: "token_expired",
    }
    assert {number: numbers.get(number) for number in known} == known


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 4400), (401, 4401), (403, 4403), (499, 4499), (500, 1011), (502, 1011), (503, 1013)],
)
def test_the_close_code_follows_from_the_status(status: int, expected: int) -> None:
    """4xx closes with 4000 more, 503 with 1013 (try again later), any other 5xx with 1011."""
    assert close_code(status) == expected
    assert HttpError(status).close_code == expected


def test_an_error_may_have_a_close_code_of_its_own() -> None:
    """A service that restarts closes with 1012, though its status is 503."""
    assert Restarting.describe()["close_code"] == Restarting().close_code == 1012
    assert Restarting.describe()["status"] == Restarting().status == 503


@pytest.mark.parametrize(
    ("raised", "error", "status"),
    [
        (HTTPException(400), HttpError, 400),
        (HTTPException(400, "There was an error parsing the body"), MalformedBody, 400),
        (HTTPException(401), AuthenticationFailed, 401),
        (HTTPException(403), Forbidden, 403),
        (HTTPException(404), NotFound, 404),
        (HTTPException(405), MethodNotAllowed, 405),
        (HTTPException(409), HttpError, 409),
        (HTTPException(413), BodyTooLarge, 413),
        (HTTPException(415), UnsupportedMediaType, 415),
        (HTTPException(418), HttpError, 418),
        (HTTPException(499), HttpError, 499),
        (HTTPException(500), HttpError, 500),
        (HTTPException(503), Unavailable, 503),
        (WebSocketException(1003), UnsupportedMediaType, 415),
        (WebSocketException(1007), HttpError, 400),
        (WebSocketException(1008), Forbidden, 403),
        (WebSocketException(1009), BodyTooLarge, 413),
        (WebSocketException(1011), HttpError, 500),
        (WebSocketException(1013), Unavailable, 503),
        (WebSocketException(4401), AuthenticationFailed, 401),
        (WebSocketException(4404), NotFound, 404),
        (WebSocketException(4409), HttpError, 409),
        (WebSocketException(4499), HttpError, 499),
        (WebSocketException(4500), HttpError, 500),
        (WebSocketException(3000), HttpError, 500),
        (RuntimeError("no business of the client's"), InternalError, 500),
        (TokenExpired(), TokenExpired, 401),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else None,
)
def test_every_exception_becomes_a_registered_error(
    raised: Exception, error: type[AppError], status: int
) -> None:
    """What the framework and the code raise is told to a client by an entry of the registry."""
    result = to_app_error(raised)
    assert type(result) is error
    assert result.status == status
    assert registry[result.code] is error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 503])
def test_the_detail_of_an_http_exception_is_kept(status: int) -> None:
    """A detail that somebody wrote is told; the status's own phrase is not repeated as one."""
    assert to_app_error(HTTPException(status, "The lamp is off.")).detail == "The lamp is off."
    assert to_app_error(HTTPException(status)).detail is None
    assert to_app_error(WebSocketException(4000 + status, "Off.")).detail == "Off."


def test_the_headers_of_an_http_exception_are_kept() -> None:
    """What an HTTPException says in headers is said, over the error's own."""
    busy = to_app_error(HTTPException(503, headers={"Retry-After": "7"}))
    assert busy.headers == {"Retry-After": "7"}
    other = to_app_error(HTTPException(401, headers={"WWW-Authenticate": "Basic"}))
    assert other.headers == {"WWW-Authenticate": "Basic"}
    assert AuthenticationFailed.headers == {"WWW-Authenticate": "Bearer"}


def test_a_detail_that_is_no_text_is_left_out() -> None:
    """An HTTPException whose detail is an object is answered without it."""
    detail: Any = {"password": "hunter2"}
    assert to_app_error(HTTPException(400, detail)).detail is None


def validation(*errors: dict[str, Any], body: Any = None) -> RequestValidationError:
    return RequestValidationError(errors, body=body)


def test_validation_tells_the_fields_and_not_their_values() -> None:
    """A validation error lists loc, msg and type of each field and never the input."""
    wrong = {
        "loc": ("body", "password"),
        "msg": "Too short",
        "type": "too_short",
        "input": "hunter2",
        "ctx": {"given": "hunter2"},
        "url": "https://errors.example/too_short",
    }
    told = [{"loc": ["body", "password"], "msg": "Too short", "type": "too_short"}]
    for raised in (validation(wrong), WebSocketRequestValidationError([wrong])):
        error = to_app_error(raised)
        assert type(error) is InvalidParameter
        assert error.errors == told


def test_a_list_of_wrong_fields_has_an_end() -> None:
    """However many fields are wrong, so many are listed."""
    wrong = {"loc": ("x",), "msg": "m", "type": "t"}
    assert len(invalid([wrong] * 1000).errors) == MAX_LISTED_ERRORS


def test_bad_json_is_a_malformed_body() -> None:
    """JSON that cannot be read is 400 and not a field that is wrong."""
    assert type(to_app_error(validation({"type": "json_invalid", "loc": ("body", 1)}))) is (
        MalformedBody
    )


def test_a_body_of_another_type_is_unsupported() -> None:
    """A body that was left as bytes, since its Content-Type is not JSON, is 415."""
    wrong = {"type": "model_attributes_type", "loc": ("body",), "msg": "m"}
    assert type(to_app_error(validation(wrong, body=b"<a/>"))) is UnsupportedMediaType
    assert type(to_app_error(validation(wrong, body="text"))) is InvalidParameter


def test_a_problem_has_the_members_of_rfc_9457_and_ours() -> None:
    """The representation has these members in this order, and the optional ones where known."""
    assert NotFound().problem(instance="/api/v1/things/7", request_id="r-1") == {
        "type": "/errors/not_found",
        "title": "There is nothing here.",
        "status": 404,
        "instance": "/api/v1/things/7",
        "code": "not_found",
        "error_code": 1001,
        "retryable": False,
        "request_id": "r-1",
    }
    field: Any = {"loc": ["body"], "msg": "m", "type": "t"}
    full = Unavailable("Full.", retry_after=5, errors=[field])
    problem = full.problem(instance=None, request_id=None)
    assert list(problem) == [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "error_code",
        "retryable",
        "request_id",
        "errors",
        "retry_after",
    ]
    assert (problem["detail"], problem["retry_after"], problem["retryable"]) == ("Full.", 5, True)
    assert problem["errors"] == [field]


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (5, "5"), (5.6, "6")])
def test_unavailable_says_when_to_come_back(seconds: float, header: str) -> None:
    """Retry-After is whole seconds, and never none (RFC 9110 section 10.2.3)."""
    for error in (Unavailable(retry_after=seconds), Overloaded(retry_after=seconds)):
        assert error.headers == {"Retry-After": header}
        assert error.retry_after == seconds


def test_authentication_errors_name_the_scheme() -> None:
    """Each 401 carries WWW-Authenticate (RFC 9110 section 15.5.2)."""
    for error in registry.values():
        if error.status == 401:
            assert error.headers["WWW-Authenticate"].startswith("Bearer"), error


def test_every_entry_describes_itself() -> None:
    """Each entry says what it is, in words that its docstring has."""
    for code, error in registry.items():
        entry = error.describe()
        assert entry["code"] == code
        assert entry["close_code"] == (error.closes_with or close_code(error.status))
        assert error.__doc__ is not None
        assert entry["description"].split() == error.__doc__.split()
        assert entry["title"].endswith(".")


def test_raises_adds_up() -> None:
    """Two `@raises` on one function declare both errors; without it there are none."""

    @raises(Forbidden)
    @raises(NotFound, TokenExpired)
    def guard() -> None: ...

    assert declared(guard) == (NotFound, TokenExpired, Forbidden)
    assert declared(lambda: None) == ()


@pytest.mark.timeout(240)  # everything is compiled for it, where no bytecode may be written
def test_an_error_has_its_message_without_docstrings() -> None:
    """Under `python -OO`, which strips docstrings, errors and documents keep their words."""
    program = (
        "import json; from app.core.settings import Settings; from app.main import create_app;"
        "from app.core.errors import Forbidden, NotFound, registry;"
        "app = create_app(Settings(_env_file=None));"
        "print(json.dumps([Forbidden.__doc__, str(Forbidden()), NotFound.describe(),"
        " '/health/live' in app.openapi()['paths'], len(registry)]))"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    doc, message, entry, documented, count = json.loads(done.stdout)
    assert doc is None
    assert message == "You may not do this."
    assert entry["description"] == entry["title"] == "There is nothing here."
    assert documented
    assert count > 10
