"""Session cookies as requests and handshakes bring them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from app.core.auth import (
    CSRF_SUBPROTOCOL,
    Principal,
    SecurityScheme,
    described,
    invalid_token,
    offered_after,
)
from app.core.db import SqlDatabase
from app.core.errors import raises
from app.core.schemas import Schema
from app.core.secrets_at_rest import digest_of
from app.features.accounts.browser.cookie import COOKIE, check_page, check_token
from app.features.accounts.errors import CsrfFailed
from app.features.accounts.models import Session, User
from app.realtime import Channel
from app.realtime.handshake import chosen_subprotocol, first_message

CSRF_HEADER = "x-csrf-token"
CSRF_SECONDS = 10.0
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

SCHEME = SecurityScheme(
    "Cookie",
    {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A browser's session, as `POST /api/v1/auth/cookie` begins it. What is not "
        "GET also takes the header `X-CSRF-Token`.",
    },
)


class CsrfProof(Schema):
    """The data of `auth.csrf`."""

    token: str


@described(SCHEME)
@raises(CsrfFailed)
async def by_cookie(connection: HTTPConnection, token: str | None) -> Principal | None:
    """Takes the session cookie, where nothing else says who asks: a Credential.

    What could change something takes a CSRF token as well. A WebSocket has it in its handshake,
    as the subprotocols `csrf, <token>`, or a Channel's in its first frame, `auth.csrf`.
    Raises AuthenticationFailed, CsrfFailed.
    """
    secret = connection.cookies.get(COOKIE)
    if secret is None or token is not None or "authorization" in connection.headers:
        return None
    now = datetime.now(UTC)
    state = connection.app.state
    changes = isinstance(connection, WebSocket) or connection.scope["method"] not in SAFE
    if changes:
        check_page(connection)
    row = await _look_up(state.database, secret)
    if row is None or row.ended_at or row.disabled_at:
        raise invalid_token("cookie")
    expires_at = min(row.expires_at, state.lifetimes.end(row.created_at, now))
    if expires_at <= now:
        raise invalid_token("cookie")
    if isinstance(connection, WebSocket):
        await _check_socket(connection, secret)
    elif changes:
        check_token(secret, connection.headers.get(CSRF_HEADER))
    state.uses.session(row.id)
    return Principal(
        subject=str(row.user_id),
        name=row.name,
        session=row.id,
        roles=frozenset(row.roles),
        issued_at=now,
        expires_at=expires_at,
        authenticated_at=row.authenticated_at,
        methods=frozenset(row.methods),
        exact=True,
    )


async def _check_socket(websocket: WebSocket, secret: str) -> None:
    # Once for each socket: guards are asked again, and one may pass over what another is told.
    if not hasattr(websocket.state, "csrf_given"):
        websocket.state.csrf_given = await _given(websocket)
    check_token(secret, websocket.state.csrf_given)


async def _given(websocket: WebSocket) -> str | None:
    """The CSRF token that a handshake or a Channel's first frame brings."""
    given = offered_after(websocket, CSRF_SUBPROTOCOL)
    endpoint = websocket.scope["endpoint"]
    # A function accepts the handshake itself, so it has to be in there.
    if given is None and isinstance(endpoint, type) and issubclass(endpoint, Channel):
        proof = await first_message(
            websocket,
            "auth.csrf",
            CsrfProof,
            subprotocol=chosen_subprotocol(websocket, endpoint.subprotocols),
            seconds=CSRF_SECONDS,
        )
        return proof.token if proof else None
    return given


async def _look_up(db: SqlDatabase, secret: str) -> Any:
    columns = (
        Session.id,
        Session.user_id,
        Session.authenticated_at,
        Session.methods,
        Session.created_at,
        Session.expires_at,
        Session.ended_at,
        User.name,
        User.roles,
        User.disabled_at,
    )
    query = select(*columns).join(User, User.id == Session.user_id)
    async with db.reading() as session:
        found = await session.execute(query.where(Session.cookie_digest == digest_of(secret)))
        return found.one_or_none()
