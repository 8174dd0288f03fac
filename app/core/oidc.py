"""AUTH_MODE=oidc: access tokens of an OpenID provider, whose keys are fetched and kept.

What a token has to be follows RFC 9068 as far as the providers do. It is verified here, and the
provider is asked for nothing but its keys: it may be away for as long as those do not change.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.core.outbound import OutboundClient
from app.core.provider_keys import DISCOVERY, MAX_NAME, ProviderKeys, name_in
from app.core.settings import PROVIDER_TOKEN_LIFETIME, Settings
from app.core.token_form import (
    Name,
    Reason,
    RoleName,
    Scope,
    Seconds,
    TokenRefused,
    check_times,
    claims_in,
)
from app.core.tokens import Claims

TYPES = {"at+jwt", "application/at+jwt", "jwt"}  # in lower case (RFC 7515 section 4.1.9)
OF_ID_TOKENS = {"nonce", "at_hash", "c_hash", "s_hash"}
OF_OTHERS = {"events", "cnf"}  # a logout token's; a token's that takes a proof we do not ask for
MAX_LENGTH = 8192  # as much as a line of the handshake's headers may have


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    iss: Name
    aud: Name | Annotated[list[Name], Field(min_length=1, max_length=32)]
    sub: Name
    iat: Seconds
    exp: Seconds
    nbf: Seconds = 0
    sid: Name | None = None
    jti: Name | None = None
    client_id: Name | None = None
    azp: Name | None = None
    scope: Scope | list[str] | None = None
    scp: Scope | list[str] | None = None
    auth_time: Seconds | None = None
    amr: list[str] = []


class OpenIdProvider:
    """Verifies the access tokens that an OpenID provider has issued for this service.

    Args:
        settings: the provider's issuer, the audience, and what its claims mean.
        outbound: how it is reached.
        clock: seconds since 1970, for the times in tokens.
    """

    def __init__(
        self,
        settings: Settings,
        outbound: OutboundClient,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keys = ProviderKeys(settings.oidc_issuer, outbound)
        self._settings = settings
        self._clock = clock

    async def claims_of(self, token: str) -> Claims:
        """What a token of the provider says.

        Raises:
            TokenRefused: it is none, not meant for this service, or not in time.
            Unavailable: its key is not known and the provider does not answer.
        """
        header, payload, kid = await self.keys.verified(token, types=TYPES, max_length=MAX_LENGTH)
        return self._claims(header, payload, kid)

    def _claims(self, header: dict[str, Any], payload: dict[str, Any], kid: str) -> Claims:
        _refuse_other_kinds(header, payload)
        claims = claims_in(payload, _Payload)
        if claims.iss != self._settings.oidc_issuer:
            raise TokenRefused(Reason.ISSUER)
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._settings.oidc_audience not in audiences:
            raise TokenRefused(Reason.AUDIENCE)
        check_times(
            issued_at=claims.iat,
            expires_at=claims.exp,
            not_before=claims.nbf,
            longest=PROVIDER_TOKEN_LIFETIME.total_seconds(),
            leeway=self._settings.token_leeway_seconds,
            now=self._clock(),
        )
        named = {*_words(claims.scope), *_words(claims.scp)}
        return Claims(
            subject=claims.sub,
            name=_name(claims, payload),
            session=_session(claims),
            roles=_roles(payload, self._settings.oidc_roles_claim),
            token_id=claims.jti or "",
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
            expires_at=datetime.fromtimestamp(claims.exp, UTC),
            scopes=frozenset(_valid_names(named)) if self._settings.oidc_scopes else None,
            authenticated_at=(
                None if claims.auth_time is None else datetime.fromtimestamp(claims.auth_time, UTC)
            ),
            methods=frozenset(_valid_names(claims.amr)),
            key=kid,
        )


def _refuse_other_kinds(header: dict[str, Any], payload: dict[str, Any]) -> None:
    """Refuse an ID token, and what else a provider signs with the same key, where it can be told.

    A header that says `at+jwt` settles it. Keycloak says it in a claim `typ`, Cognito in
    `token_use`. `azp` settles nothing: an application's access token for itself has it as well.
    """
    if OF_OTHERS & payload.keys():
        raise TokenRefused(Reason.TYPE)
    if payload.get("token_use", "access") != "access":
        raise TokenRefused(Reason.TYPE)
    if payload.get("typ", "Bearer") != "Bearer":
        raise TokenRefused(Reason.TYPE)
    told = "at+jwt" in str(header.get("typ")).lower() or "typ" in payload
    if OF_ID_TOKENS & payload.keys() and not told:
        raise TokenRefused(Reason.TYPE)


def _name(claims: _Payload, payload: dict[str, Any]) -> str:
    """What to call the subject: a machine, which is its own client, by the client's id."""
    if name := name_in(payload):
        return name
    client = claims.client_id or claims.azp or ""
    return client[:MAX_NAME] if claims.sub in (client, f"{client}@clients") else ""


def _session(claims: _Payload) -> str:
    """What is revoked to end it: the provider's session; where it names none, this one token."""
    if claims.sid or claims.jti:
        return claims.sid or claims.jti or ""
    told = f"{claims.iat} {claims.sub}"
    return f"sub-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _roles(payload: dict[str, Any], claim: str) -> frozenset[str]:
    """The roles in a claim of this name, which may itself have dots, or else at this path."""
    found: Any = payload.get(claim)
    if claim not in payload:
        found = payload
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    return frozenset(_valid_names(_words(found)))


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _valid_names(names: Iterable[str]) -> Iterable[str]:
    """Those that can be a role's or a scope's; one that cannot be gives nothing to anybody."""
    for name in names:
        try:
            yield _ROLE.validate_python(name)
        except ValidationError:
            continue


_ROLE = TypeAdapter(RoleName)


def document_provider(app: FastAPI, issuer: str) -> None:
    """Make `app.openapi()` send whoever wants a token to the provider."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        address = issuer.removesuffix("/") + DISCOVERY
        for name, scheme in schema["components"].get("securitySchemes", {}).items():
            if scheme["type"] == "oauth2":
                told = {"type": "openIdConnect", "openIdConnectUrl": address}
                schema["components"]["securitySchemes"][name] = told
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
