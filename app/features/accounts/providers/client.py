"""OpenID providers as this service is their client: authorization code and PKCE (RFC 9700)."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from app.core.observability import log
from app.core.outbound import Answer, OutboundClient, UpstreamFailed, UpstreamTimeout
from app.core.provider_keys import ProviderKeys, away
from app.core.settings import Settings
from app.core.sign_in_providers import SignInProvider
from app.core.token_form import TokenRefused, json_object
from app.features.accounts.errors import ProviderNotFound, ProviderRefused
from app.features.accounts.providers.attempts import Attempt
from app.features.accounts.providers.id_token import MAX_LENGTH, TYPES, Told, checked, told_by

ANSWER_SECONDS = 2.5  # that anybody waits for a provider, however often it is asked
ANSWER_BYTES = 131_072
CODES_OF_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"}
)


class _Refused(Exception):
    """What a provider answers is of no use; says why, in words of ours."""


@dataclass(slots=True)
class Provider:
    """A provider that people log in with.

    Args:
        name: as it is in addresses.
        known: what is set of it.
        redirect_uri: where it sends people back to.
        outbound: how it is reached.
        leeway: seconds that its clock may differ from ours.
        longest: seconds that a log-in there is good for. Who sends it is told when that was
            (OpenID Connect Core 1.0, section 3.1.2.1).
        clock: seconds since the epoch.
    """

    name: str
    known: SignInProvider
    redirect_uri: str
    outbound: OutboundClient
    leeway: float
    longest: int
    clock: Callable[[], float] = time.time
    keys: ProviderKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = ProviderKeys(self.known.issuer, self.outbound)
        # A code is good once: what has failed is not tried again.
        self.outbound = replace(self.outbound, retries=0, max_bytes=ANSWER_BYTES, connection=None)

    async def address(self, attempt: Attempt, *, again: bool = False) -> str:
        """Where a browser is sent to; `again` asks the provider for a new log-in there.

        Raises Unavailable where the provider does not answer.
        """
        document = await self.keys.document()
        challenge = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.known.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": self.known.scope,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "max_age": "0" if again else str(self.longest),
        }
        if again:
            query["prompt"] = "login"
        endpoint = self._endpoint(document, "authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def told(self, attempt: Attempt, code: str, issuer: str | None) -> Told:
        """Who has come back from there.

        Args:
            attempt: what was begun.
            code: what the provider has sent along.
            issuer: whom it says that it is from (RFC 9207), if it does.

        Raises ProviderRefused, and Unavailable where the provider does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._told(attempt, code, issuer)
        except (TimeoutError, UpstreamFailed, UpstreamTimeout):
            raise away() from None
        except (TokenRefused, _Refused) as refused:
            why = str(refused)
        log.warning("provider refused", provider=self.name, reason=why)
        raise ProviderRefused

    async def _told(self, attempt: Attempt, code: str, issuer: str | None) -> Told:
        document = await self.keys.document()
        says = document.get("authorization_response_iss_parameter_supported") is True
        if issuer != self.known.issuer and (issuer is not None or says):
            raise _Refused("the answer is another issuer's")
        tokens = await self._exchanged(document, attempt, code)
        id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
        access_token = access_token if isinstance(access_token, str) else None
        if not isinstance(id_token, str):
            raise _Refused("there is no ID token")
        _, payload, _ = await self.keys.verified(id_token, types=TYPES, max_length=MAX_LENGTH)
        claims = checked(
            payload,
            issuer=self.known.issuer,
            client_id=self.known.client_id,
            nonce=attempt.nonce,
            access_token=access_token,
            leeway=self.leeway,
            now=self.clock(),
        )
        if "email" not in payload and access_token and "userinfo_endpoint" in document:
            payload = payload | await self._userinfo(document, access_token, claims.sub)
        return told_by(claims, payload)

    async def _exchanged(
        self, document: Mapping[str, Any], attempt: Attempt, code: str
    ) -> dict[str, Any]:
        """What the token endpoint gives for a code (RFC 6749, 4.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers = {"Accept": "application/json"}
        if secret := self.known.client_secret.get_secret_value():
            # RFC 6749, 2.3.1: both are encoded as in a form before.
            pair = f"{quote_plus(self.known.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self.known.client_id
        endpoint = self._endpoint(document, "token_endpoint")
        return _read(await self.outbound.request("POST", endpoint, headers=headers, data=form))

    async def _userinfo(
        self, document: Mapping[str, Any], access_token: str, subject: str
    ) -> dict[str, Any]:
        """What the provider says at another place of the same person (OpenID Connect, 5.3)."""
        headers = {"Accept": "application/json", "Authorization": f"Bearer {access_token}"}
        endpoint = self._endpoint(document, "userinfo_endpoint")
        found = _read(await self.outbound.request("GET", endpoint, headers=headers))
        if found.get("sub") != subject:
            raise _Refused("its userinfo is somebody else's")
        return found

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str:
        """An address of the discovery document; what is sent there is for nobody else to read."""
        address = document.get(name)
        schemes = {"https"} | {urlsplit(self.known.issuer).scheme}
        if not isinstance(address, str) or urlsplit(address).scheme not in schemes:
            log.warning("provider without an endpoint", provider=self.name, endpoint=name)
            raise away()
        return address


class Providers:
    """The providers of SIGN_IN_PROVIDERS, in that order."""

    def __init__(self, settings: Settings, outbound: OutboundClient) -> None:
        self.by_name = {
            name: Provider(
                name,
                known,
                f"{settings.public_url}/",
                outbound,
                settings.token_leeway_seconds,
                settings.session_max_days * 86_400,
            )
            for name, known in settings.sign_in_providers.items()
        }

    def named(self, name: str) -> Provider:
        """The provider of this name. Raises ProviderNotFound."""
        if provider := self.by_name.get(name):
            return provider
        raise ProviderNotFound

    def at(self, issuer: str) -> Provider | None:
        """The provider with this issuer, if there is one now."""
        found = (each for each in self.by_name.values() if each.known.issuer == issuer)
        return next(found, None)


def _read(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer. Raises _Refused, with the error that it tells."""
    try:
        found = json_object(answer.content)
    except TokenRefused:
        found = {}
    if not answer.is_success:
        told = found.get("error")
        known = told if isinstance(told, str) and told in CODES_OF_ERRORS else "no error of OAuth"
        raise _Refused(f"{answer.status_code}, {known}")
    return found
