"""Passwords that are tried first: those of many, those about their owner, and mere patterns.

The list holds 2,421 passwords as long as ours have to be, and 3,000 words; a word counts with up to
eight digits and signs around it, and repeated. So far more is refused than the 3,000 passwords
that ASVS 5.0 asks for (6.2.4).
"""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from app.core.errors import FieldError, InvalidParameter

LIST = Path(__file__).parent / "common_passwords.txt"
MOST_AROUND = 8
FEWEST_CHARACTERS = 4
AROUND = re.compile(r"^[\W\d_]*(.*?)[\W\d_]*$", re.DOTALL)
REPEATED = re.compile(r"(.+?)\1+", re.DOTALL)
SIGNS = re.compile(r"[\W_]+")


def refuse_guessable(password: str, field: str, *about: str) -> None:
    """Raise InvalidParameter for a password that is guessed first.

    Args:
        password: of a length that is taken.
        field: where it was in the body.
        about: the address and the name of whoever it is for.
    """
    folded = password.casefold()
    if _is_pattern(folded):
        _refuse(field, "password_pattern", "This password is a pattern that is guessed at once")
    if any(_says(folded, part) for text in about for part in _parts(text.casefold())):
        _refuse(field, "password_personal", "This password says who you are")
    if folded in _common() or _core(folded) in _common():
        _refuse(field, "password_common", "This password is one of those that most people choose")


def _refuse(field: str, kind: str, message: str) -> None:
    error: FieldError = {"loc": ["body", field], "msg": message, "type": kind}
    raise InvalidParameter(errors=[error])


def _is_pattern(password: str) -> bool:
    """Whether it has hardly any different characters, or each follows from the one before."""
    steps = {ord(b) - ord(a) for a, b in pairwise(password)}
    return len(set(password)) < FEWEST_CHARACTERS or len(steps) == 1


def _parts(about: str) -> list[str]:
    """What of an address or a name makes a bad password: it, and what it is made of."""
    return [about, *re.split(r"[@\s]", about)]


def _says(password: str, part: str) -> bool:
    """Whether a password is this part, once or repeated, but for signs and a few digits."""
    letters, said = SIGNS.sub("", password), SIGNS.sub("", part)
    rest = letters.replace(said, "") if said else letters
    return rest != letters and len(rest) <= MOST_AROUND and not rest.strip("0123456789")


def _core(password: str) -> str:
    """A password without a few digits and signs around it, once where it is repeated."""
    repeated = REPEATED.fullmatch(password)
    once = repeated[1] if repeated else password
    found = AROUND.fullmatch(once)
    inner = found[1] if found else ""
    return SIGNS.sub("", inner if inner and len(once) - len(inner) <= MOST_AROUND else once)


@cache
def _common() -> frozenset[str]:
    lines = LIST.read_text().splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
