"""What an ID token has to say (OpenID Connect Core 1.0, section 3.1.3.7), and what it tells."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.core.provider_keys import name_in
from app.core.schemas import Email
from app.core.settings import PROVIDER_TOKEN_LIFETIME
from app.core.token_form import Name, Reason, Seconds, TokenRefused, check_times, claims_in

TYPES = {"jwt"}
MAX_LENGTH = 16_384

_EMAIL: TypeAdapter[str] = TypeAdapter(Email)


class IdToken(BaseModel):
    """The claims of an ID token that are looked at."""

    model_config = ConfigDict(strict=True, extra="ignore")

    iss: Name
    aud: Name | Annotated[list[Name], Field(min_length=1, max_length=32)]
    sub: Name
    iat: Seconds
    exp: Seconds
    nbf: Seconds = 0
    nonce: Name
    azp: Name | None = None
    at_hash: Name | None = None
    auth_time: Seconds | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Who somebody is, as a provider tells; `email` is None where it has verified none."""

    issuer: str
    subject: str
    name: str
    email: str | None
    authenticated_at: int | None  # seconds since the epoch


def checked(
    payload: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str | None,
    leeway: float,
    now: float,
) -> IdToken:
    """The claims of a verified ID token that is meant for this service, and for this log-in.

    Raises TokenRefused.
    """
    claims = claims_in(payload, IdToken)
    if claims.iss != issuer:
        raise TokenRefused(Reason.ISSUER)
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    party = claims.azp or (client_id if len(audiences) == 1 else None)
    if client_id not in audiences or party != client_id:
        raise TokenRefused(Reason.AUDIENCE)
    check_times(
        issued_at=claims.iat,
        expires_at=claims.exp,
        not_before=claims.nbf,
        longest=PROVIDER_TOKEN_LIFETIME.total_seconds(),
        leeway=leeway,
        now=now,
    )
    if not compare_digest(claims.nonce, nonce):
        raise TokenRefused(Reason.CLAIMS)
    if claims.at_hash is not None and claims.at_hash != _half_hash(access_token or ""):
        raise TokenRefused(Reason.CLAIMS)
    return claims


def told_by(claims: IdToken, profile: Mapping[str, Any]) -> Told:
    """Who it is, by the claims and what else is told of them."""
    return Told(
        issuer=claims.iss,
        subject=claims.sub,
        name=name_in(profile),
        email=_verified_email(profile),
        authenticated_at=claims.auth_time,
    )


def _verified_email(profile: Mapping[str, Any]) -> str | None:
    # Some providers write the boolean as a string.
    if profile.get("email_verified") not in (True, "true"):
        return None
    try:
        return _EMAIL.validate_python(profile.get("email"))
    except ValidationError:
        return None


def _half_hash(access_token: str) -> str:
    """What `at_hash` is for RS256 and ES256 (section 3.1.3.6)."""
    half = hashlib.sha256(access_token.encode(errors="replace")).digest()[:16]
    return base64.urlsafe_b64encode(half).rstrip(b"=").decode()
