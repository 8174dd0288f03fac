"""Access tokens, judged with tokens made by hand: no line here trusts jose to build one."""

import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from app.core.tokens import (
    MAX_LENGTH,
    Claims,
    Key,
    Reason,
    RingKey,
    TokenRefused,
    Tokens,
    new_material,
)

NOW = 1_800_000_000
LIFETIME = 900
LEEWAY = 30
SECRET = "correct-horse-battery-staple-and-more"
ISSUER = "https://duplex.example"
AUDIENCE = "duplex"


class _Absent:
    def __repr__(self) -> str:  # without the address of an object, which no two runs share
        return "absent"


ABSENT = _Absent()


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def mac(text: str, secret: str = SECRET, digest: str = "sha256") -> str:
    return b64(hmac.new(secret.encode(), text.encode(), digest).digest())


def kid_of(secret: str) -> str:
    return mac("kid", secret)[:16]


HEADER: dict[str, Any] = {"alg": "HS256", "typ": "at+jwt", "kid": kid_of(SECRET)}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "42",
    "sid": "session-1",
    "jti": "token-1",
    "iat": NOW,
    "exp": NOW + LIFETIME,
    "roles": ["admin", "member"],
}


def changed(base: dict[str, Any], changes: dict[str, Any]) -> bytes:
    members = {k: v for k, v in (base | changes).items() if v is not ABSENT}
    return json.dumps(members).encode()


def forged(
    header: dict[str, Any] | bytes | None = None,
    claims: dict[str, Any] | bytes | None = None,
    secret: str = SECRET,
    digest: str = "sha256",
) -> str:
    """A signed token that differs from an accepted one in what is given, and in nothing else."""
    head = header if isinstance(header, bytes) else changed(HEADER, header or {})
    body = claims if isinstance(claims, bytes) else changed(CLAIMS, claims or {})
    text = f"{b64(head)}.{b64(body)}"
    return f"{text}.{mac(text, secret, digest)}"


#: A key for ES256; its number is no secret, and its signatures are the same in each run.
EC_KEY = ec.derive_private_key(20_260_101, ec.SECP256R1())
EC_KID = "ec-1"
EC_HEADER: dict[str, Any] = {"alg": "ES256", "typ": "at+jwt", "kid": EC_KID}


def ec_signature(text: str, key: ec.EllipticCurvePrivateKey = EC_KEY) -> bytes:
    der = key.sign(text.encode(), ec.ECDSA(SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def ec_forged(
    header: dict[str, Any] | None = None,
    claims: dict[str, Any] | None = None,
    key: ec.EllipticCurvePrivateKey = EC_KEY,
) -> str:
    """The same as `forged`, signed with ES256."""
    text = f"{b64(changed(EC_HEADER, header or {}))}.{b64(changed(CLAIMS, claims or {}))}"
    return f"{text}.{b64(ec_signature(text, key))}"


def ec_ring_key(signs_from: float = 0, verifies_until: float = float("inf")) -> RingKey:
    """The key for ES256 as a ring has it."""
    der = EC_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return RingKey(Key.restored(EC_KID, "ES256", der), signs_from, verifies_until)


class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return make(clock=clock)


def make(
    secret: str | bytes = SECRET,
    *,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
    lifetime: timedelta = timedelta(seconds=LIFETIME),
    leeway: timedelta = timedelta(seconds=LEEWAY),
    clock: Callable[[], float] = Clock(),  # noqa: B008 - never changed by those that rely on it
) -> Tokens:
    return Tokens(
        secret, issuer=issuer, audience=audience, lifetime=lifetime, leeway=leeway, clock=clock
    )


def refusal(tokens: Tokens, token: object) -> Reason:
    with pytest.raises(TokenRefused) as caught:
        tokens.verify(token)
    assert caught.value.__context__ is None, "a chained error would carry the token's text"
    return caught.value.reason


class TestIssue:
    def test_what_is_issued_is_verified(self, tokens: Tokens) -> None:
        """A token issued here comes back as the claims it was issued for."""
        claims = tokens.verify(tokens.issue("42", name="Zoë", session="s", roles=["b", "a"]))
        assert claims == Claims(
            subject="42",
            name="Zoë",
            session="s",
            roles=frozenset({"a", "b"}),
            token_id=claims.token_id,
            issued_at=datetime.fromtimestamp(NOW, UTC),
            expires_at=datetime.fromtimestamp(NOW + LIFETIME, UTC),
            key=kid_of(SECRET),
        )

    def test_text(self, tokens: Tokens) -> None:
        """A token is an HS256 JWS whose header names algorithm, type and key, and no more."""
        head, body, signature = tokens.issue("42", session="s").split(".")
        assert json.loads(base64.urlsafe_b64decode(head + "==")) == HEADER
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        assert claims == CLAIMS | {"name": "", "sid": "s", "roles": [], "jti": claims["jti"]}
        assert signature == mac(f"{head}.{body}")

    def test_ids_differ(self, tokens: Tokens) -> None:
        """No two tokens share an id."""
        issued = [tokens.verify(tokens.issue("42", session="s")) for _ in range(100)]
        assert len({claims.token_id for claims in issued}) == 100

    def test_shorter_lifetime(self, tokens: Tokens) -> None:
        """A token may be issued for less than the configured lifetime."""
        claims = tokens.verify(tokens.issue("42", session="s", lifetime=timedelta(seconds=1)))
        assert claims.expires_at - claims.issued_at == timedelta(seconds=1)

    def test_fraction_of_a_second(self, tokens: Tokens, clock: Clock) -> None:
        """A clock within a second issues a token that is valid at once, in whole seconds."""
        clock.now = NOW + 0.75
        claims = tokens.verify(tokens.issue("42", session="s"))
        assert claims.issued_at == datetime.fromtimestamp(NOW, UTC)

    @pytest.mark.parametrize("seconds", [0, -1, 0.5, LIFETIME + 1])
    def test_lifetime_out_of_range(self, tokens: Tokens, seconds: float) -> None:
        """A lifetime below a second or above the configured one is not issued."""
        with pytest.raises(ValueError, match="lifetime"):
            tokens.issue("42", session="s", lifetime=timedelta(seconds=seconds))

    @pytest.mark.parametrize("name", ["", "x" * 256, "nul\0", "line\n", "\ud800", "Zoë"])
    def test_odd_names(self, tokens: Tokens, name: str) -> None:
        """What would be refused as a subject, a session or a role is not issued."""
        with pytest.raises(ValueError, match="sub"):
            tokens.issue(name, session="s")
        with pytest.raises(ValueError, match="sid"):
            tokens.issue("42", session=name)
        with pytest.raises(ValueError, match="roles"):
            tokens.issue("42", session="s", roles=["admin", name])

    def test_too_many_roles(self, tokens: Tokens) -> None:
        """A token holds 32 roles and no more."""
        roles = [f"role-{n}" for n in range(33)]
        assert len(tokens.verify(tokens.issue("42", session="s", roles=roles[:32])).roles) == 32
        with pytest.raises(ValueError, match="roles"):
            tokens.issue("42", session="s", roles=roles)

    def test_too_long(self, tokens: Tokens) -> None:
        """No token is issued that is too long to be verified."""
        roles = [f"{n:02}".ljust(64, '"') for n in range(32)]
        with pytest.raises(ValueError, match="4096 characters"):
            tokens.issue("42", session="s", roles=roles)


class TestAccepted:
    def test_by_hand(self, tokens: Tokens) -> None:
        """The hand-made token is accepted, so each refusal below is due to its one change."""
        assert tokens.verify(forged()).token_id == "token-1"

    @pytest.mark.parametrize(
        "extra", [{"acr": "x"}, {"nbf": NOW}, {"deep": [[{}]]}, {"nbf": NOW + LEEWAY}]
    )
    def test_other_claims(self, tokens: Tokens, extra: dict[str, Any]) -> None:
        """Claims of others are ignored, and a start that has come is no obstacle."""
        assert tokens.verify(forged(claims=extra)) == tokens.verify(forged())

    def test_order_and_blanks(self, tokens: Tokens) -> None:
        """A header is judged by what it says, not by how its JSON is laid out."""
        header = json.dumps(dict(reversed(HEADER.items())), indent=2).encode()
        assert tokens.verify(forged(header)) == tokens.verify(forged())

    def test_same_key_elsewhere(self, tokens: Tokens) -> None:
        """Another node with the same secret, given as text or bytes, accepts the token."""
        assert tokens.verify(make(SECRET.encode()).issue("42", session="s")).subject == "42"


class TestText:
    @pytest.mark.parametrize("token", [None, ""])
    def test_missing(self, tokens: Tokens, token: object) -> None:
        """No token and an empty one are missing."""
        assert refusal(tokens, token) is Reason.MISSING

    @pytest.mark.parametrize("token", [forged().encode(), 0, True, [], {}, ABSENT, 1.5])
    def test_not_text(self, tokens: Tokens, token: object) -> None:
        """Only text is a token; the same token as bytes is not."""
        assert refusal(tokens, token) is Reason.MALFORMED

    def test_length(self, tokens: Tokens) -> None:
        """A token of 4,096 characters is read, a longer one is not."""
        sizes = {len(t): t for t in (forged(claims={"pad": "x" * n}) for n in range(2600, 2800))}
        longest = max(size for size in sizes if size <= MAX_LENGTH)
        assert MAX_LENGTH - longest < 2
        assert tokens.verify(sizes[longest]).subject == "42"
        assert refusal(tokens, sizes[min(s for s in sizes if s > MAX_LENGTH)]) is Reason.TOO_LONG
        assert refusal(tokens, "x" * 1_000_000) is Reason.TOO_LONG

    @pytest.mark.parametrize(
        "token",
        [
            *(
                ".",
                "..",
                "...",
                " ",
                "x",
                "a.b",
                "a.b.c",
                "\0.\0.\0",
                "é.é.é",
                "\ud800.\ud800.\ud800",
            ),
            forged() + ".",
            forged() + ".x",
            "." + forged(),
            forged() + "\n",
            " " + forged(),
            forged() + "\0",
            forged() + "\ud800",
            forged() + "=",
            forged().replace(".", "=.", 1),
            forged().replace(".", "..", 1),
            forged().rpartition(".")[0],
            "Bearer " + forged(),
        ],
        ids=ascii,
    )
    def test_malformed(self, tokens: Tokens, token: str) -> None:
        """What is not exactly three parts of base64url is malformed."""
        assert refusal(tokens, token) is Reason.MALFORMED

    @pytest.mark.parametrize("junk", ["!", "*", " ", "\n", "\r\n", "=", "==", "+", "/", "é", "\0"])
    def test_junk_in_the_signature(self, tokens: Tokens, junk: str) -> None:
        """Letters that a lenient decoder drops make a token malformed wherever they stand."""
        text, _, signature = forged().rpartition(".")
        for token in (
            f"{text}.{signature[:20]}{junk}{signature[20:]}",
            f"{text}.{junk}{signature}",
            f"{text}.{signature}{junk}",
        ):
            assert refusal(tokens, token) is Reason.MALFORMED

    def test_unused_bits(self, tokens: Tokens) -> None:
        """A signature whose unused bits are set is malformed, though it decodes to the same."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        valid = forged()
        same = base64.urlsafe_b64decode(valid.rpartition(".")[2] + "=")
        for bits in (1, 2, 3):
            token = valid[:-1] + alphabet[alphabet.index(valid[-1]) + bits]
            assert base64.urlsafe_b64decode(token.rpartition(".")[2] + "=") == same
            assert refusal(tokens, token) is Reason.MALFORMED

    def test_standard_alphabet(self, tokens: Tokens) -> None:
        """The letters + and / of plain base64 do not stand for - and _."""
        token = next(
            token
            for token in (forged(claims={"jti": f"token-{n}"}) for n in range(1000))
            if "-" in token and "_" in token
        )
        assert tokens.verify(token).subject == "42"
        assert refusal(tokens, token.replace("-", "+")) is Reason.MALFORMED
        assert refusal(tokens, token.replace("_", "/")) is Reason.MALFORMED


NOT_AN_OBJECT = [
    *b"|{|null|[]|'text'|\"text\"|1|{}x|\xff\xfe|\xef\xbb\xbf{}|{\0}|{'a': 1}".split(b"|"),
    *b'{"a": NaN}|{"a": -Infinity}|{"a": 1, "a": 1}|{"a": {"b": 1, "b": 2}}'.split(b"|"),
    *("{}".encode("utf-16"), b"[" * 1990, b"[" * 990 + b"]" * 990, b'{"":' * 400),
]


class TestHeader:
    @pytest.mark.parametrize("header", NOT_AN_OBJECT, ids=lambda raw: repr(raw[:16]))
    def test_malformed(self, tokens: Tokens, header: bytes) -> None:
        """A header that is not one JSON object with distinct names is malformed."""
        assert refusal(tokens, forged(header)) is Reason.MALFORMED

    @pytest.mark.parametrize("text", [b"[" * 2000, b"[" * 1000 + b"]" * 1000])
    def test_nested_and_unsigned(self, tokens: Tokens, text: bytes) -> None:
        """A deeply nested header of 2.7 kB, signed by nobody, is malformed and no crash."""
        assert refusal(tokens, f"{b64(text)}.e30.AA") is Reason.MALFORMED

    @pytest.mark.parametrize("name", HEADER)
    def test_repeated_name(self, tokens: Tokens, name: str) -> None:
        """A header that says a thing twice is malformed, even if it says the same."""
        again = json.dumps(HEADER)[:-1] + f', "{name}": "{HEADER[name]}"}}'
        assert refusal(tokens, forged(again.encode())) is Reason.MALFORMED

    @pytest.mark.parametrize(
        "alg",
        [
            *(
                "none",
                "None",
                "NONE",
                "hs256",
                "RS256",
                "ES256",
                "dir",
                "",
                "HS256 ",
                "\0",
                "\ud800",
            ),
            *(None, 256, True, ["HS256"], {"HS256": 1}, ABSENT),
        ],
        ids=ascii,
    )
    def test_algorithm(self, tokens: Tokens, alg: object) -> None:
        """Only HS256 is an algorithm, whatever signature comes with another name."""
        token = forged({"alg": alg})
        assert refusal(tokens, token) is Reason.ALGORITHM
        assert refusal(tokens, token.rpartition(".")[0] + ".") is Reason.ALGORITHM

    @pytest.mark.parametrize(("alg", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
    def test_algorithm_of_the_same_family(self, tokens: Tokens, alg: str, digest: str) -> None:
        """A longer HMAC, truly made with the key, is another algorithm."""
        assert refusal(tokens, forged({"alg": alg}, digest=digest)) is Reason.ALGORITHM

    @pytest.mark.parametrize(
        "typ",
        [
            *(
                "JWT",
                "rt+jwt",
                "refresh",
                "AT+JWT",
                "application/at+jwt",
                "at+jwt ",
                "",
                "dpop+jwt",
            ),
            *(None, 1, ["at+jwt"], ABSENT),
        ],
        ids=ascii,
    )
    def test_type(self, tokens: Tokens, typ: object) -> None:
        """A refresh token, or any other kind that the key signed, is no access token."""
        assert refusal(tokens, forged({"typ": typ})) is Reason.TYPE

    @pytest.mark.parametrize(
        "extra",
        [
            *({"crit": ["b64"], "b64": False}, {"crit": ["unknown"], "unknown": 1}, {"crit": []}),
            *({name: "x"} for name in ("jku", "jwk", "x5u", "x5c", "x5t", "cty", "zip", "ALG", "")),
            {"kid": ABSENT},
        ],
        ids=ascii,
    )
    def test_other_names(self, tokens: Tokens, extra: dict[str, Any]) -> None:
        """A header with a name more, critical or not, or without a key's name is refused."""
        assert refusal(tokens, forged(extra)) is Reason.HEADER

    @pytest.mark.parametrize(
        "kid",
        ["", "other", "../../dev/null", "' or 1=1", None, 1, [kid_of(SECRET)], "\0", "\ud800"],
    )
    def test_key(self, tokens: Tokens, kid: object) -> None:
        """A key of another name is not tried, though the signature would fit."""
        assert refusal(tokens, forged({"kid": kid})) is Reason.KEY


class TestSignature:
    OTHER = "another-secret-that-is-just-as-long-as-it"

    def test_another_key(self, tokens: Tokens) -> None:
        """A token that another key signed is refused under either key's name."""
        assert refusal(tokens, forged(secret=self.OTHER)) is Reason.SIGNATURE
        assert refusal(tokens, forged({"kid": kid_of(self.OTHER)})) is Reason.KEY
        assert refusal(tokens, make(self.OTHER).issue("42", session="s")) is Reason.KEY

    @pytest.mark.parametrize("signature", ["", "AA", b64(bytes(32)), b64(bytes(64)), mac("x")])
    def test_not_a_signature(self, tokens: Tokens, signature: str) -> None:
        """An empty, a short, a long and a foreign signature are refused."""
        token = forged().rpartition(".")[0] + "." + signature
        assert refusal(tokens, token) is Reason.SIGNATURE

    @pytest.mark.parametrize("digest", ["sha1", "sha384", "sha512", "sha3_256"])
    def test_another_digest(self, tokens: Tokens, digest: str) -> None:
        """The key with another digest does not sign."""
        assert refusal(tokens, forged(digest=digest)) is Reason.SIGNATURE

    def test_parts_of_two_tokens(self, tokens: Tokens) -> None:
        """The payload of one token under the signature of another is refused."""
        one, two = forged().split("."), forged(claims={"sub": "1"}).split(".")
        assert refusal(tokens, f"{one[0]}.{two[1]}.{one[2]}") is Reason.SIGNATURE

    def test_truncated(self, tokens: Tokens) -> None:
        """No beginning of a token is a token."""
        token = forged()
        reasons = {refusal(tokens, token[:size]) for size in range(1, len(token))}
        assert reasons == {Reason.MALFORMED, Reason.SIGNATURE}

    @pytest.mark.parametrize(
        "claims", [{"exp": 1}, {"aud": "x"}, {"iss": "x"}, {"sub": None}, b"[]", b"x", b"[" * 1000]
    )
    def test_judged_before_the_claims(self, tokens: Tokens, claims: Any) -> None:
        """Who has no key learns nothing about claims: the signature is refused first."""
        assert refusal(tokens, forged(claims=claims, secret=self.OTHER)) is Reason.SIGNATURE


class TestClaims:
    @pytest.mark.parametrize("claims", NOT_AN_OBJECT, ids=lambda raw: repr(raw[:16]))
    def test_malformed(self, tokens: Tokens, claims: bytes) -> None:
        """A signed payload that is not one JSON object with distinct names is malformed."""
        assert refusal(tokens, forged(claims=claims)) is Reason.MALFORMED

    @pytest.mark.parametrize("name", CLAIMS)
    def test_required(self, tokens: Tokens, name: str) -> None:
        """Every claim is required, null is none, and none may be said twice."""
        assert refusal(tokens, forged(claims={name: ABSENT})) is Reason.CLAIMS
        assert refusal(tokens, forged(claims={name: None})) is Reason.CLAIMS
        again = json.dumps(CLAIMS)[:-1] + f', "{name}": {json.dumps(CLAIMS[name])}}}'
        assert refusal(tokens, forged(claims=again.encode())) is Reason.MALFORMED

    @pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
    @pytest.mark.parametrize(
        "value",
        [
            *(None, str(NOW + 60), float(NOW + 60), True, False, 10**400, -(10**400), -1, [], {}),
            *(253_402_300_800, 2**63, 2**64),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_times(self, tokens: Tokens, name: str, value: object) -> None:
        """A time is a whole number of seconds that a date can hold, and nothing like it."""
        assert refusal(tokens, forged(claims={name: value})) is Reason.CLAIMS

    @pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
    @pytest.mark.parametrize(
        ("literal", "reason"),
        [
            ("Infinity", Reason.MALFORMED),
            ("-Infinity", Reason.MALFORMED),
            ("NaN", Reason.MALFORMED),
            ("1e400", Reason.CLAIMS),
            (f"{NOW + 60}.0", Reason.CLAIMS),
            ("18e8", Reason.CLAIMS),
            ("9" * 2000, Reason.CLAIMS),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_literals(self, tokens: Tokens, name: str, literal: str, reason: Reason) -> None:
        """A time written as no JSON number, as infinity or as a fraction is refused."""
        claims = changed(CLAIMS, {name: "@"}).replace(b'"@"', literal.encode())
        assert refusal(tokens, forged(claims=claims)) is reason

    @pytest.mark.parametrize("name", ["sub", "sid", "jti", "iss", "aud"])
    @pytest.mark.parametrize(
        "value",
        ["", "x" * 256, "nul\0", "line\n", "\ud800", "\u0430dmin", 42, True, ["duplex"], {"a": 1}],
        ids=lambda value: ascii(value)[:20],
    )
    def test_names(self, tokens: Tokens, name: str, value: object) -> None:
        """A name is 1 to 255 letters of printable ASCII; a list of audiences is none."""
        assert refusal(tokens, forged(claims={name: value})) is Reason.CLAIMS

    def test_display_name(self, tokens: Tokens) -> None:
        """A person's name may be in any script, and missing."""
        assert tokens.verify(forged()).name == ""
        for name in ("", "Zoë Ωμέγα", "\U0001f451" * 80):
            assert tokens.verify(forged(claims={"name": name})).name == name
            assert tokens.verify(tokens.issue("42", name=name, session="s")).name == name

    @pytest.mark.parametrize(
        "name", ["x" * 81, "nul\0", "a\nb", "a\n", "\x7f", "\ud800", None, 42, ["Zoë"]], ids=ascii
    )
    def test_odd_display_name(self, tokens: Tokens, name: Any) -> None:
        """A person's name of over 80 letters, with controls, or not text is refused."""
        assert refusal(tokens, forged(claims={"name": name})) is Reason.CLAIMS
        with pytest.raises(ValueError, match="name"):
            tokens.issue("42", name=name, session="s")

    @pytest.mark.parametrize(
        "roles",
        [
            *(
                "admin",
                {"admin": True},
                [1],
                [None],
                [["admin"]],
                [True],
                [""],
                ["x" * 65],
                ["a b"],
            ),
            *(["\ud800"], ["nul\0"], ["a\n"], ["role"] * 33, True, 1),
        ],
        ids=lambda value: ascii(value)[:20],
    )
    def test_roles(self, tokens: Tokens, roles: object) -> None:
        """Roles are a list of at most 32 short names without blanks."""
        assert refusal(tokens, forged(claims={"roles": roles})) is Reason.CLAIMS

    @pytest.mark.parametrize("issuer", ["x", ISSUER + "/", ISSUER.upper(), ISSUER + " "])
    def test_issuer(self, tokens: Tokens, issuer: str) -> None:
        """The issuer is compared letter by letter."""
        assert refusal(tokens, forged(claims={"iss": issuer})) is Reason.ISSUER

    @pytest.mark.parametrize("audience", ["x", "duplex2", "duple", "Duplex", " duplex"])
    def test_audience(self, tokens: Tokens, audience: str) -> None:
        """The audience is compared letter by letter."""
        assert refusal(tokens, forged(claims={"aud": audience})) is Reason.AUDIENCE

    def test_another_service(self, tokens: Tokens) -> None:
        """A token of a service with the same key is refused for its audience or its issuer."""
        assert refusal(tokens, make(audience="x").issue("42", session="s")) is Reason.AUDIENCE
        assert refusal(tokens, make(issuer="x").issue("42", session="s")) is Reason.ISSUER


class TestTimes:
    @pytest.mark.parametrize("leeway", [0, LEEWAY])
    def test_expiry(self, clock: Clock, leeway: int) -> None:
        """A token expires at the very instant of `exp` plus the leeway, and not before."""
        tokens = make(leeway=timedelta(seconds=leeway), clock=clock)
        clock.now = NOW + LIFETIME + leeway - 0.001
        assert tokens.verify(forged()).subject == "42"
        clock.now = NOW + LIFETIME + leeway
        assert refusal(tokens, forged()) is Reason.EXPIRED

    def test_default_leeway(self, clock: Clock) -> None:
        """Without a word about it the leeway is 30 seconds."""
        lifetime = timedelta(seconds=LIFETIME)
        tokens = Tokens(SECRET, issuer=ISSUER, audience=AUDIENCE, lifetime=lifetime, clock=clock)
        clock.now = NOW + LIFETIME + 29.999
        assert tokens.verify(forged()).subject == "42"
        clock.now = NOW + LIFETIME + 30
        assert refusal(tokens, forged()) is Reason.EXPIRED

    def test_wall_clock(self) -> None:
        """Without a clock given, the machine's is used."""
        lifetime = timedelta(seconds=LIFETIME)
        tokens = Tokens(SECRET, issuer=ISSUER, audience=AUDIENCE, lifetime=lifetime)
        issued_at = tokens.verify(tokens.issue("42", session="s")).issued_at
        assert abs(datetime.now(UTC) - issued_at) < timedelta(seconds=10)

    @pytest.mark.parametrize("name", ["iat", "nbf"])
    def test_future(self, tokens: Tokens, name: str) -> None:
        """A token from the future is accepted up to the leeway and no further."""
        assert tokens.verify(forged(claims={name: NOW + LEEWAY})).subject == "42"
        token = forged(claims={name: NOW + LEEWAY + 1})
        assert refusal(tokens, token) is Reason.NOT_YET_VALID

    @pytest.mark.parametrize("seconds", [0, -1, LIFETIME + 1, 10**9])
    def test_lifetime(self, tokens: Tokens, seconds: int) -> None:
        """A token that never lives, or lives longer than is configured, is refused."""
        token = forged(claims={"iat": NOW - 10, "exp": NOW - 10 + seconds})
        assert refusal(tokens, token) is Reason.LIFETIME

    def test_lifetime_made_shorter(self) -> None:
        """A shorter configured lifetime refuses the longer tokens issued before."""
        tokens = make(lifetime=timedelta(seconds=LIFETIME - 1))
        assert refusal(tokens, forged()) is Reason.LIFETIME


class TestRing:
    """Several keys: `kid` says which, each has one algorithm, and the newest signs."""

    @pytest.fixture
    def ring(self, tokens: Tokens) -> Tokens:
        tokens.use([RingKey(tokens.own_key), ec_ring_key(NOW)], removed=["gone"])
        return tokens

    def test_the_newest_signs_and_all_verify(self, ring: Tokens, clock: Clock) -> None:
        """A key that is to sign later verifies before that; the claims say which key it was."""
        clock.now = NOW - 1
        before = ring.issue("42", session="s")
        assert json.loads(base64.urlsafe_b64decode(before.split(".")[0] + "==")) == HEADER
        assert ring.verify(ec_forged()).key == EC_KID
        clock.now = NOW
        head, body, signature = ring.issue("42", session="s").split(".")
        assert json.loads(base64.urlsafe_b64decode(head + "==")) == EC_HEADER
        assert len(base64.urlsafe_b64decode(signature + "==")) == 64
        assert ring.verify(f"{head}.{body}.{signature}").key == EC_KID
        assert ring.verify(before).key == kid_of(SECRET)

    def test_by_hand(self, ring: Tokens) -> None:
        """The hand-made ES256 token is accepted, so each refusal below is due to its change."""
        assert ring.verify(ec_forged()).subject == "42"

    def test_a_key_verifies_until_its_time_is_over(self, tokens: Tokens, clock: Clock) -> None:
        """To the very instant, and does not sign again even where it is the only one."""
        tokens.use([ec_ring_key(0, NOW + 100)])
        clock.now = NOW + 99.999
        assert tokens.verify(tokens.issue("42", session="s")).key == EC_KID
        assert tokens.public_keys() != []
        clock.now = NOW + 100
        assert refusal(tokens, ec_forged()) is Reason.KEY
        assert tokens.public_keys() == []
        with pytest.raises(RuntimeError, match="keys rotate"):
            tokens.issue("42", session="s")

    def test_another_keys_algorithm(self, ring: Tokens) -> None:
        """A key's name with the other algorithm is refused, whatever the signature is."""
        for token in (forged({"alg": "ES256"}), ec_forged({"alg": "HS256"})):
            assert refusal(ring, token) is Reason.ALGORITHM

    @pytest.mark.parametrize("form", [Encoding.DER, Encoding.PEM, Encoding.X962])
    def test_the_public_key_is_no_secret(self, ring: Tokens, form: Encoding) -> None:
        """An HMAC by what everybody may fetch proves nothing (RFC 8725 section 2.1)."""
        compressed, spki = PublicFormat.UncompressedPoint, PublicFormat.SubjectPublicKeyInfo
        public = EC_KEY.public_key().public_bytes(
            form, compressed if form is Encoding.X962 else spki
        )
        for alg, reason in (("HS256", Reason.ALGORITHM), ("ES256", Reason.SIGNATURE)):
            text = f"{b64(changed(EC_HEADER, {'alg': alg}))}.{b64(changed(CLAIMS, {}))}"
            signature = hmac.new(public, text.encode(), "sha256").digest()
            assert refusal(ring, f"{text}.{b64(signature)}") is reason

    def test_each_key_signs_for_itself(self, ring: Tokens) -> None:
        """What one key has signed is nothing under the other's name: no key is tried."""
        assert refusal(ring, ec_forged(key=ec.generate_private_key(ec.SECP256R1()))) is (
            Reason.SIGNATURE
        )
        assert refusal(ring, ec_forged({"kid": kid_of(SECRET)})) is Reason.ALGORITHM
        assert refusal(ring, forged({"kid": EC_KID})) is Reason.ALGORITHM

    @pytest.mark.parametrize(
        "signature",
        [b"", bytes(64), b"\xff" * 64, bytes(63), bytes(65), b"der"],
        ids=["none", "zero", "too large", "short", "long", "der"],
    )
    def test_not_a_signature(self, ring: Tokens, signature: bytes) -> None:
        """No signature, one out of range, one of another length and one in DER are refused."""
        text = ec_forged().rpartition(".")[0]
        if signature == b"der":
            signature = EC_KEY.sign(text.encode(), ec.ECDSA(SHA256()))
        assert refusal(ring, f"{text}.{b64(signature)}") is Reason.SIGNATURE

    def test_a_removed_key_is_told_apart(self, ring: Tokens) -> None:
        """So that whoever had a token of it knows to refresh; even where it is in the ring."""
        assert refusal(ring, forged({"kid": "gone"})) is Reason.KEY_REMOVED
        assert refusal(ring, forged({"kid": "never there"})) is Reason.KEY
        ring.use([RingKey(ring.own_key), ec_ring_key()], removed=[EC_KID])
        assert refusal(ring, ec_forged()) is Reason.KEY_REMOVED

    def test_what_is_published(self, ring: Tokens) -> None:
        """The point of the ES256 key as a JWK, and nothing of the symmetric one."""
        point = EC_KEY.public_key().public_numbers()
        assert ring.public_keys() == [
            {
                "kty": "EC",
                "crv": "P-256",
                "x": b64(point.x.to_bytes(32, "big")),
                "y": b64(point.y.to_bytes(32, "big")),
                "alg": "ES256",
                "kid": EC_KID,
                "use": "sig",
            }
        ]

    @pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
    def test_new_material_is_a_key(self, tokens: Tokens, algorithm: Any) -> None:
        """A new key signs what it verifies, and no two are the same."""
        material = new_material(algorithm)
        assert material != new_material(algorithm)
        tokens.use([RingKey(Key.restored("k", algorithm, material))])
        assert tokens.verify(tokens.issue("42", session="s")).key == "k"

    def test_material_of_another_algorithm_is_no_key(self) -> None:
        """Nor is that of another curve."""
        other = ec.generate_private_key(ec.SECP384R1())
        der = other.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for algorithm, material in (("ES256", b"x" * 32), ("ES256", der), ("RS256", der)):
            with pytest.raises(ValueError, match=r"."):
                Key.restored("k", algorithm, material)


def public_keys() -> dict[str, bytes]:
    spki = PublicFormat.SubjectPublicKeyInfo
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    ec_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    ed_key = ed25519.Ed25519PrivateKey.generate().public_key()
    found = {"rsa pkcs1 der": rsa_key.public_bytes(Encoding.DER, PublicFormat.PKCS1)}
    found["rsa pkcs1 pem"] = rsa_key.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    for name, key in (("rsa", rsa_key), ("ec", ec_key), ("ed25519", ed_key)):
        der = key.public_bytes(Encoding.DER, spki)
        found[f"{name} der"] = der
        found[f"{name} base64"] = base64.b64encode(der)
        found[f"{name} base64 lines"] = base64.encodebytes(der)
        found[f"{name} pem"] = key.public_bytes(Encoding.PEM, spki)
        found[f"{name} ssh"] = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    found["jwk"] = json.dumps({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}).encode()
    return found


PUBLIC_KEYS = public_keys()


class TestConstruction:
    @pytest.mark.parametrize("secret", ["", b"", "x" * 31, b"x" * 31, "é" * 15])
    def test_short_secret(self, secret: str | bytes) -> None:
        """A secret below 32 bytes is refused with the command that makes a good one."""
        with pytest.raises(ValueError, match=r"fewer than 32 bytes; generate .*token_urlsafe"):
            make(secret)

    @pytest.mark.parametrize("secret", ["x" * 32, b"\0" * 32, "é" * 16, b"0" + b"\x82" * 40])
    def test_long_enough(self, secret: str | bytes) -> None:
        """32 bytes are enough, text or not."""
        tokens = make(secret)
        assert tokens.verify(tokens.issue("42", session="s")).subject == "42"

    @pytest.mark.parametrize("size", [*range(32, 64), 128, 129, 200, 255, 256, 300])
    @pytest.mark.parametrize("second", [0x1E, 0x80, 0x81, 0x9E, 0xFF])
    def test_almost_der(self, size: int, second: int) -> None:
        """Bytes that begin like DER and are not are an ordinary secret."""
        tokens = make(bytes([0x30, second]) + bytes(size - 2))
        assert tokens.verify(tokens.issue("42", session="s")).subject == "42"

    @pytest.mark.parametrize("name", PUBLIC_KEYS)
    def test_public_key(self, name: str) -> None:
        """A public key, which anybody has, is no secret in any of its spellings."""
        with pytest.raises(ValueError, match=r"another algorithm; generate .*token_urlsafe"):
            make(PUBLIC_KEYS[name])

    @pytest.mark.parametrize("name", ["", "x" * 256, "line\n", "\ud800"])
    def test_odd_issuer_and_audience(self, name: str) -> None:
        """An issuer or audience that no token could carry is refused at once."""
        with pytest.raises(ValueError, match="validation error"):
            make(issuer=name)
        with pytest.raises(ValueError, match="validation error"):
            make(audience=name)

    @pytest.mark.parametrize(("lifetime", "leeway"), [(0, 30), (-1, 30), (0.9, 30), (900, -0.1)])
    def test_durations(self, lifetime: float, leeway: float) -> None:
        """A lifetime below a second and a negative leeway are refused."""
        with pytest.raises(ValueError, match="at least one second"):
            make(lifetime=timedelta(seconds=lifetime), leeway=timedelta(seconds=leeway))


def test_refusal_says_nothing_of_the_token(tokens: Tokens) -> None:
    """A refusal can be logged: it holds its reason, and no part of the token."""
    with pytest.raises(TokenRefused) as caught:
        tokens.verify(forged(claims={"sub": "\0secret"}))
    assert str(caught.value) == "claims"
    assert caught.value.args == (Reason.CLAIMS,)
    assert caught.value.__cause__ is None
