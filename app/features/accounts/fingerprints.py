"""What stands for an address where the address itself is not to be read: logs and counters."""

import hashlib
import hmac

from app.features.accounts.users import email_key

PURPOSE = b"duplex fingerprints of addresses"
DIGITS = 16


class Fingerprints:
    """Fingerprints under a key of this service, so that nobody else can look an address up.

    Args:
        secret: SECRET_KEY; with another one an address has another fingerprint.
    """

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), PURPOSE, hashlib.sha256)

    def of(self, address: str) -> str:
        """16 hexadecimal digits, the same for every spelling of an address."""
        try:
            key = email_key(address[:255])
        except ValueError:
            key = address[:255]
        encoded = key.encode(errors="replace")
        return hmac.new(self._key, encoded, hashlib.sha256).hexdigest()[:DIGITS]
