"""An OpenID provider that signs whatever a test wants, which no real one would."""

import asyncio
import base64
import json
import re
import time
from contextlib import suppress
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from app.core.settings import Settings
from tests.conftest import settings_for
from tests.core.test_tokens import ABSENT, EC_KEY, b64, changed, ec_signature

AUDIENCE = "https://duplex.example"
RSA_KEY = rsa.generate_private_key(65537, 2048)
DISCOVERY = "/.well-known/openid-configuration"


def integer(number: int) -> str:
    """A number as JWKs have it."""
    return b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def rsa_jwk(kid: Any = "rsa-1", **changes: Any) -> dict[str, Any]:
    """The public key as a JWK."""
    public = RSA_KEY.public_key().public_numbers()
    members = {"kty": "RSA", "kid": kid, "n": integer(public.n), "e": integer(public.e)}
    return {k: v for k, v in (members | changes).items() if v is not ABSENT}


def ec_jwk(kid: Any = "ec-1", **changes: Any) -> dict[str, Any]:
    """The public key as a JWK."""
    point = EC_KEY.public_key().public_numbers()
    members = {
        "kty": "EC",
        "kid": kid,
        "crv": "P-256",
        "x": integer(point.x),
        "y": integer(point.y),
    }
    return {k: v for k, v in (members | changes).items() if v is not ABSENT}


class Issuer:
    """Its documents over HTTP, and tokens of its keys `rsa-1` and `ec-1`."""

    def __init__(self) -> None:
        self.keys: list[Any] = [rsa_jwk(), ec_jwk()]
        self.configuration: dict[str, Any] = {}
        #: Sent in place of an answer; an empty one is none, ever.
        self.instead: bytes | None = None
        self.asked: list[str] = []
        #: What is answered at a path beside its own two: a status and a document.
        self.answers: dict[str, tuple[int, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.configuration = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def settings(self, **changed: Any) -> Settings:
        """Settings of a service that takes its tokens."""
        oidc = {"auth_mode": "oidc", "oidc_issuer": self.url, "oidc_audience": AUDIENCE}
        return settings_for("sqlite:///var/none.db", **(oidc | changed))

    @property
    def claims(self) -> dict[str, Any]:
        """What a token says unless it is changed."""
        now = int(time.time())
        times = {"iat": now, "exp": now + 600}
        return {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "jti": "token-1", **times}

    def token(self, claims: Any = None, header: Any = None, *, key: Any = None) -> str:
        """A signed token that differs from a good one in what is given; RS256 unless it says."""
        head = {"alg": "RS256", "typ": "at+jwt", "kid": "rsa-1"}
        if (header or {}).get("alg") == "ES256":
            head["kid"] = "ec-1"
        body = claims if isinstance(claims, bytes) else changed(self.claims, claims or {})
        text = f"{b64(changed(head, header or {}))}.{b64(body)}"
        if (header or {}).get("alg") == "ES256":
            return f"{text}.{b64(ec_signature(text, key or EC_KEY))}"
        signature = (key or RSA_KEY).sign(text.encode(), padding.PKCS1v15(), SHA256())
        return f"{text}.{b64(signature)}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                if length := re.search(r"content-length: (\d+)", head, re.IGNORECASE):
                    await reader.readexactly(int(length[1]))
                self.asked.append(path)
                if self.instead == b"":
                    await asyncio.Event().wait()
                known = self.configuration if path == DISCOVERY else {"keys": self.keys}
                status, document = self.answers.get(path, (200, known))
                body = self.instead or json.dumps(document).encode()
                size = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\n{size}".encode() + body)
                await writer.drain()
        finally:
            writer.close()
            self._tasks.discard(task)


def payload(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return found
