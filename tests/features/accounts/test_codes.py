"""Codes: those of RFC 6238, each good once, and those that stand in for them."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pyotp
import pytest

from app.features.accounts import codes

SECRET = b"12345678901234567890"  # of RFC 6238, appendix B


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ],
)
def test_codes_are_those_of_the_standard(now: int, code: str) -> None:
    """RFC 6238, appendix B, the last six digits."""
    assert codes.step_of(SECRET, code, now=now, after=None) == now // 30


@pytest.mark.parametrize("steps", range(-3, 4))
def test_a_clock_may_be_one_step_off_and_no_more(steps: int) -> None:
    """Either way."""
    now = 1_234_567_890
    code = pyotp.TOTP(codes.base32(SECRET)).at(now + 30 * steps)
    taken = codes.step_of(SECRET, code, now=now, after=None)
    assert taken == (now // 30 + steps if abs(steps) <= 1 else None)


@pytest.mark.parametrize("after", [-1, 0, 1])
def test_no_step_is_good_again_and_none_before_it(after: int) -> None:
    """Only codes of later steps than the last one that was taken are."""
    now = 1_234_567_890
    totp = pyotp.TOTP(codes.base32(SECRET))
    good = [
        steps
        for steps in (-1, 0, 1)
        if codes.step_of(SECRET, totp.at(now + 30 * steps), now=now, after=now // 30 + after)
    ]
    assert good == [steps for steps in (-1, 0, 1) if steps > after]


def test_a_code_that_two_steps_share_is_good_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as the later one's."""
    monkeypatch.setattr(pyotp.TOTP, "generate_otp", lambda _, step: f"{step // 2:06}")
    step = codes.step_of(SECRET, "000004", now=9 * 30, after=None)
    assert step == 9
    assert codes.step_of(SECRET, "000004", now=9 * 30, after=step) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "28708",
        "2870822",
        "28708a",
        "\u0662\u0668\u0667\u0660\u0668\u0662",
        "287082\n",
        "-87082",
    ],
)
def test_what_is_not_six_digits_is_no_code(text: str) -> None:
    """Digits of other scripts are none."""
    assert codes.step_of(SECRET, text, now=59, after=None) is None


def test_an_authenticator_is_set_up_by_a_standard_address() -> None:
    """It says for whom and where, and holds a secret of 160 bits; no two are alike."""
    secret = codes.new_secret()
    assert len(secret) == 20
    assert secret != codes.new_secret()
    uri = codes.provisioning_uri(secret, account="a:nn+x@example.com", issuer="Du: plex")
    parsed = pyotp.parse_uri(uri)
    assert (parsed.name, parsed.issuer) == ("a:nn+x@example.com", "Du: plex")
    assert base64.b32decode(parsed.secret) == secret
    assert isinstance(parsed, pyotp.TOTP)


def test_a_qr_code_is_one_element_that_stands_alone() -> None:
    """It runs nothing and loads nothing, and can be the source of an image."""
    svg = codes.qr(codes.provisioning_uri(SECRET, account="a" * 254, issuer="Duplex"))
    root = ElementTree.fromstring(svg)  # noqa: S314 - it is ours
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert {child.tag for child in root.iter()} == {root.tag, "{http://www.w3.org/2000/svg}path"}
    assert not re.search(r"href|url\(|script|style", svg)


def test_recovery_codes_have_120_bits_and_are_read_in_any_spelling() -> None:
    """Ten of them, in four groups of four; what cannot be in one was misread."""
    made = codes.new_recovery_codes()
    assert len(set(made)) == 10
    for code in made:
        assert re.fullmatch(r"[a-z2-7]{4}(-[a-z2-7]{4}){5}", code)
        spelled = code.upper().replace("-", " ").replace("O", "0").replace("B", "8")
        assert codes.recovery_digest(f" {spelled} ") == codes.recovery_digest(code)
    assert len({codes.recovery_digest(code) for code in made}) == 10
