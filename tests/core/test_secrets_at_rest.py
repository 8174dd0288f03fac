"""Secrets at rest: what is sealed opens with the same SECRET_KEY in the same place only."""

import base64

import pytest

from app.core.secrets_at_rest import NotOpened, Sealed

SECRET = "a-secret-of-the-tests-and-of-nothing-else"
CONTEXT = "things/7"


@pytest.mark.parametrize("secret", [b"", b"hush", b"\0" * 32, bytes(range(256)) * 16])
def test_what_is_sealed_opens(secret: bytes) -> None:
    """Whatever it is; another process with the same SECRET_KEY opens it too."""
    sealed = Sealed(SECRET).seal(secret, CONTEXT)
    assert Sealed(SECRET.encode()).open(sealed, CONTEXT) == secret


def test_it_is_text_that_shows_nothing() -> None:
    """Printable ASCII, which is different each time, and without the secret."""
    cipher = Sealed(SECRET)
    one, two = (cipher.seal(b"hush" * 8, CONTEXT) for _ in range(2))
    assert one != two
    assert one.isascii()
    assert one.isprintable()
    assert b"hush" not in base64.urlsafe_b64decode(one.removeprefix("v1."))


def test_elsewhere_it_does_not_open() -> None:
    """Under another SECRET_KEY, or moved to another row."""
    sealed = Sealed(SECRET).seal(b"hush", CONTEXT)
    for secret, context in ((SECRET + "x", CONTEXT), (SECRET, "things/8"), (SECRET, "")):
        with pytest.raises(NotOpened):
            Sealed(secret).open(sealed, context)


def test_what_was_changed_does_not_open() -> None:
    """Not by one bit; and what never was a sealed secret is one no more."""
    cipher = Sealed(SECRET)
    sealed = cipher.seal(b"hush", CONTEXT)
    raw = base64.urlsafe_b64decode(sealed.removeprefix("v1."))
    flipped = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    changed = ["v1." + base64.urlsafe_b64encode(each).decode() for each in flipped]
    for wrong in (*changed, "", "v1.", "v1.AA", "v1.\u00e9", "v2" + sealed[2:], sealed[3:], "hush"):
        with pytest.raises(NotOpened) as caught:
            cipher.open(wrong, CONTEXT)
        assert caught.value.__suppress_context__
