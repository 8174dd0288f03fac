"""Access tokens: the one module that knows jose.

A token is a JWS in compact form (RFC 7515) holding JWT claims (RFC 7519), signed with HS256 and
typed `at+jwt` (RFC 9068). What is refused, and why, follows RFC 8725.
"""

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from jose import jwk, jws
from jose.exceptions import JOSEError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

ALGORITHM = "HS256"
TYPE = "at+jwt"
MAX_LENGTH = 4096
MIN_SECRET_BYTES = 32
MAX_SECONDS = 253_402_300_799  # the last second a datetime can hold
HEADER_NAMES = {"alg", "typ", "kid"}
REMEDY = "generate one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


class Reason(StrEnum):
    """Why a token was refused: for logs, and for choosing the error to answer with."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    ALGORITHM = "algorithm"
    TYPE = "type"
    HEADER = "header"
    KEY = "key"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    LIFETIME = "lifetime"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"


class TokenRefused(Exception):
    """The one error of this module; it carries a reason and nothing of the token."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. A denial names `token_id`, never the token's text."""

    subject: str
    name: str
    session: str
    roles: frozenset[str]
    token_id: str
    issued_at: datetime
    expires_at: datetime


# Printable ASCII keeps out NUL and lone surrogates, and no two names look alike.
Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[\x20-\x7e]+$")]
RoleName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[\x21-\x7e]+$")]
# What a person is called, in any script: strict strings hold no lone surrogate.
DisplayName = Annotated[str, StringConstraints(max_length=80, pattern=r"^[^\x00-\x1f\x7f]*$")]
Seconds = Annotated[int, Field(ge=0, le=MAX_SECONDS)]


class _Payload(BaseModel):
    # Other claims are ignored (RFC 7519 section 4): a node of the last release then accepts what
    # one of the next issues. `nbf` is never issued, but where present it must be obeyed.
    model_config = ConfigDict(strict=True, extra="ignore")

    iss: Name
    aud: Name
    sub: Name
    sid: Name
    jti: Name
    name: DisplayName = ""
    iat: Seconds
    exp: Seconds
    nbf: Seconds = 0
    roles: Annotated[list[RoleName], Field(max_length=32)]


class Tokens:
    """Issues and verifies the access tokens of one issuer for one audience.

    `lifetime` is the default lifetime of a token and the longest one accepted. `leeway` is granted
    to clocks that differ, at both ends of a token's life. Raises ValueError for a secret that is
    short or shaped like a public key, and for an issuer, audience or duration that cannot be used.
    """

    def __init__(
        self,
        secret: str | bytes,
        *,
        issuer: str,
        audience: str,
        lifetime: timedelta,
        leeway: timedelta = timedelta(seconds=30),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if lifetime < timedelta(seconds=1) or leeway < timedelta(0):
            raise ValueError("lifetime must be at least one second and leeway not negative")
        self._key = _signing_key(secret)
        # Derived, so that every node holding the key names it alike; not a plain hash of the key,
        # which RFC 7638 section 7 advises against for symmetric keys.
        self._kid = _base64url(self._key.sign(b"kid"))[:16]
        self._issuer = _NAME.validate_python(issuer)
        self._audience = _NAME.validate_python(audience)
        self._lifetime = lifetime
        self._leeway = leeway.total_seconds()
        self._clock = clock

    def issue(
        self,
        subject: str,
        *,
        session: str,
        name: str = "",
        roles: Iterable[str] = (),
        lifetime: timedelta | None = None,
    ) -> str:
        """Return a signed token for `subject`, valid from now for `lifetime` in whole seconds.

        `name` is what the person is called, in any script; the other names are printable ASCII.
        Raises ValueError for what `verify` would refuse: an empty, long or unprintable name, too
        many roles, a lifetime below a second or above the configured one.
        """
        lifetime = self._lifetime if lifetime is None else lifetime
        if not timedelta(seconds=1) <= lifetime <= self._lifetime:
            raise ValueError(f"lifetime must be between one second and {self._lifetime}")
        issued_at = int(self._clock())
        claims = _Payload(
            iss=self._issuer,
            aud=self._audience,
            sub=subject,
            sid=session,
            name=name,
            jti=secrets.token_urlsafe(16),
            iat=issued_at,
            exp=issued_at + int(lifetime.total_seconds()),
            roles=sorted(set(roles)),
        ).model_dump(exclude_unset=True)
        headers = {"typ": TYPE, "kid": self._kid}
        token: str = jws.sign(claims, self._key, headers=headers, algorithm=ALGORITHM)
        if len(token) > MAX_LENGTH:
            raise ValueError(f"the names are too long for a token of {MAX_LENGTH} characters")
        return token

    def verify(self, token: object) -> Claims:
        """Return the claims of a token signed with this key, meant for this audience, and in time.

        Raises TokenRefused and nothing else, whatever `token` is.
        """
        if not isinstance(token, str):
            raise TokenRefused(Reason.MISSING if token is None else Reason.MALFORMED)
        if not token:
            raise TokenRefused(Reason.MISSING)
        if len(token) > MAX_LENGTH:
            raise TokenRefused(Reason.TOO_LONG)
        header, payload = _decoded(token)
        self._check_header(_json_object(header))
        try:
            jws.verify(token, self._key, algorithms=[ALGORITHM])
            signed = True
        except JOSEError:
            signed = False
        if not signed:
            raise TokenRefused(Reason.SIGNATURE)
        # Only now is the payload read: an unsigned token learns nothing about its claims.
        return self._claims(_json_object(payload))

    def _check_header(self, header: dict[str, Any]) -> None:
        if header.get("alg") != ALGORITHM:
            raise TokenRefused(Reason.ALGORITHM)
        if header.get("typ") != TYPE:
            raise TokenRefused(Reason.TYPE)
        # Nothing beyond these three, so no `crit`, `jku`, `jwk` or `b64` is ever acted upon.
        if header.keys() != HEADER_NAMES:
            raise TokenRefused(Reason.HEADER)
        if header["kid"] != self._kid:
            raise TokenRefused(Reason.KEY)

    def _claims(self, payload: dict[str, Any]) -> Claims:
        claims = _valid(payload)
        if claims.iss != self._issuer:
            raise TokenRefused(Reason.ISSUER)
        if claims.aud != self._audience:
            raise TokenRefused(Reason.AUDIENCE)
        self._check_times(claims)
        return Claims(
            subject=claims.sub,
            name=claims.name,
            session=claims.sid,
            roles=frozenset(claims.roles),
            token_id=claims.jti,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
            expires_at=datetime.fromtimestamp(claims.exp, UTC),
        )

    def _check_times(self, claims: _Payload) -> None:
        if not 0 < claims.exp - claims.iat <= self._lifetime.total_seconds():
            raise TokenRefused(Reason.LIFETIME)
        now = self._clock()
        if max(claims.iat, claims.nbf) > now + self._leeway:
            raise TokenRefused(Reason.NOT_YET_VALID)
        # "On or after" `exp` is too late (RFC 7519 section 4.1.4); the leeway moves that instant.
        if now >= claims.exp + self._leeway:
            raise TokenRefused(Reason.EXPIRED)


def _signing_key(secret: str | bytes) -> Any:
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has fewer than {MIN_SECRET_BYTES} bytes; {REMEDY}")
    # A verifier that takes a public key for an HMAC secret lets anybody sign (RFC 8725, 2.1).
    # jose sees PEM and ssh; DER, bare or in base64, and JWK pass through it.
    if b'"kty"' not in raw and not _is_der(raw) and not _is_der(_unarmoured(raw)):
        try:
            return jwk.construct(raw, ALGORITHM)
        except JOSEError:
            pass
    raise ValueError(f"the secret is a key or certificate of another algorithm; {REMEDY}")


def _is_der(raw: bytes) -> bool:
    """Whether `raw` is one DER sequence that begins as keys and certificates do."""
    if len(raw) < 4 or raw[0] != 0x30:
        return False
    size, start = raw[1], 2
    if size > 0x80:
        start += size - 0x80
        size = int.from_bytes(raw[2:start], "big")
    return start + size == len(raw) and raw[start : start + 1] in (b"\x02", b"\x30")


def _unarmoured(raw: bytes) -> bytes:
    try:
        return base64.b64decode(raw)
    except ValueError:
        return b""


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(token: str) -> tuple[bytes, bytes]:
    """Header and payload of three parts in canonical base64url (RFC 7515, appendix C)."""
    parts = token.split(".")
    try:
        raw = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts]
    except ValueError:
        raw = []
    # Decoding drops stray letters, padding and bits; encoding again is what finds them.
    if len(raw) != 3 or [_base64url(part) for part in raw] != parts:
        raise TokenRefused(Reason.MALFORMED)
    return raw[0], raw[1]


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = _JSON.decode(raw.decode())
    except (ValueError, RecursionError):
        value = None
    # Raised out here so that no chained error carries the text.
    if not isinstance(value, dict):
        raise TokenRefused(Reason.MALFORMED)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_NAME = TypeAdapter(Name)
_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _valid(payload: dict[str, Any]) -> _Payload:
    try:
        claims = _Payload.model_validate(payload)
    except ValidationError:
        claims = None
    if claims is None:
        raise TokenRefused(Reason.CLAIMS)
    return claims
