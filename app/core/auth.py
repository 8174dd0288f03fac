"""Who asks: a `Principal` from a JWT, and the guards that both doors share.

A guard is a dependency. It works unchanged on a route, as a field of a Channel, and on a bare
`@router.websocket` function, and it reads no database.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordBearer
from starlette.requests import HTTPConnection

from app.core.errors import AuthenticationFailed, Forbidden, TokenExpired, raises
from app.core.tokens import Claims, Reason, TokenRefused, Tokens

LOGIN_PATH = "api/v1/auth/login"
SUBPROTOCOL = "bearer"

_authorization = OAuth2PasswordBearer(tokenUrl=LOGIN_PATH, auto_error=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as a verified token says: frozen, so that it may outlive every session."""

    subject: str
    name: str
    session: str
    roles: frozenset[str]
    expires_at: datetime

    @property
    def user_id(self) -> int:
        """The subject as the id of a local user."""
        return int(self.subject)


def authenticate(tokens: Tokens, token: str | None) -> Principal:
    """The principal that `token` proves.

    Raises:
        TokenExpired: it was valid, and is too old.
        AuthenticationFailed: there is none, or it is not valid; why is not said.
    """
    if not token:
        raise AuthenticationFailed("No token was given.")
    try:
        claims: Claims = tokens.verify(token)
    except TokenRefused as refused:
        if refused.reason is Reason.EXPIRED:
            raise TokenExpired from None
        raise AuthenticationFailed(
            "The token is not valid.", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
        ) from None
    return Principal(
        subject=claims.subject,
        name=claims.name,
        session=claims.session,
        roles=claims.roles,
        expires_at=claims.expires_at,
    )


def _subprotocol_token(connection: HTTPConnection) -> str | None:
    """A browser cannot set headers on a WebSocket: it offers the protocols `bearer, <token>`."""
    offered: list[str] = connection.scope.get("subprotocols", [])
    if SUBPROTOCOL not in offered:
        return None
    following = offered[offered.index(SUBPROTOCOL) + 1 :]
    return following[0] if following else None


@raises(AuthenticationFailed, TokenExpired)
async def current_user(
    connection: HTTPConnection, bearer: Annotated[str | None, Depends(_authorization)]
) -> Principal:
    """The principal of a request or a handshake; never from the query, which gets logged."""
    # A WebSocket that has refreshed its token holds the new one; its headers have the old.
    refreshed: str | None = getattr(connection.state, "token", None)
    token = refreshed or bearer or _subprotocol_token(connection)
    principal = authenticate(connection.app.state.tokens, token)
    connection.state.principal = principal
    return principal


CurrentUser = Annotated[Principal, Depends(current_user)]
"""Whoever asks, signed in."""


def has_role(role: str) -> Callable[..., Awaitable[Principal]]:
    """A guard for whoever has `role`: `Annotated[Principal, Depends(has_role("admin"))]`."""

    @raises(Forbidden)
    async def guard(user: CurrentUser) -> Principal:
        if role not in user.roles:
            raise Forbidden(f"This takes the role {role}.")
        return user

    return guard


Admin = Annotated[Principal, Depends(has_role("admin"))]
"""Whoever asks, signed in and an administrator."""
