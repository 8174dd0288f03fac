"""The end of somebody's sessions: every way to it is this one."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import update

from app.core.audit import audit
from app.core.db import UnitOfWork
from app.core.revocations import Revocations
from app.features.accounts.models import Session

AUDITED = 100  # sessions that one entry of the audit log names


async def end_sessions(
    uow: UnitOfWork,
    revocations: Revocations,
    user_id: int,
    why: str,
    *,
    but: str | None = None,
    actor: str | None = None,
) -> Sequence[str]:
    """End all of a user's sessions, or all `but` one; returns those that had not ended.

    Their access tokens are refused, and their sockets closed, once `uow` has committed. `actor` is
    who does it, where that is somebody else.
    """
    running = update(Session).where(Session.user_id == user_id, Session.ended_at.is_(None))
    if but is not None:
        running = running.where(Session.id != but)
    ending = running.values(ended_at=datetime.now(UTC)).returning(Session.id)
    ended = (await uow.scalars(ending)).all()
    for session in ended:
        # Each by name: a token that is being issued right now may say a later time.
        revocations.revoke_session(uow, session, why)
    if ended:
        audit(
            uow,
            "session.ended",
            subject=str(user_id),
            actor=actor,
            sessions=list(ended[:AUDITED]),
            all=len(ended),
            why=why,
        )
    return ended
