"""What is done with API keys; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from sqlalchemy import ColumnElement, func, select
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.mail import Mailer
from app.core.revocations import Revocations
from app.core.secrets_at_rest import digest_of
from app.features.accounts.errors import AccountGone, KeyNotFound, TooManyKeys
from app.features.accounts.keys.credential import session_of
from app.features.accounts.keys.schemas import Key, MadeKey, NewKey
from app.features.accounts.keys.secret import new_key
from app.features.accounts.models import ApiKey, User
from app.features.accounts.notices import Notice, notify
from app.features.accounts.users import unchanged

AT_MOST = 50  # good ones, of one person


@dataclass(frozen=True, slots=True)
class KeysService:
    """API keys, over the database."""

    db: SqlDatabase
    revocations: Revocations
    mail: Mailer

    async def make(self, user: Principal, new: NewKey) -> MadeKey:
        """Make a key, which is told this once. Raises AccountGone, TooManyKeys."""
        now = datetime.now(UTC)
        key, prefix = new_key()
        row = ApiKey(
            user_id=user.user_id,
            name=new.name,
            prefix=prefix,
            digest=digest_of(key),
            scopes=list(new.scopes),
            created_at=now,
            expires_at=now + timedelta(days=new.expires_in_days),
        )
        async with self.db.unit_of_work() as uow:
            # Locked, so that of two at one moment the second counts the first.
            owner = await unchanged(uow, user.user_id, exclusively=True)
            if owner is None:
                raise AccountGone
            if await good_keys(uow, owner.id) >= AT_MOST:
                raise TooManyKeys(f"There are {AT_MOST}: revoke one.")
            uow.add(row)
            await uow.flush()
            audit(
                uow,
                "key.created",
                subject=user.subject,
                key=row.id,
                scopes=row.scopes,
                name=row.name,
            )
            self._tell(uow, owner, row)
        return MadeKey(key=key, **dict(_key(row)))

    async def keys(self, user: Principal) -> list[Key]:
        """Somebody's keys, the newest first; those that were revoked are gone."""
        query = (
            select(ApiKey).where(_of(user.user_id)).order_by(ApiKey.id.desc()).limit(2 * AT_MOST)
        )
        async with self.db.reading() as session:
            return [_key(row) for row in await session.scalars(query)]

    async def revoke(self, user: Principal, key_id: int) -> None:
        """End a key, and every socket that it opened.

        Raises KeyNotFound, also for somebody else's and for one that was revoked before.
        """
        async with self.db.unit_of_work() as uow:
            found = select(ApiKey).where(ApiKey.id == key_id, _of(user.user_id)).with_for_update()
            row = await uow.scalar(found)
            if row is None:
                raise KeyNotFound
            row.revoked_at = datetime.now(UTC)
            self.revocations.revoke_session(uow, session_of(row.id), "The key was revoked.")
            audit(uow, "key.revoked", subject=user.subject, key=row.id, name=row.name)

    def _tell(self, uow: UnitOfWork, owner: User, key: ApiKey) -> None:
        notify(
            self.mail,
            uow,
            owner,
            Notice.KEY_MADE,
            key=key.name,
            prefix=key.prefix,
            scopes=", ".join(key.scopes),
            good_until=f"{key.expires_at:%d %B %Y}",
        )


async def good_keys(uow: UnitOfWork, user_id: int) -> int:
    """How many keys somebody has that are good."""
    good = _of(user_id), ApiKey.expires_at > datetime.now(UTC)
    return await uow.scalar(select(func.count()).where(*good)) or 0


def _of(user_id: int) -> ColumnElement[bool]:
    return (ApiKey.user_id == user_id) & ApiKey.revoked_at.is_(None)


def _key(row: ApiKey) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
    )


async def _keys(connection: HTTPConnection, db: Database) -> KeysService:
    state = connection.app.state
    return KeysService(db, state.revocations, state.mail)


Keys = Annotated[KeysService, Depends(_keys)]
"""The service of API keys, injected."""
