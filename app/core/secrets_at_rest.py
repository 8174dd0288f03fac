"""Secrets in the database: those only compared as a digest, those read again encrypted.

    sealed = Sealed(secret).seal(b"...", "second_factors/7")
    Sealed(secret).open(sealed, "second_factors/7")

AES-256-GCM (NIST SP 800-38D) under a key that HKDF (RFC 5869) makes, so that it is no key that
signs. A secret is sealed for a context, the row it is in: moved to another row it does not open.
"""

import base64
import hashlib
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION = "v1."
NONCE_BYTES = 12
PURPOSE = b"duplex secrets at rest"


def digest_of(secret: str) -> str:
    """What a secret of many random bits is stored as: SHA-256, in hex.

    112 bits and more need no salt and no slow hash (ASVS 5.0, 6.5.2); a password has fewer.
    """
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


class NotOpened(Exception):
    """It was sealed under another SECRET_KEY or for another context, or is no sealed secret."""


class Sealed:
    """Seals and opens secrets under `secret`, which has 32 bytes or more of a random source."""

    def __init__(self, secret: str | bytes) -> None:
        raw = secret.encode() if isinstance(secret, str) else secret
        key = HKDF(SHA256(), length=32, salt=None, info=PURPOSE).derive(raw)
        self._cipher = AESGCM(key)

    def seal(self, secret: bytes, context: str) -> str:
        """`secret` as printable ASCII that opens for the same `context`; no two are alike."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, secret, context.encode())
        return VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, sealed: str, context: str) -> bytes:
        """What was sealed for `context`. Raises NotOpened, which says nothing of it."""
        try:
            if not sealed.startswith(VERSION):
                raise ValueError
            raw = base64.urlsafe_b64decode(sealed.removeprefix(VERSION))
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], context.encode())
        except (ValueError, InvalidTag):
            raise NotOpened from None
