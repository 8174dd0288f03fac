"""The form that any access token has, whoever signed it; no signature is looked at here.

A token is a JWS in compact form (RFC 7515) holding JWT claims (RFC 7519). What is refused, and why,
follows RFC 8725.
"""

import base64
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

M = TypeVar("M", bound=BaseModel)

MAX_LENGTH = 4096
MAX_SECONDS = 253_402_300_799  # the last second a datetime can hold

# Printable ASCII keeps out NUL and lone surrogates, and no two names look alike.
Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[\x20-\x7e]+$")]
RoleName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[\x21-\x7e]+$")]
Scope = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[\x20-\x7e]*$")]
# What a person is called, in any script: strict strings hold no lone surrogate.
DisplayName = Annotated[str, StringConstraints(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]
Seconds = Annotated[int, Field(ge=0, le=MAX_SECONDS)]


class Reason(StrEnum):
    """Why a token was refused: for logs, and for choosing the error to answer with."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    ALGORITHM = "algorithm"
    TYPE = "type"
    HEADER = "header"
    KEY = "key"
    KEY_REMOVED = "key_removed"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    LIFETIME = "lifetime"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"


class TokenRefused(Exception):
    """The one error of verification; it carries a reason and nothing of the token."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def read(token: object, *, max_length: int = MAX_LENGTH) -> tuple[dict[str, Any], bytes]:
    """The header and the payload, as bytes, of what is a token by its form.

    Its three parts have to be canonical base64url (RFC 7515, appendix C). Raises TokenRefused and
    nothing else, whatever `token` is.
    """
    if not isinstance(token, str):
        raise TokenRefused(Reason.MISSING if token is None else Reason.MALFORMED)
    if not token:
        raise TokenRefused(Reason.MISSING)
    if len(token) > max_length:
        raise TokenRefused(Reason.TOO_LONG)
    parts = token.split(".")
    try:
        raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts]
    except ValueError:
        raw = []
    # Decoding drops stray letters, padding and bits; encoding again is what finds them.
    if len(raw) != 3 or [base64url(part) for part in raw] != parts:
        raise TokenRefused(Reason.MALFORMED)
    return json_object(raw[0]), raw[1]


def json_object(raw: bytes) -> dict[str, Any]:
    """One JSON object whose names are distinct. Raises TokenRefused."""
    try:
        value = _JSON.decode(raw.decode())
    except (ValueError, RecursionError):
        value = None
    # Raised out here so that no chained error carries the text.
    if not isinstance(value, dict):
        raise TokenRefused(Reason.MALFORMED)
    return value


def claims_in(payload: Mapping[str, Any], model: type[M]) -> M:
    """A token's claims, as `model` has them. Raises TokenRefused."""
    try:
        claims = model.model_validate(payload)
    except ValidationError:
        claims = None
    if claims is None:  # raised out here, where no chained error carries the claims
        raise TokenRefused(Reason.CLAIMS)
    return claims


def base64url(raw: bytes) -> str:
    """`raw` in base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def check_times(
    *, issued_at: int, expires_at: int, not_before: int, longest: float, leeway: float, now: float
) -> None:
    """Raise TokenRefused unless a token of at most `longest` seconds is valid now.

    All are seconds; `leeway` is granted to clocks that differ, at both ends of a token's life.
    """
    if not 0 < expires_at - issued_at <= longest:
        raise TokenRefused(Reason.LIFETIME)
    if max(issued_at, not_before) > now + leeway:
        raise TokenRefused(Reason.NOT_YET_VALID)
    # "On or after" `exp` is too late (RFC 7519 section 4.1.4); the leeway moves that instant.
    if now >= expires_at + leeway:
        raise TokenRefused(Reason.EXPIRED)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
