"""A hundred thousand hostile tokens, each bred from a valid one by a seeded generator."""

import base64
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.tokens import MAX_LENGTH, Reason, RingKey, TokenRefused, Tokens
from tests.core.test_tokens import (
    ABSENT,
    AUDIENCE,
    CLAIMS,
    EC_KEY,
    EC_KID,
    HEADER,
    ISSUER,
    LEEWAY,
    LIFETIME,
    NOT_AN_OBJECT,
    NOW,
    SECRET,
    b64,
    ec_forged,
    ec_ring_key,
    forged,
    kid_of,
    mac,
    make,
)

SEED = 20_260_101
ROUNDS = 100_000
OTHER_SECRET = "another-secret-that-is-just-as-long-as-it"
OTHER_EC_KEY = ec.derive_private_key(7, ec.SECP256R1())
ALPHABET = string.ascii_letters + string.digits + "-_"
JUNK = [
    "",
    " ",
    "\n",
    "=",
    ".",
    "..",
    "+",
    "/",
    "%2E",
    "\0",
    "é",
    "\u0410",
    "\u2024",
    "\ud800",
    "\U0001f511",
]
NOT_TEXT = [b"token", 1, 1.5, True, [], {}, (), object(), float("nan"), bytearray(b"a.b.c")]
ODD: list[Any] = [None, True, False, "", "x" * 256, "\0", "\ud800", "\u202e", "é", [], {}, [[]]]
ODD += [-1, 0.5, 1e308, 10**400, -(10**400), 2**63, 253_402_300_800, {"$ne": None}, [None], ["x"]]

# Valid ones, of several sizes, and of both algorithms.
VALID = [
    (ec_forged if n % 5 == 0 else forged)(
        claims={"sub": str(n), "jti": f"token-{n}", "roles": ["role"] * (n % 8)}
    )
    for n in range(50)
]

Breed = Callable[[random.Random], object]


def ring() -> Tokens:
    """Two keys that verify, and the name of one that was removed."""
    tokens = make()
    tokens.use([RingKey(tokens.own_key), ec_ring_key()], removed=["removed"])
    return tokens


def flip_bits(rng: random.Random) -> str:
    letters = list(rng.choice(VALID))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(letters))
        letters[at] = chr(ord(letters[at]) ^ 1 << rng.randrange(8))
    return "".join(letters)


def replace_letters(rng: random.Random) -> str:
    letters = list(rng.choice(VALID))
    for _ in range(rng.randint(1, 3)):
        letters[rng.randrange(len(letters))] = rng.choice(ALPHABET)
    return "".join(letters)


def edit_bytes(rng: random.Random) -> str:
    """Change a byte of what a part decodes to, and encode it again, canonically."""
    parts = rng.choice(VALID).split(".")
    at = rng.randrange(3)
    raw = bytearray(base64.urlsafe_b64decode(parts[at] + "=" * (-len(parts[at]) % 4)))
    raw[rng.randrange(len(raw))] ^= rng.randint(1, 255)
    parts[at] = b64(bytes(raw))
    return ".".join(parts)


def truncate(rng: random.Random) -> str:
    token = rng.choice(VALID)
    size = rng.randrange(len(token))
    return token[:size] if rng.random() < 0.5 else token[len(token) - size :]


def cut_or_repeat(rng: random.Random) -> str:
    token = rng.choice(VALID)
    start, end = sorted(rng.sample(range(len(token) + 1), 2))
    return token[:start] + token[start:end] * rng.choice((0, 2, 3)) + token[end:]


def insert_junk(rng: random.Random) -> str:
    token = rng.choice(VALID)
    at = rng.randrange(len(token) + 1)
    return token[:at] + rng.choice(JUNK) * rng.randint(1, 3) + token[at:]


def swap_parts(rng: random.Random) -> str:
    pool = rng.choice(VALID).split(".") + rng.choice(VALID).split(".") + ["", "e30", "bnVsbA"]
    return ".".join(rng.choice(pool) for _ in range(rng.choice((1, 2, 3, 3, 3, 3, 4, 5))))


def recode(rng: random.Random) -> str:
    token = rng.choice(VALID)
    spelt = [token.swapcase(), token.upper(), token[::-1], f"Bearer {token}", f'"{token}"']
    spelt += [token * 2, token + "=", token.replace(".", "=."), f"\ufeff{token}", f"{token}\r\n"]
    spelt += [token[:-1] + ALPHABET[(ALPHABET.index(token[-1]) + 1) % 64], f"{token}#", f"{token}/"]
    return rng.choice(spelt)


def random_text(rng: random.Random) -> str:
    parts = rng.choice((0, 1, 2, 3, 3, 3, 4))
    return ".".join("".join(rng.choices(ALPHABET, k=rng.randrange(60))) for _ in range(parts))


def length_bomb(rng: random.Random) -> str:
    token = rng.choice(VALID)
    size = rng.randint(MAX_LENGTH - 60, 3 * MAX_LENGTH)
    return rng.choice(
        [token.ljust(size, "A"), "." * size, "A" * size, "é" * size, f"{token}." * 50]
    )


def not_text(rng: random.Random) -> object:
    return rng.choice([None, "", rng.choice(VALID).encode(), *NOT_TEXT])


def odd_header(rng: random.Random) -> str:
    odd: list[dict[str, Any]] = [
        {"alg": rng.choice(["none", "NONE", "RS256", "ES256", "HS384", "hs256", ABSENT, *ODD])},
        {"typ": rng.choice(["JWT", "rt+jwt", "AT+JWT", ABSENT, *ODD])},
        {
            "kid": rng.choice(
                ["other", "removed", EC_KID, kid_of(OTHER_SECRET), "../key", ABSENT, *ODD]
            )
        },
        {rng.choice(["crit", "jku", "jwk", "x5u", "x5c", "b64", "zip", "Alg", ""]): "x"},
        {"crit": rng.choice(ODD)},
    ]
    return forged(rng.choice(odd))


def odd_claim(rng: random.Random) -> str:
    name = rng.choice(["iss", "aud", "sub", "sid", "jti", "iat", "exp", "nbf", "roles"])
    refused = [odd for odd in ODD if name != "roles" or odd not in ([], ["x"])]
    required = [] if name == "nbf" else [ABSENT]
    return forged(claims={name: rng.choice(refused + required)})


def odd_time(rng: random.Random) -> str:
    past, future = NOW - LIFETIME - LEEWAY, NOW + LEEWAY + 1
    iat, exp = rng.choice(
        [
            (past - rng.randrange(10**6),) * 2,
            (past, past + rng.randint(1, LIFETIME)),
            (future, future + LIFETIME),
            (NOW, NOW + LIFETIME + rng.randint(1, 10**6)),
            (NOW, NOW - rng.randrange(10**6)),
            (0, 253_402_300_799),
        ]
    )
    nbf = {"nbf": future} if rng.random() < 0.2 else {}
    return forged(claims={"iat": iat, "exp": exp, **nbf})


def odd_literal(rng: random.Random) -> str:
    literals = ["NaN", "Infinity", "-Infinity", "1e400", "1e9999", f"{NOW}.0", "9" * 2000, "0x1"]
    literals += ["01", "+1", "1_0", "'1'", "undefined", "", "[" * 1500, '{"a":' * 300, "\x01", "1,"]
    text = json.dumps(CLAIMS | {rng.choice(["exp", "iat", "sub", "roles"]): "@"})
    return forged(claims=text.replace('"@"', rng.choice(literals)).encode())


def odd_party(rng: random.Random) -> str:
    name, text = rng.choice([("iss", ISSUER), ("aud", AUDIENCE)])
    odd = [text + "/", text.upper(), text[1:], " " + text, text * 2, "x", [text], {text: text}]
    return forged(claims={name: rng.choice(odd)})


def not_an_object(rng: random.Random) -> str:
    raw = rng.choice(NOT_AN_OBJECT)
    return rng.choice([forged(raw), forged(claims=raw), f"{b64(raw)}.{b64(raw)}."])


def repeated_name(rng: random.Random) -> str:
    base, is_header = rng.choice([(HEADER, True), (CLAIMS, False)])
    name = rng.choice(list(base))
    again = f', "{name}": {json.dumps(base[name])}}}'
    raw = (json.dumps(base)[:-1] + again).encode()
    return forged(raw) if is_header else forged(claims=raw)


def broken_bytes(rng: random.Random) -> str:
    """Sign, with the right key, JSON with a byte too much that it can hold nowhere."""
    base = rng.choice([HEADER, CLAIMS])
    raw = bytearray(json.dumps(base).encode())
    raw.insert(rng.randrange(len(raw)), rng.choice(b'\0"\x80\xc0\xff'))
    return forged(bytes(raw)) if base is HEADER else forged(claims=bytes(raw))


def other_key(rng: random.Random) -> str:
    header = rng.choice([{}, {"kid": kid_of(OTHER_SECRET)}, {"alg": "none"}])
    return forged(header, {"sub": str(rng.randrange(1000))}, secret=rng.choice(["", OTHER_SECRET]))


def other_algorithm(rng: random.Random) -> str:
    """Sign with one key under the other's name or algorithm, or with what is public of it."""
    spki = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"sub": str(rng.randrange(1000))}
    text = ec_forged({"alg": rng.choice(["HS256", "ES256"])}, claims).rpartition(".")[0]
    return rng.choice(
        [
            ec_forged({"kid": kid_of(SECRET)}, claims),
            ec_forged({"alg": rng.choice(["HS256", "ES384", "RS256", "none"])}, claims),
            ec_forged(claims=claims, key=OTHER_EC_KEY),
            forged({"kid": EC_KID, "alg": rng.choice(["HS256", "ES256"])}, claims),
            f"{text}.{mac(text, spki.decode())}",
        ]
    )


def other_signature(rng: random.Random) -> str:
    text = rng.choice(VALID).rpartition(".")[0]
    digest = rng.choice(["sha1", "sha384", "sha512", "md5"])
    made = [mac(text, digest=digest), mac(text + "."), mac(text.partition(".")[2]), ""]
    return f"{text}.{rng.choice([*made, b64(rng.randbytes(rng.choice((1, 31, 32, 33, 64))))])}"


def twice(rng: random.Random) -> str:
    """Hide a token in a token."""
    inner = rng.choice(VALID)
    return rng.choice([forged(claims=inner.encode()), forged(inner.encode()), b64(inner.encode())])


BREEDS: list[Breed] = [
    flip_bits,
    replace_letters,
    edit_bytes,
    truncate,
    cut_or_repeat,
    insert_junk,
    swap_parts,
    recode,
    random_text,
    length_bomb,
    not_text,
    odd_header,
    odd_claim,
    odd_time,
    odd_literal,
    odd_party,
    not_an_object,
    repeated_name,
    broken_bytes,
    other_key,
    other_algorithm,
    other_signature,
    twice,
]


@pytest.mark.timeout(240)  # a minute is short for so many, where others work beside it
def test_none_is_taken_and_nothing_else_escapes() -> None:
    """Every hostile token is refused, for every reason there is, and with TokenRefused alone."""
    rng = random.Random(SEED)
    tokens = ring()
    reasons: Counter[Reason] = Counter()
    wrong: list[str] = []
    untouched = 0
    for _ in range(ROUNDS):
        breed = rng.choice(BREEDS)
        token = breed(rng)
        try:
            tokens.verify(token)
        except TokenRefused as refused:
            reasons[refused.reason] += 1
        except Exception as escaped:
            wrong.append(f"{breed.__name__}: {type(escaped).__name__} for {token!a:.200}")
        else:
            if token in VALID:  # the change changed nothing
                untouched += 1
            else:
                wrong.append(f"{breed.__name__}: accepted {token!a:.2000}")
    # Shown by `pytest -s`.
    sys.stdout.writelines(f"{reasons[reason]:>7,} {reason}\n" for reason in Reason)
    assert not wrong, f"{len(wrong)} of {ROUNDS}, such as {wrong[:5]}"
    assert reasons.total() + untouched == ROUNDS
    assert untouched < ROUNDS / 100
    assert reasons.keys() == set(Reason)


def test_the_valid_ones_are_taken() -> None:
    """The tokens that the hostile ones are bred from are accepted."""
    tokens = ring()
    assert [tokens.verify(token).subject for token in VALID] == [str(n) for n in range(50)]
