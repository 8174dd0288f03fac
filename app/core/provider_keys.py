"""An OpenID provider as it describes itself: its discovery document, and the keys it signs with.

They are fetched and kept, so that the provider may be away for as long as nothing changes there.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from app.core.background import Periodic
from app.core.errors import Unavailable
from app.core.observability import log
from app.core.outbound import OutboundClient, UpstreamFailed, UpstreamTimeout
from app.core.token_form import Reason, TokenRefused, json_object, read
from app.core.tokens import Key

ALGORITHMS = {"RS256", "ES256"}
# These change what a token means, or bring a key along; any other that is not known says nothing.
REFUSED_HEADERS = {"crit", "b64", "zip", "enc", "jku", "jwk", "x5u", "x5c"}
MAX_NAME = 80
MAX_KEYS = 100

DISCOVERY = "/.well-known/openid-configuration"
FETCH_SECONDS = 2.0
FETCH_BYTES = 262_144
REFRESH_SECONDS = 300.0
RETRY_SECONDS = 5.0  # where the provider has not answered
ASK_AGAIN_SECONDS = 30.0  # at most this often for a `kid` that is not known


class ProviderKeys:
    """What a provider publishes at its issuer.

    Args:
        issuer: letter by letter as its tokens have it in `iss`.
        outbound: how it is reached.
    """

    def __init__(self, issuer: str, outbound: OutboundClient) -> None:
        self.issuer = issuer
        #: Fetches it again, for ever; to be run beside the requests.
        self.refreshing = Periodic("openid provider", self.refresh, seconds=RETRY_SECONDS)
        #: Whether the provider answered when it was last asked; None before it has been.
        self.answers: bool | None = None
        self._outbound = replace(
            outbound, timeout=FETCH_SECONDS, retries=0, max_bytes=FETCH_BYTES, connection=None
        )
        self._document: dict[str, Any] = {}
        self._keys: dict[str, Key] = {}
        self._refresh_at = self._ask_at = 0.0  # on the monotonic clock
        self._fetching = asyncio.Lock()

    @property
    def known(self) -> bool:
        """Whether there are keys, fetched at whatever time."""
        return bool(self._keys)

    async def load(self) -> None:
        """Fetch it for the first time. Raises nothing where the provider is away."""
        async with self._fetching:
            await self._fetch()

    async def refresh(self) -> None:
        """Fetch it again where that is due. Raises nothing where the provider is away."""
        if time.monotonic() >= self._refresh_at:
            async with self._fetching:  # whoever comes meanwhile waits, and finds what has come
                if time.monotonic() >= self._refresh_at:
                    await self._fetch()

    async def document(self) -> Mapping[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 3), fetched where due.

        Raises Unavailable where the provider has never answered.
        """
        await self.refresh()
        if not self._document:
            raise away()
        return self._document

    async def verified(
        self, token: str, *, types: Collection[str], max_length: int
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """The header, the claims and the `kid` of a token that the provider has signed.

        Args:
            token: a JWS in compact form.
            types: what `typ` may say, in lower case; one that is absent counts as `jwt`.
            max_length: how many characters it may have.

        Raises:
            TokenRefused: it is none; what its claims say is not looked at.
            Unavailable: its key is not known and the provider does not answer.
        """
        header, payload = read(token, max_length=max_length)
        kid = _checked_header(header, types)
        key = self._keys.get(kid) or await self._fetched(kid)
        if key.algorithm != header["alg"]:
            raise TokenRefused(Reason.ALGORITHM)
        key.check(token)
        return header, json_object(payload), kid

    async def _fetched(self, kid: str) -> Key:
        """The key of this name, for which the provider is asked unless it has been just now."""
        async with self._fetching:
            if kid not in self._keys and time.monotonic() >= self._ask_at:
                await self._fetch()
                self._ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        if key := self._keys.get(kid):
            return key
        if not self.answers:
            raise away()
        raise TokenRefused(Reason.KEY)

    async def _fetch(self) -> None:
        """Replace what is known by what the provider says now; where it is away, keep it."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._document, self._keys = await self._published()
        except (UpstreamFailed, UpstreamTimeout, TimeoutError, TokenRefused, ValueError) as exc:
            if self.answers is not False:
                log.warning("identity provider is away", reason=type(exc).__name__)
            self.answers = False
            self._refresh_at = time.monotonic() + RETRY_SECONDS
        else:
            if self.answers is False:
                log.warning("identity provider is back")
            self.answers = True
            self._refresh_at = time.monotonic() + REFRESH_SECONDS

    async def _published(self) -> tuple[dict[str, Any], dict[str, Key]]:
        found = await self._json(self.issuer.removesuffix("/") + DISCOVERY)
        at = found.get("jwks_uri")
        # OpenID Connect Discovery 1.0, section 4.3: anybody else could have put it there.
        if found.get("issuer") != self.issuer or not isinstance(at, str):
            raise ValueError("it says that it is another issuer")
        if urlsplit(at).scheme != "https" and urlsplit(self.issuer).scheme == "https":
            raise ValueError("its keys could be anybody's")
        listed = (await self._json(at)).get("keys")
        listed = listed[:MAX_KEYS] if isinstance(listed, list) else []
        keys = {key.kid: key for key in map(Key.of_jwk, listed) if key}
        if not keys:
            raise ValueError("it has no key that verifies RS256 or ES256")
        return found, keys

    async def _json(self, url: str) -> dict[str, Any]:
        answer = await self._outbound.request("GET", url, headers={"Accept": "application/json"})
        return json_object(answer.raise_for_status().content)


def away() -> Unavailable:
    """The error while a provider does not answer."""
    return Unavailable("The identity provider does not answer.", retry_after=RETRY_SECONDS)


def name_in(payload: Mapping[str, Any]) -> str:
    """What the claims call a person, as it can be shown; empty where they do not."""
    for claim in ("name", "preferred_username"):
        given = payload.get(claim)
        if isinstance(given, str) and (name := "".join(filter(str.isprintable, given)).strip()):
            return name[:MAX_NAME]
    return ""


def _checked_header(header: dict[str, Any], types: Collection[str]) -> str:
    """The `kid` of a header that such a token may have."""
    algorithm, kind, kid = header.get("alg"), header.get("typ", "jwt"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused(Reason.ALGORITHM)
    if not isinstance(kind, str) or kind.lower() not in types:
        raise TokenRefused(Reason.TYPE)
    if REFUSED_HEADERS & header.keys():
        raise TokenRefused(Reason.HEADER)
    if not isinstance(kid, str):
        raise TokenRefused(Reason.KEY)
    return kid
