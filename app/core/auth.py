"""Who asks: a `Principal`, and the guards that both doors share.

A guard is a dependency. It works unchanged on a route, as a field of a Channel, and on a bare
`@router.websocket` function. By an access token it reads no database; the other credentials (API
key, session cookie, ticket) are looked up.

A credential that is limited to scopes is refused wherever no guard names a scope or a role: what
nobody thought of is open to no key.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection

from app.core.errors import (
    AuthenticationFailed,
    Forbidden,
    InsufficientScope,
    SessionRevoked,
    StepUpRequired,
    TokenExpired,
    raises,
)
from app.core.metrics import count_refused_credential
from app.core.tokens import Claims, Reason, TokenRefused

if TYPE_CHECKING:
    from app.core.revocations import Revocations

LOGIN_PATH = "api/v1/auth/login"
SUBPROTOCOL = "bearer"
CSRF_SUBPROTOCOL = "csrf"
#: Offered for what follows them; they are echoed only where nothing else is spoken.
CREDENTIAL_SUBPROTOCOLS = (SUBPROTOCOL, CSRF_SUBPROTOCOL)
ONE_TIME_PASSWORD = "otp"  # noqa: S105 - the name of a method, RFC 8176

KEY_REMOVED = "The key that its token was signed with was removed."

F = TypeVar("F", bound=Callable[..., Any])

_authorization = OAuth2PasswordBearer(tokenUrl=LOGIN_PATH, auto_error=False)

#: What a key or a token can be limited to, and what each means to a person.
scopes: dict[str, str] = {}
SCOPE_PATTERN = re.compile(r"[a-z][a-z0-9_.:-]{0,63}")


def scope(name: str, description: str) -> str:
    """Make a scope known, so that keys can ask for it: `READ = scope("rooms:read", "Read rooms")`.

    Raises TypeError for a name that is taken with another meaning, or is none (RFC 6749, 3.3).
    """
    if not SCOPE_PATTERN.fullmatch(name) or scopes.get(name, description) != description:
        raise TypeError(f"{name!r} is no scope such as 'rooms:read', or means something else")
    scopes[name] = description
    return name


ADMIN = scope("admin", "Act as an administrator, as long as its owner is one")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as a credential proved it: frozen, so that it may outlive every session."""

    subject: str
    name: str
    session: str  # what ends it when that is revoked: a session's id, or `key:7` of an API key
    roles: frozenset[str]
    issued_at: datetime  # of a token in whole seconds
    expires_at: datetime
    scopes: frozenset[str] | None = None  # None: all that the subject may do
    authenticated_at: datetime | None = None  # when the person last proved who they are
    methods: frozenset[str] = frozenset()  # and by what: `pwd`, `otp` (RFC 8176)
    key: str = ""  # the `kid` of the key that signed the token they came by
    exact: bool = False  # it ends by the clock of the service's database: no leeway is due

    @property
    def user_id(self) -> int:
        """The subject as the id of a local user."""
        return int(self.subject)

    def seconds_left(self, leeway: timedelta) -> float:
        """How long the credential is still taken, `leeway` included; below zero once it is not."""
        until = self.expires_at if self.exact else self.expires_at + leeway
        return (until - datetime.now(UTC)).total_seconds()


Credential = Callable[[HTTPConnection, str | None], Awaitable[Principal | None]]
"""Takes a kind of credential that is no access token. It is called with the connection and the
token that it brought, if any, and returns None where that is not its kind.

Raises AuthenticationFailed where it is, and is not valid; what else it raises it declares with
`@raises`. It reads the clock, for `issued_at`, before it reads anything else: what is revoked
meanwhile then counts.
"""


@dataclass(frozen=True, slots=True)
class SecurityScheme:
    """How OpenAPI tells of a kind of credential.

    Args:
        name: of the scheme.
        definition: the Security Scheme Object (OpenAPI 3.1, 4.8.27).
        limited: it has scopes always, and so is not taken where no guard names one.
    """

    name: str
    definition: dict[str, str]
    limited: bool = False


def described(scheme: SecurityScheme) -> Callable[[F], F]:
    """Have a credential shown in OpenAPI."""

    def describe(credential: F) -> F:
        credential.__scheme__ = scheme  # type: ignore[attr-defined]
        return credential

    return describe


def scheme_of(credential: Credential) -> SecurityScheme | None:
    """How a credential is shown in OpenAPI, if it is."""
    return getattr(credential, "__scheme__", None)


@dataclass(frozen=True, slots=True)
class Access:
    """What guards ask of whoever is signed in; `scopes` is None where none of them names any."""

    scopes: frozenset[str] | None = None
    roles: frozenset[str] = frozenset()
    within: timedelta | None = None  # how long ago they may have proved who they are
    second_factor: bool = False

    @property
    def takes_limited(self) -> bool:
        """Whether a credential that is limited to scopes may come at all."""
        return self.scopes is not None or bool(self.roles)

    def __and__(self, other: "Access") -> "Access":
        """What two guards ask for, one after the other."""
        named = [each for each in (self.scopes, other.scopes) if each is not None]
        ages = [each for each in (self.within, other.within) if each is not None]
        return Access(
            scopes=frozenset().union(*named) if named else None,
            roles=self.roles | other.roles,
            within=min(ages, default=None),
            second_factor=self.second_factor or other.second_factor,
        )


def asks(access: Access) -> Callable[[F], F]:
    """Say what a guard asks for, where the documents and `current_user` find it."""

    def say(guard: F) -> F:
        guard.__access__ = access  # type: ignore[attr-defined]
        return guard

    return say


def asked_by(guard: object) -> Access:
    """What a guard asks for beside a valid credential, as far as it has said so."""
    access: Access = getattr(guard, "__access__", Access())
    return access


def invalid_token(
    kind: Literal["token", "key", "cookie", "ticket"] = "token",
) -> AuthenticationFailed:
    """The answer to every credential that is not valid, counted; why is not said."""
    count_refused_credential(kind)
    return AuthenticationFailed(
        "The token is not valid.", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
    )


class Verifier(Protocol):
    """Verifies access tokens: our own, or those of a provider."""

    async def claims_of(self, token: str) -> Claims:
        """What a token says. Raises TokenRefused, and Unavailable where it cannot be verified."""


async def authenticate(
    verifier: Verifier, token: str | None, revocations: "Revocations"
) -> Principal:
    """The principal that `token` proves. Nothing is awaited after the token has been verified.

    Raises:
        TokenExpired: it was valid, and is too old.
        SessionRevoked: it is valid, and its session has ended; or its key was removed.
        AuthenticationFailed: there is none, or it is not valid; why is not said.
        Unavailable: the provider whose token it may be does not answer.
    """
    if not token:
        raise AuthenticationFailed("No token was given.")
    try:
        claims = await verifier.claims_of(token)
    except TokenRefused as refused:
        if refused.reason is Reason.EXPIRED:
            raise TokenExpired from None
        if refused.reason is Reason.KEY_REMOVED:
            raise SessionRevoked(KEY_REMOVED) from None
        raise invalid_token() from None
    principal = Principal(
        subject=claims.subject,
        name=claims.name,
        session=claims.session,
        roles=claims.roles,
        issued_at=claims.issued_at,
        expires_at=claims.expires_at,
        scopes=claims.scopes,
        authenticated_at=claims.authenticated_at,
        methods=claims.methods,
        key=claims.key,
    )
    revocations.check(principal)
    return principal


def offered_after(connection: HTTPConnection, name: str) -> str | None:
    """What follows `name` among the subprotocols that a handshake offers.

    A browser cannot set headers on a WebSocket: it offers the protocols `bearer, <token>`.
    """
    offered: list[str] = connection.scope.get("subprotocols", [])
    if name not in offered:
        return None
    following = offered[offered.index(name) + 1 :]
    return following[0] if following else None


@raises(AuthenticationFailed, TokenExpired, SessionRevoked, InsufficientScope)
async def current_user(
    connection: HTTPConnection, bearer: Annotated[str | None, Depends(_authorization)]
) -> Principal:
    """The principal of a request or a handshake; never from the query, which gets logged."""
    # A WebSocket that has refreshed its token holds the new one; its headers have the old.
    refreshed: str | None = getattr(connection.state, "token", None)
    token = refreshed or bearer or offered_after(connection, SUBPROTOCOL)
    state = connection.app.state
    principal = await _looked_up(state.credentials, connection, token)
    if principal is None:
        principal = await authenticate(state.verifier, token, state.revocations)
    else:
        state.revocations.check(principal)
    # No await from that check on: a socket, which is registered before, is told of what is revoked
    # later.
    connection.state.principal = principal
    if (
        principal.scopes is not None
        and not state.access(connection.scope["endpoint"]).takes_limited
    ):
        raise InsufficientScope("This is open to no key, and to no token that is limited.")
    return principal


async def _looked_up(
    credentials: Sequence[Credential], connection: HTTPConnection, token: str | None
) -> Principal | None:
    for credential in credentials:
        if principal := await credential(connection, token):
            return principal
    return None


CurrentUser = Annotated[Principal, Depends(current_user)]
"""Whoever asks, signed in."""


def has_role(role: str) -> Callable[..., Awaitable[Principal]]:
    """A guard for whoever has `role`: `Annotated[Principal, Depends(has_role("admin"))]`."""

    @asks(Access(roles=frozenset({role})))
    @raises(Forbidden)
    async def guard(user: CurrentUser) -> Principal:
        if role not in user.roles:
            raise Forbidden(f"This takes the role {role}.")
        return user

    return guard


def has_scope(*names: str) -> Callable[..., Awaitable[Principal]]:
    """A guard for a credential that may do all of `names`; one that is not limited may.

    Without names it lets every credential in, whatever it is limited to.
    Raises TypeError for a scope that `scope` has not made known.
    """
    if unknown := set(names) - scopes.keys():
        raise TypeError(f"no such scope: {', '.join(sorted(unknown))}")

    @asks(Access(scopes=frozenset(names)))
    @raises(InsufficientScope)
    async def guard(user: CurrentUser) -> Principal:
        require_scope(user, *names)
        return user

    return guard


def require_scope(user: Principal, *names: str) -> None:
    """The same where there is no guard, as in a channel's handler. Raises InsufficientScope."""
    if user.scopes is not None and not user.scopes.issuperset(names):
        told = " ".join(names)
        challenge = f'Bearer error="insufficient_scope", scope="{told}"'
        raise InsufficientScope(
            f"This takes the scope {told}.", headers={"WWW-Authenticate": challenge}
        )


def proved_within(
    age: timedelta, *, second_factor: bool = False
) -> Callable[..., Awaitable[Principal]]:
    """A guard for somebody who proved who they are at most `age` ago: for what cannot be undone.

    Whoever has a second factor gave it then, since no log-in is without. With `second_factor` who
    has none is refused too. Machines, which prove nothing again, are refused.
    """
    seconds = int(age.total_seconds())

    @asks(Access(within=age, second_factor=second_factor))
    @raises(StepUpRequired)
    async def guard(user: CurrentUser) -> Principal:
        at = user.authenticated_at
        fresh = at is not None and datetime.now(UTC) - at <= age
        if not fresh or (second_factor and ONE_TIME_PASSWORD not in user.methods):
            challenge = f'Bearer error="insufficient_user_authentication", max_age="{seconds}"'
            raise StepUpRequired(headers={"WWW-Authenticate": challenge})
        return user

    return guard


Admin = Annotated[Principal, Depends(has_role("admin"))]
"""Whoever asks, signed in and an administrator."""

Fresh = Annotated[Principal, Depends(proved_within(timedelta(minutes=10)))]
"""Whoever asks, who has proved in the last ten minutes that it is them."""
