"""What an API key looks like: `dpx_`, a prefix to recognise it by, a secret and a checksum.

    dpx_Xk3vT9aQ_<43 letters and digits, 256 random bits><6 of their CRC-32>

By the checksum a scanner for secrets tells a key from what only looks like one, and a mistyped key
is refused without a look at the database. `dpx_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}` finds them.
"""

import re
import secrets
import string
import zlib

MARK = "dpx_"
PREFIX_LETTERS = 8
SECRET_LETTERS = 43  # of log2(62) bits each: 256 in all
CHECK_LETTERS = 6
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
SHAPE = re.compile(
    rf"{MARK}[0-9A-Za-z]{{{PREFIX_LETTERS}}}_[0-9A-Za-z]{{{SECRET_LETTERS + CHECK_LETTERS}}}"
)


def new_key() -> tuple[str, str]:
    """A key, and the prefix that it is recognised by."""
    prefix = MARK + _random(PREFIX_LETTERS)
    unchecked = f"{prefix}_{_random(SECRET_LETTERS)}"
    return unchecked + _check(unchecked), prefix


def is_well_formed(text: str) -> bool:
    """Whether `text` looks like a key and its checksum is right: nobody mistyped it."""
    if not SHAPE.fullmatch(text):
        return False
    return text[-CHECK_LETTERS:] == _check(text[:-CHECK_LETTERS])


def _random(letters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(letters))


def _check(text: str) -> str:
    rest, letters = zlib.crc32(text.encode()), ""
    for _ in range(CHECK_LETTERS):
        rest, digit = divmod(rest, len(ALPHABET))
        letters = ALPHABET[digit] + letters
    return letters
