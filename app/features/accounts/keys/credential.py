"""API keys as requests and handshakes bring them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from starlette.requests import HTTPConnection

from app.core.auth import Principal, SecurityScheme, described, invalid_token
from app.core.db import SqlDatabase
from app.core.secrets_at_rest import digest_of
from app.features.accounts.keys.secret import MARK, is_well_formed
from app.features.accounts.models import ApiKey, User

SCHEME = SecurityScheme(
    "ApiKey",
    {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": f"{MARK}…",
        "description": "An API key. It does what its owner may, as far as its scopes go:",
    },
    limited=True,
)


@described(SCHEME)
async def by_key(connection: HTTPConnection, token: str | None) -> Principal | None:
    """Takes API keys, from wherever a token may come: a Credential.

    A key acts as its owner, who is looked up each time, and has those of the owner's roles that
    its scopes name. Raises AuthenticationFailed.
    """
    if token is None or not token.startswith(MARK):
        return None
    now = datetime.now(UTC)
    state = connection.app.state
    row = await _look_up(state.database, token) if is_well_formed(token) else None
    if row is None or row.revoked_at or row.disabled_at or row.expires_at <= now:
        raise invalid_token("key")
    state.uses.key(row.id)
    scopes = frozenset(row.scopes)
    return Principal(
        subject=str(row.user_id),
        name=row.user_name,
        session=session_of(row.id),
        roles=frozenset(row.roles) & scopes,
        issued_at=now,
        expires_at=row.expires_at,
        scopes=scopes,
        exact=True,
    )


def session_of(key_id: int) -> str:
    """What revocations know a key by."""
    return f"key:{key_id}"


async def _look_up(db: SqlDatabase, key: str) -> Any:
    columns = (
        ApiKey.id,
        ApiKey.user_id,
        ApiKey.scopes,
        ApiKey.expires_at,
        ApiKey.revoked_at,
        User.name.label("user_name"),
        User.roles,
        User.disabled_at,
    )
    query = select(*columns).join(User, User.id == ApiKey.user_id)
    async with db.reading() as session:
        found = await session.execute(query.where(ApiKey.digest == digest_of(key)))
        return found.one_or_none()
