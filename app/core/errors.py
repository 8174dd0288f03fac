"""The registry of errors: one class, one entry, every door.

    AppError
    ├── InvalidParameter, MalformedBody, UnsupportedMediaType, BodyTooLarge
    ├── MalformedRequest, HeadersTooLarge, RequestTimeout
    ├── NotFound, MethodNotAllowed, HttpError
    ├── AuthenticationFailed, TokenExpired, SessionRevoked, StepUpRequired
    ├── Forbidden, InsufficientScope
    ├── RateLimited, TooManyConnections
    ├── OriginNotAllowed, HostNotAllowed, Overloaded, Restarting
    └── Unavailable, InternalError

A subclass registers itself under its `code` when it is defined. The same object leaves as
`application/problem+json` (RFC 9457), as the data of an error frame, and as a close code.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import singledispatch
from http import HTTPStatus
from typing import Any, ClassVar, TypedDict, TypeVar, cast

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException, WebSocketException

CODE_PATTERN = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
MAX_CODE_BYTES = 123  # the code travels as a close reason, RFC 6455 section 5.5
MAX_LISTED_ERRORS = 20

registry: dict[str, type["AppError"]] = {}


class FieldError(TypedDict):
    """Where a value was wrong (`loc`), what is wrong (`msg`), and pydantic's `type` of it."""

    loc: list[str | int]
    msg: str
    type: str


class AppError(Exception):
    """An error that a client is told about. Subclass it, name `status`, `code` and `title`.

    Args:
        detail: what went wrong this time, for a person; no secret, no input echoed.
        errors: the fields that are wrong.
        retry_after: seconds after which the same may succeed; over HTTP the header says so too.
        headers: extra HTTP headers, where the door is HTTP.
    """

    status: int
    code: ClassVar[str]
    title: ClassVar[str]
    error_code: ClassVar[int | None] = None
    retryable: ClassVar[bool] = False
    headers: Mapping[str, str] = {}
    #: Any operation may raise it, so it need not be declared with `@raises`.
    everywhere: ClassVar[bool] = False
    #: Refused before the handshake completes even when the client is a browser.
    denies_handshake: ClassVar[bool] = False
    #: Methods that no request is refused with it by, for the documents.
    never_by: ClassVar[frozenset[str]] = frozenset()
    #: The WebSocket close code, where it does not follow from the status.
    closes_with: ClassVar[int | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" in vars(cls):
            _register(cls)

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Iterable[FieldError] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.errors = list(errors)
        self.retry_after = retry_after
        if retry_after is not None:
            headers = {"Retry-After": str(max(1, round(retry_after))), **(headers or {})}
        if headers:
            self.headers = {**self.headers, **headers}

    @property
    def close_code(self) -> int:
        """The WebSocket close code: its own, or the one that follows from the status."""
        return self.closes_with or close_code(self.status)

    def problem(self, *, instance: str | None, request_id: str | None) -> dict[str, Any]:
        """The error as an RFC 9457 object, with the members that Duplex adds."""
        problem: dict[str, Any] = {
            "type": f"/errors/{self.code}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            problem["detail"] = self.detail
        problem |= {
            "instance": instance,
            "code": self.code,
            "error_code": self.error_code,
            "retryable": self.retryable,
            "request_id": request_id,
        }
        if self.errors:
            problem["errors"] = self.errors
        if self.retry_after is not None:
            problem["retry_after"] = self.retry_after
        return problem

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """The registry's entry for this error, as `/errors` lists it."""
        return {
            "code": cls.code,
            "title": cls.title,
            "status": cls.status,
            "error_code": cls.error_code,
            "close_code": cls.closes_with or close_code(cls.status),
            "retryable": cls.retryable,
            "type": f"/errors/{cls.code}",
            # Under `python -OO` there are no docstrings.
            "description": " ".join((cls.__doc__ or cls.title).split()),
        }


def close_code(status: int) -> int:
    """1013 for 503, 1011 for any other 5xx, else 4000 + status (4000–4999 are for applications)."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return 1013
    return 1011 if status >= 500 else 4000 + status


def _register(cls: type[AppError]) -> None:
    if not CODE_PATTERN.fullmatch(cls.code) or len(cls.code) > MAX_CODE_BYTES:
        raise TypeError(f"{cls.__name__}: {cls.code!r} is not a code such as 'rooms.read_only'")
    if not getattr(cls, "title", None) or not 400 <= getattr(cls, "status", 0) <= 599:
        raise TypeError(f"{cls.__name__}: an error needs a title and a status from 400 to 599")
    if other := registry.get(cls.code):
        raise TypeError(f"{cls.__name__}: the code {cls.code!r} is taken by {other.__name__}")
    numbers = {e.error_code: e for e in registry.values() if e.error_code is not None}
    if cls.error_code in numbers:
        taken = numbers[cls.error_code].__name__
        raise TypeError(f"{cls.__name__}: the number {cls.error_code} is taken by {taken}")
    registry[cls.code] = cls


F = TypeVar("F", bound=Callable[..., Any])


def raises(*errors: type[AppError]) -> Callable[[F], F]:
    """Declare what a guard, an endpoint or a handler raises; the documents collect it.

    Under test an error that leaves a door without having been declared becomes a 500.
    """

    def declare(function: F) -> F:
        function.__raises__ = (*declared(function), *errors)  # type: ignore[attr-defined]
        return function

    return declare


def declared(function: Callable[..., Any]) -> tuple[type[AppError], ...]:
    """What `@raises` declared on `function` itself."""
    return getattr(function, "__raises__", ())


class InternalError(AppError):
    """Something unexpected happened; the log has the rest under the request id."""

    status = 500
    code = "internal"
    title = "Something went wrong on our side."
    error_code = 999
    everywhere = True


class InvalidParameter(AppError):
    """A value in the path, the query, a header, the body or a frame is not valid."""

    status = 422
    code = "invalid_parameter"
    title = "A value is not valid."
    error_code = 1000
    everywhere = True


class NotFound(AppError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"
    title = "There is nothing here."
    error_code = 1001
    everywhere = True
    denies_handshake = True


class Forbidden(AppError):
    """Who asks is known, and may not do this."""

    status = 403
    code = "forbidden"
    title = "You may not do this."
    error_code = 1004


class AuthenticationFailed(AppError):
    """No token was given, or it is not one of ours, or it is not valid."""

    status = 401
    code = "authentication_failed"
    title = "Sign in to do this."
    error_code = 1005
    headers = {"WWW-Authenticate": "Bearer"}


class TokenExpired(AppError):
    """The access token was valid and is too old; refresh it and try again."""

    status = 401
    code = "token_expired"
    title = "The access token has expired."
    error_code = 109
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class SessionRevoked(AppError):
    """The token is good, but was revoked: refresh it; where that is refused, sign in again."""

    status = 401
    code = "session_revoked"
    title = "This session was ended."
    headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


class InsufficientScope(AppError):
    """The credential is valid, and was not given for this (RFC 6750 section 3.1)."""

    status = 403
    code = "insufficient_scope"
    title = "The token or key was not given for this."


class StepUpRequired(AppError):
    """Who asks has to prove again that it is them: too long ago, or too weakly (RFC 9470)."""

    status = 401
    code = "step_up_required"
    title = "Prove again that it is you."
    headers = {"WWW-Authenticate": 'Bearer error="insufficient_user_authentication"'}


class HttpError(AppError):
    """Any other HTTP error; its status is the one that was raised."""

    status = 400
    code = "http_error"
    title = "The request failed."
    error_code = 1007
    everywhere = True

    def __init__(self, status: int, detail: str | None = None, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.status = status


class MalformedBody(AppError):
    """The body or the frame is not JSON that can be read: syntax, encoding, depth or digits."""

    status = 400
    code = "malformed_body"
    title = "This is not JSON that can be read."
    everywhere = True


class UnsupportedMediaType(AppError):
    """The body's Content-Type, or the kind of frame, is not one taken here."""

    status = 415
    code = "unsupported_media_type"
    title = "This content type is not taken here."
    everywhere = True


class BodyTooLarge(AppError):
    """The body is larger than the server takes."""

    status = 413
    code = "body_too_large"
    title = "The body is too large."
    everywhere = True


class MethodNotAllowed(AppError):
    """The address exists and does not take this method; `Allow` lists those it takes."""

    status = 405
    code = "method_not_allowed"
    title = "This method is not allowed here."
    everywhere = True


class MalformedRequest(AppError):
    """What arrived is not an HTTP/1.1 request (RFC 9112)."""

    status = 400
    code = "malformed_request"
    title = "This is not an HTTP request that can be read."
    everywhere = True


class HeadersTooLarge(AppError):
    """The request has too many header lines, or they are too long."""

    status = 431
    code = "headers_too_large"
    title = "The request headers are too large."
    everywhere = True


class RequestTimeout(AppError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"
    title = "The request did not arrive in time."
    retryable = True
    everywhere = True


class HostNotAllowed(AppError):
    """The Host header is missing, malformed, or not one of ALLOWED_HOSTS."""

    status = 400
    code = "host_not_allowed"
    title = "This host name is not served here."
    everywhere = True
    denies_handshake = True


class OriginNotAllowed(AppError):
    """The page that opened this connection is neither ours nor one of ALLOWED_ORIGINS."""

    status = 403
    code = "origin_not_allowed"
    title = "Pages of this origin may not connect."
    everywhere = True
    denies_handshake = True


class RateLimited(AppError):
    """This was done as often as a limit allows; it says when there is more of it."""

    status = 429
    code = "rate_limited"
    title = "This was done too often."
    retryable = True
    everywhere = True


class TooManyConnections(AppError):
    """As many sockets of one user, or from one address, are open as may be."""

    status = 429
    code = "too_many_connections"
    title = "Too many connections are open already."
    retryable = True
    everywhere = True
    denies_handshake = True


class Unavailable(AppError):
    """Something that the service needs does not answer; the same may succeed shortly."""

    status = 503
    code = "unavailable"
    title = "The service cannot do this right now."
    retryable = True
    everywhere = True

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after: float = 1,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        given = (headers or {}).get("Retry-After", "")
        retry_after = int(given) if given.isdecimal() else retry_after
        super().__init__(detail, retry_after=retry_after, headers=headers, **kwargs)


class UpstreamError(AppError):
    """Another service is what fails; those that are raised derive from it.

    Args:
        detail: what went wrong this time, for a person.
        host: which service, for the log alone.
    """

    retryable = True

    def __init__(
        self, detail: str | None = None, *, host: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(detail, **kwargs)
        self.host = host


class Overloaded(Unavailable):
    """As many are connected or waiting as the server takes."""

    code = "overloaded"
    title = "The service is full right now."
    denies_handshake = True


class Restarting(Unavailable):
    """The process that was connected to ends, as for a new version; connect again."""

    code = "restarting"
    title = "The service restarts."
    denies_handshake = True
    closes_with = 1012  # service restart, in IANA's registry of close codes


BY_STATUS: dict[int, type[AppError]] = {
    error.status: error
    for error in (
        AuthenticationFailed,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        BodyTooLarge,
        UnsupportedMediaType,
        Unavailable,
    )
}


@singledispatch
def to_app_error(exc: Exception) -> AppError:
    """The registered error for any exception; modules register those of their libraries."""
    return InternalError()


@to_app_error.register
def _(exc: AppError) -> AppError:
    return exc


@to_app_error.register
def _(exc: HTTPException) -> AppError:
    if not 400 <= exc.status_code <= 599:
        return InternalError()
    phrase = HTTPStatus(exc.status_code).phrase if exc.status_code in set(HTTPStatus) else None
    given = cast(object, exc.detail)  # FastAPI lets it be anything
    detail = given if isinstance(given, str) and given != phrase else None
    if exc.status_code == 400 and detail == "There was an error parsing the body":
        return MalformedBody()  # FastAPI's word for anything but a JSON syntax error
    if cls := BY_STATUS.get(exc.status_code):
        return cls(detail, headers=exc.headers)
    return HttpError(exc.status_code, detail, headers=exc.headers)


@to_app_error.register
def _(exc: WebSocketException) -> AppError:
    status = {1003: 415, 1007: 400, 1008: 403, 1009: 413, 1013: 503}.get(exc.code, 500)
    if 4400 <= exc.code <= 4499:
        status = exc.code - 4000
    return to_app_error(HTTPException(status, exc.reason or None))


@to_app_error.register
def _(exc: RequestValidationError) -> AppError:
    errors = exc.errors()
    if any(error["type"] == "json_invalid" for error in errors):
        return MalformedBody()
    # FastAPI hands a body of another content type on as bytes, and validation refuses those.
    if isinstance(exc.body, bytes) and any(e["loc"] == ("body",) for e in errors):
        return UnsupportedMediaType("Send application/json.")
    return invalid(errors)


@to_app_error.register
def _(exc: WebSocketRequestValidationError) -> AppError:
    return invalid(exc.errors())


def invalid(errors: Iterable[Any], *, prefix: tuple[str, ...] = ()) -> InvalidParameter:
    """InvalidParameter for pydantic's `errors`, without the input that they carry."""
    fields: list[FieldError] = [
        {"loc": [*prefix, *error["loc"]], "msg": error["msg"], "type": error["type"]}
        for error in errors
    ]
    return InvalidParameter(errors=fields[:MAX_LISTED_ERRORS])
