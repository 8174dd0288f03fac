"""What somebody does with the sessions they have; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import func, select

from app.core.auth import Principal
from app.core.db import Database, SqlDatabase
from app.core.errors import NotFound
from app.features.accounts.models import Session
from app.features.accounts.session_list.devices import device
from app.features.accounts.session_list.schemas import ListedSession, SessionList
from app.features.accounts.sessions.service import Sessions, SessionsService

LISTED = 100  # who has more ends the others all at once


@dataclass(frozen=True, slots=True)
class SessionListService:
    """The sessions of one person, over the database."""

    db: SqlDatabase
    sessions: SessionsService

    async def listed(self, user: Principal) -> SessionList:
        """The hundred sessions of whoever asks that were used last, and the one that asks."""
        used_at = func.coalesce(Session.used_at, Session.created_at)
        going_on = (
            select(Session)
            .where(
                Session.user_id == user.user_id,
                Session.ended_at.is_(None),
                Session.expires_at > datetime.now(UTC),
            )
            .order_by(Session.id != user.session, used_at.desc(), Session.id)
            .limit(LISTED)
        )
        async with self.db.reading() as session:
            found = (await session.scalars(going_on)).all()
        return SessionList(items=[_listed(each, user) for each in found])

    async def end(self, user: Principal, session_id: str) -> None:
        """End one session of whoever asks. Raises NotFound, also for somebody else's."""
        async with self.db.unit_of_work() as uow:
            session = await uow.get(Session, session_id, with_for_update=True)
            if session is None or session.user_id != user.user_id or session.ended_at:
                raise NotFound
            self.sessions.end(uow, session, "It was ended from another session.")

    async def end_others(self, user: Principal) -> None:
        """End all sessions of whoever asks but the one that asks."""
        async with self.db.unit_of_work() as uow:
            why = "It was ended from another session."
            await self.sessions.end_all(uow, user.user_id, why, but=user.session)


def _listed(session: Session, user: Principal) -> ListedSession:
    return ListedSession(
        id=session.id,
        device=device(session.agent),
        address=session.address,
        created_at=session.created_at,
        used_at=session.used_at or session.created_at,
        methods=session.methods,
        current=session.id == user.session,
    )


async def _session_list(db: Database, sessions: Sessions) -> SessionListService:
    return SessionListService(db, sessions)


OwnSessions = Annotated[SessionListService, Depends(_session_list)]
"""The service of somebody's sessions, injected."""
