"""Access tokens and the keys that sign them: the one module that knows jose.

Ours are signed with HS256 or ES256 (RFC 7518) and typed `at+jwt` (RFC 9068). A key has one
algorithm, and a token is verified by the key that its `kid` names or not at all.
"""

import base64
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from jose import jwk, jws
from jose.exceptions import JOSEError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.core.token_form import (
    MAX_LENGTH,
    DisplayName,
    Name,
    Reason,
    RoleName,
    Scope,
    Seconds,
    TokenRefused,
    base64url,
    check_times,
    claims_in,
    json_object,
    read,
)

__all__ = ["MAX_LENGTH", "Claims", "Key", "Reason", "RingKey", "TokenRefused", "Tokens"]

Algorithm = Literal["HS256", "ES256"]

HS256: Algorithm = "HS256"
ES256: Algorithm = "ES256"
ALGORITHMS: tuple[Algorithm, ...] = (HS256, ES256)
TYPE = "at+jwt"
MIN_SECRET_BYTES = 32
RSA_BITS = range(2048, 8193)  # below it is weak, above it takes an attacker's time of ours
HEADER_NAMES = {"alg", "typ", "kid"}
REMEDY = "generate one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. A denial names `token_id`, never the token's text."""

    subject: str
    name: str
    session: str
    roles: frozenset[str]
    token_id: str
    issued_at: datetime
    expires_at: datetime
    scopes: frozenset[str] | None = None  # None: all that the subject may do
    authenticated_at: datetime | None = None
    methods: frozenset[str] = frozenset()
    key: str = ""  # the `kid` of the key that signed it


class Key:
    """A key by its `kid` and its one algorithm: it verifies, and a private one signs.

    Made by `of_secret`, `restored` and `of_jwk`.
    """

    def __init__(self, kid: str, algorithm: str, verifier: Any, signer: Any = None) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self._verifier = verifier
        self._signer = signer

    @classmethod
    def of_secret(cls, secret: str | bytes) -> "Key":
        """The HS256 key that a secret is. Its `kid` is derived, so that every node names it alike.

        Raises ValueError for a secret that is short or shaped like a public key.
        """
        key = _hmac_key(secret)
        # Not a plain hash of the key, which RFC 7638 section 7 advises against for symmetric keys.
        return cls(base64url(key.sign(b"kid"))[:16], HS256, key, key)

    @classmethod
    def restored(cls, kid: str, algorithm: str, material: bytes) -> "Key":
        """A key of what `new_material` made for this algorithm. Raises ValueError."""
        if algorithm == HS256:
            key = jwk.construct(material, HS256)
            return cls(kid, HS256, key, key)
        private = load_der_private_key(material, password=None)
        on_curve = isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(
            private.curve, ec.SECP256R1
        )
        if algorithm != ES256 or not on_curve:
            raise ValueError("no key of ours")
        public = jwk.construct(private.public_key(), ES256)
        return cls(kid, ES256, public, jwk.construct(private, ES256))

    @classmethod
    def of_jwk(cls, members: object) -> "Key | None":
        """The RS256 or ES256 key that a JWK (RFC 7517) publishes; None for one that is neither.

        One without a `kid`, for another use or too weak is none either.
        """
        if not isinstance(members, dict) or members.get("use", "sig") != "sig":
            return None
        kid, kind = members.get("kid"), members.get("kty")
        algorithm = {"RSA": "RS256", "EC": ES256}.get(kind if isinstance(kind, str) else "")
        if algorithm is None or members.get("alg", algorithm) != algorithm:
            return None
        try:
            public = _rsa_key(members) if kind == "RSA" else _ec_key(members)
            return cls(_NAME.validate_python(kid), algorithm, jwk.construct(public, algorithm))
        except (ValueError, TypeError, KeyError):  # ValidationError is a ValueError
            return None

    def public_jwk(self) -> dict[str, str] | None:
        """What may be told of the key as a JWK (RFC 7517); None for a secret one."""
        if self.algorithm == HS256:
            return None
        members: dict[str, str] = self._verifier.to_dict()
        return members | {"kid": self.kid, "use": "sig"}

    def sign(self, claims: dict[str, Any]) -> str:
        """A token of ours with these claims."""
        headers = {"typ": TYPE, "kid": self.kid}
        token: str = jws.sign(claims, self._signer, headers=headers, algorithm=self.algorithm)
        return token

    def check(self, token: str) -> None:
        """Raise TokenRefused unless this key signed the token, whose form has been checked."""
        try:
            jws.verify(token, self._verifier, algorithms=[self.algorithm])
            signed = True
        except JOSEError:
            signed = False
        if not signed:
            raise TokenRefused(Reason.SIGNATURE)


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key of ours, with the seconds from which on it signs and up to which it verifies."""

    key: Key
    signs_from: float = 0
    verifies_until: float = float("inf")


class _Payload(BaseModel):
    # Other claims are ignored (RFC 7519 section 4): a node of the last release then accepts what
    # one of the next issues. `nbf` is never issued, but where present it must be obeyed.
    model_config = ConfigDict(strict=True, extra="ignore")

    iss: Name
    aud: Name
    sub: Name
    sid: Name
    jti: Name
    name: DisplayName = ""
    iat: Seconds
    exp: Seconds
    nbf: Seconds = 0
    roles: Annotated[list[RoleName], Field(max_length=32)]
    scope: Scope | None = None  # separated by spaces (RFC 9068 section 2.2.3)
    auth_time: Seconds | None = None  # when the person last proved who they are
    amr: Annotated[list[RoleName], Field(max_length=8)] = []  # and by what (RFC 8176)


class Tokens:
    """Issues and verifies the access tokens of one issuer for one audience.

    `lifetime` is the default lifetime of a token and the longest one accepted. `leeway` is granted
    to clocks that differ, at both ends of a token's life. Its key is `secret`, until `use` gives it
    others. Raises ValueError for a secret that is short or shaped like a public key, and for an
    issuer, audience or duration that cannot be used.
    """

    def __init__(
        self,
        secret: str | bytes,
        *,
        issuer: str,
        audience: str,
        lifetime: timedelta,
        leeway: timedelta = timedelta(seconds=30),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if lifetime < timedelta(seconds=1) or leeway < timedelta(0):
            raise ValueError("lifetime must be at least one second and leeway not negative")
        self.own_key = Key.of_secret(secret)
        self.lifetime = lifetime
        self.leeway = leeway
        self._issuer = _NAME.validate_python(issuer)
        self._audience = _NAME.validate_python(audience)
        self._clock = clock
        self.use([RingKey(self.own_key)])

    def use(self, ring: Iterable[RingKey], *, removed: Iterable[str] = ()) -> None:
        """Sign and verify with these keys from now on.

        Tokens that name one of the `removed` are told apart from those of a key nobody knows.
        """
        self._ring = {each.key.kid: each for each in ring}
        self._removed = frozenset(removed)

    def signing_key(self) -> Key | None:
        """The key that signs now: the newest that is in its time."""
        now = self._clock()
        in_time = [e for e in self._ring.values() if e.signs_from <= now < e.verifies_until]
        newest = max(in_time, key=lambda each: (each.signs_from, each.key.kid), default=None)
        return newest.key if newest else None

    def public_keys(self) -> list[dict[str, str]]:
        """The public keys that tokens are verified with, or soon will be, as JWKs."""
        now = self._clock()
        found = (each.key.public_jwk() for each in self._ring.values() if now < each.verifies_until)
        return [members for members in found if members]

    def issue(
        self,
        subject: str,
        *,
        session: str,
        name: str = "",
        roles: Iterable[str] = (),
        scopes: Iterable[str] | None = None,
        authenticated_at: datetime | None = None,
        methods: Iterable[str] = (),
        lifetime: timedelta | None = None,
    ) -> str:
        """Return a signed token for `subject`, valid from now for `lifetime` in whole seconds.

        `name` is what the person is called, in any script; the other names are printable ASCII.
        `scopes` limits what the token is good for; `authenticated_at` is when the person last
        proved who they are, and `methods` by what (`pwd`, `otp`: RFC 8176).
        Raises ValueError for what `verify` would refuse: an empty, long or unprintable name, too
        many roles, a lifetime below a second or above the configured one.
        """
        lifetime = self.lifetime if lifetime is None else lifetime
        if not timedelta(seconds=1) <= lifetime <= self.lifetime:
            raise ValueError(f"lifetime must be between one second and {self.lifetime}")
        issued_at = int(self._clock())
        optional: dict[str, Any] = {}
        if scopes is not None:
            optional["scope"] = " ".join(sorted(set(scopes)))
        if authenticated_at is not None:
            optional["auth_time"] = int(authenticated_at.timestamp())
        if methods:
            optional["amr"] = sorted(set(methods))
        claims = _Payload(
            iss=self._issuer,
            aud=self._audience,
            sub=subject,
            sid=session,
            name=name,
            jti=secrets.token_urlsafe(16),
            iat=issued_at,
            exp=issued_at + int(lifetime.total_seconds()),
            roles=sorted(set(roles)),
            **optional,
        ).model_dump(exclude_unset=True)
        key = self.signing_key()
        if key is None:
            raise RuntimeError("no key is there to sign with: python -m app keys rotate")
        token = key.sign(claims)
        if len(token) > MAX_LENGTH:
            raise ValueError(f"the names are too long for a token of {MAX_LENGTH} characters")
        return token

    def verify(self, token: object) -> Claims:
        """Return the claims of a token signed with one of the keys, for this audience, and in time.

        Raises TokenRefused and nothing else, whatever `token` is.
        """
        header, payload = read(token)
        assert isinstance(token, str)  # noqa: S101 - `read` has refused all else
        key = self._key(header)
        key.check(token)
        # Only now is the payload read: an unsigned token learns nothing about its claims.
        return self._claims(json_object(payload), key)

    async def claims_of(self, token: str) -> Claims:
        """The same for the doors, which wait where the keys are a provider's."""
        return self.verify(token)

    def _key(self, header: dict[str, Any]) -> Key:
        if header.get("alg") not in ALGORITHMS:
            raise TokenRefused(Reason.ALGORITHM)
        if header.get("typ") != TYPE:
            raise TokenRefused(Reason.TYPE)
        # Nothing beyond these three, so no `crit`, `jku`, `jwk` or `b64` is ever acted upon.
        if header.keys() != HEADER_NAMES:
            raise TokenRefused(Reason.HEADER)
        kid = header["kid"]
        if not isinstance(kid, str):
            raise TokenRefused(Reason.KEY)
        if kid in self._removed:
            raise TokenRefused(Reason.KEY_REMOVED)
        found = self._ring.get(kid)
        if found is None or self._clock() >= found.verifies_until:
            raise TokenRefused(Reason.KEY)
        if found.key.algorithm != header["alg"]:
            raise TokenRefused(Reason.ALGORITHM)
        return found.key

    def _claims(self, payload: dict[str, Any], key: Key) -> Claims:
        claims = claims_in(payload, _Payload)
        if claims.iss != self._issuer:
            raise TokenRefused(Reason.ISSUER)
        if claims.aud != self._audience:
            raise TokenRefused(Reason.AUDIENCE)
        check_times(
            issued_at=claims.iat,
            expires_at=claims.exp,
            not_before=claims.nbf,
            longest=self.lifetime.total_seconds(),
            leeway=self.leeway.total_seconds(),
            now=self._clock(),
        )
        return Claims(
            subject=claims.sub,
            name=claims.name,
            session=claims.sid,
            roles=frozenset(claims.roles),
            token_id=claims.jti,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
            expires_at=datetime.fromtimestamp(claims.exp, UTC),
            scopes=None if claims.scope is None else frozenset(claims.scope.split()),
            authenticated_at=(
                None if claims.auth_time is None else datetime.fromtimestamp(claims.auth_time, UTC)
            ),
            methods=frozenset(claims.amr),
            key=key.kid,
        )


def new_material(algorithm: Algorithm) -> bytes:
    """What is secret of a new key, for `Key.restored`: random bytes, or a P-256 key as PKCS #8."""
    if algorithm == HS256:
        return secrets.token_bytes(MIN_SECRET_BYTES)
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _hmac_key(secret: str | bytes) -> Any:
    raw = secret.encode() if isinstance(secret, str) else secret
    if len(raw) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has fewer than {MIN_SECRET_BYTES} bytes; {REMEDY}")
    # A verifier that takes a public key for an HMAC secret lets anybody sign (RFC 8725, 2.1).
    # jose sees PEM and ssh; DER, bare or in base64, and JWK pass through it.
    if b'"kty"' not in raw and not _is_der(raw) and not _is_der(_unarmoured(raw)):
        try:
            return jwk.construct(raw, HS256)
        except JOSEError:
            pass
    raise ValueError(f"the secret is a key or certificate of another algorithm; {REMEDY}")


def _rsa_key(members: dict[str, Any]) -> rsa.RSAPublicKey:
    public = rsa.RSAPublicNumbers(_number(members["e"]), _number(members["n"]))
    if public.n.bit_length() not in RSA_BITS or public.e.bit_length() > 32:
        raise ValueError("too weak, or too slow")
    return public.public_key()


def _ec_key(members: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    if members["crv"] != "P-256":
        raise ValueError("another curve")
    x, y = _number(members["x"]), _number(members["y"])
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def _is_der(raw: bytes) -> bool:
    """Whether `raw` is one DER sequence that begins as keys and certificates do."""
    if len(raw) < 4 or raw[0] != 0x30:
        return False
    size, start = raw[1], 2
    if size > 0x80:
        start += size - 0x80
        size = int.from_bytes(raw[2:start], "big")
    return start + size == len(raw) and raw[start : start + 1] in (b"\x02", b"\x30")


def _unarmoured(raw: bytes) -> bytes:
    try:
        return base64.b64decode(raw)
    except ValueError:
        return b""


_NAME = TypeAdapter(Name)
