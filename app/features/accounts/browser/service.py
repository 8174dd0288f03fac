"""What is done with browsers' sessions; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Depends
from sqlalchemy import delete, select

from app.core.db import Database, SqlDatabase
from app.core.secrets_at_rest import digest_of
from app.features.accounts.browser.cookie import new_secret
from app.features.accounts.models import IssuedRefreshToken, Session
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.sessions.service import Sessions, SessionsService


@dataclass(frozen=True, slots=True)
class BrowserSessionsService:
    """Sessions that a cookie stands for, over the database."""

    db: SqlDatabase
    sessions: SessionsService

    async def keep(self, pair: TokenPair) -> tuple[str, int]:
        """Have a cookie stand for a session that has just begun; its refresh token is void then.

        Returns the cookie's secret, which is stored nowhere, and the id of whose session it is.
        """
        claims = self.sessions.tokens.verify(pair.access_token)
        secret = new_secret()
        async with self.db.unit_of_work() as uow:
            begun = await uow.get_one(Session, claims.session, with_for_update=True)
            begun.cookie_digest = digest_of(secret)
            mine = IssuedRefreshToken.session_id == begun.id
            await uow.execute(delete(IssuedRefreshToken).where(mine))
        return secret, begun.user_id

    async def is_running(self, secret: str) -> bool:
        """Whether a cookie's session goes on."""
        query = select(Session.id).where(
            Session.cookie_digest == digest_of(secret),
            Session.ended_at.is_(None),
            Session.expires_at > datetime.now(UTC),
        )
        async with self.db.reading() as session:
            return await session.scalar(query) is not None

    async def left(self, secret: str) -> timedelta:
        """How long a cookie's session goes on if it is not used again."""
        query = select(Session.created_at).where(Session.cookie_digest == digest_of(secret))
        async with self.db.reading() as session:
            begun = await session.scalar(query)
        now = datetime.now(UTC)
        return self.sessions.lifetimes.end(begun, now) - now if begun else timedelta(0)

    async def log_out(self, secret: str) -> None:
        """End the session of a cookie, with its sockets. One that is not known changes nothing."""
        mine = Session.cookie_digest == digest_of(secret)
        async with self.db.unit_of_work() as uow:
            found = await uow.scalar(select(Session).where(mine).with_for_update())
            if found and not found.ended_at:
                self.sessions.end(uow, found, "It was signed out.")


async def _browser_sessions(db: Database, sessions: Sessions) -> BrowserSessionsService:
    return BrowserSessionsService(db, sessions)


BrowserSessions = Annotated[BrowserSessionsService, Depends(_browser_sessions)]
"""The service of browsers' sessions, injected."""
