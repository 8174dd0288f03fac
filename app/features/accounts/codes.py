"""Codes: those of an authenticator (TOTP, RFC 6238) and those that stand in for it once."""

import base64
import io
import re
import secrets
from hmac import compare_digest

import pyotp
import segno

from app.core.secrets_at_rest import digest_of

STEP_SECONDS = 30
WINDOW = 1  # steps that a clock may be off, either way
SECRET_BYTES = 20  # as long as SHA-1's digest, RFC 4226 section 4
TOTP_CODE = re.compile(r"[0-9]{6}")
MAX_CODE = 64  # characters, however somebody may space them

RECOVERY_CODES = 10
RECOVERY_LETTERS = 24  # of 5 bits each
GROUP = 4
# Base32 has none of 0, 1 and 8, so that whoever reads one of them has misread a letter.
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
MISREAD = str.maketrans("018", "olb")


def compact(code: str) -> str:
    """A code without the spaces and dashes that people and pages put into it."""
    return re.sub(r"[\s-]", "", code)


def new_secret() -> bytes:
    """A secret to share with an authenticator."""
    return secrets.token_bytes(SECRET_BYTES)


def base32(secret: bytes) -> str:
    """A secret as it is typed into an authenticator."""
    return base64.b32encode(secret).decode()


def provisioning_uri(secret: bytes, *, account: str, issuer: str) -> str:
    """The otpauth:// address that an authenticator is set up with."""
    return _totp(secret).provisioning_uri(name=account, issuer_name=issuer)


def qr(text: str) -> str:
    """A QR code as an `<svg>` element, black on white whatever it is shown on."""
    svg = io.BytesIO()
    segno.make_qr(text, error="m").save(
        svg, kind="svg", xmldecl=False, nl=False, omitsize=True, dark="#000", light="#fff"
    )
    return svg.getvalue().decode()


def step_of(secret: bytes, code: str, *, now: float, after: int | None) -> int | None:
    """The step of time that a code of six digits is of, where it is good.

    Args:
        secret: what the authenticator shares.
        code: without spaces.
        now: seconds since the epoch.
        after: the step of the last code that was taken; no step up to it is good again.
    """
    if not TOTP_CODE.fullmatch(code):
        return None
    totp, current = _totp(secret), int(now) // STEP_SECONDS
    steps = range(current - WINDOW, current + WINDOW + 1)
    right = [step for step in steps if compare_digest(totp.generate_otp(step), code)]
    # The latest of them: a code that two steps happen to share is good once all the same.
    return right[-1] if right and (after is None or right[-1] > after) else None


def new_recovery_codes() -> list[str]:
    """Codes of 120 random bits, as people type them: `k2ab-7xqe-m3lw-c5rt-w4hd-2yuo`."""
    return [_new_recovery_code() for _ in range(RECOVERY_CODES)]


def recovery_digest(code: str) -> str:
    """What a recovery code is stored as; its spelling does not matter."""
    spelled = compact(code).lower().translate(MISREAD)
    return digest_of(spelled)


def _new_recovery_code() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(RECOVERY_LETTERS))
    return "-".join(letters[at : at + GROUP] for at in range(0, RECOVERY_LETTERS, GROUP))


def _totp(secret: bytes) -> pyotp.TOTP:
    return pyotp.TOTP(base32(secret), interval=STEP_SECONDS)
