"""Passwords that are guessed first, and those that are not."""

import pytest

from app.core.errors import InvalidParameter
from app.features.accounts.passwords import PASSWORD_MIN
from app.features.accounts.people.guessable import _common, refuse_guessable
from tests.features.accounts.people import PASSWORD

ABOUT = ("Ann.Lee@mail.example.com", "12345678901x@example.com", "Ann Lee")


def kind(password: str) -> str | None:
    """Why a password is refused, if it is."""
    try:
        refuse_guessable(password, "password", *ABOUT)
    except InvalidParameter as refused:
        return "; ".join(error["type"] for error in refused.errors)
    return None


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaaaaaaa",
        "abababababab",
        "abcdefghijkl",
        "zyxwvutsrqpo",
        "\U0001f600" * 12,
        "          ",
    ],
)
def test_a_pattern_is_refused(password: str) -> None:
    """Hardly any different characters, or each the next of the one before."""
    assert kind(password) == "password_pattern"


@pytest.mark.parametrize(
    "password",
    [
        *(
            "Ann.Lee@mail.example.com",
            "ann.lee@mail.example.com1",
            "mail.example.com",
            "Ann Lee 1987",
        ),
        *(
            "annlee2024!",
            "ANN-LEE-123",
            "AnnLeeAnnLee",
            "lee!!!!!!!1",
            "ann.lee.99",
            "12345678901x@example.com1",
        ),
    ],
)
def test_an_address_or_a_name_is_refused(password: str) -> None:
    """Whole or a part of it, also with digits and signs around it, and repeated."""
    assert kind(password) == "password_personal"


@pytest.mark.parametrize(
    "password",
    [
        *("1q2w3e4r5t", "Password123", "passwordpassword", "Football2023!", "!!!dragon99"),
        *("qwertyuiop", "iloveyou12345", "LETMEIN.2024", "q1w2e3r4t5y6"),
    ],
)
def test_what_most_people_choose_is_refused(password: str) -> None:
    """In any case, and a word with a few digits and signs around it."""
    assert kind(password) == "password_common"


@pytest.mark.parametrize(
    "password",
    [
        *(
            PASSWORD,
            "correct horse",
            "\U0001f600 päß " * 25,
            "annual leech jumps",
            "Leeds anno 1987",
            "dragon 8kq-2z!",
        ),
        *("Tr0ub4dor&3x", "0123456789abcdef42", "password manager made", "x" * 9 + "yz1"),
    ],
)
def test_any_other_is_taken(password: str) -> None:
    """No kind of character has to be in it, none may not (ASVS 5.0, 6.2.5)."""
    assert kind(password[:200]) is None


def test_the_list_is_as_long_as_it_is_said_to_be() -> None:
    """And no licence in it is taken for a password."""
    common = _common()
    assert len([each for each in common if len(each) >= PASSWORD_MIN]) >= 2_421
    assert len(common) == 5_391
    assert all(each == each.casefold().strip() and not each.startswith("#") for each in common)


def test_the_longest_password_is_looked_at_in_no_time() -> None:
    """Whatever it is made of: the patterns in the rules do not backtrack for long."""
    import time

    started = time.perf_counter()
    for text in (
        "1" * 200,
        "ab1" * 66,
        "a" * 199 + "!",
        "-_" * 100,
        "a1" * 99 + "\n",
        "1a" + "1" * 198,
    ):
        kind(text)
    assert time.perf_counter() - started < 3
