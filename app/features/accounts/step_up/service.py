"""A new proof of who asks: the session is as fresh then as after its log-in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import select, update
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import ONE_TIME_PASSWORD, Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.errors import AppError, InvalidParameter, SessionRevoked
from app.features.accounts.errors import (
    AccountGone,
    SecondFactorRequired,
    WrongCode,
    WrongPassword,
)
from app.features.accounts.locks import check_unlocked, count_failure, proved
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.features.accounts.passwords import Passwords
from app.features.accounts.second_factors import SecondFactors, in_force
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.sessions.service import PASSWORD, Sessions, SessionsService
from app.features.accounts.step_up.schemas import Proof
from app.features.accounts.users import unchanged

Check = Callable[[UnitOfWork, User, Session], Awaitable[AppError | None]]


@dataclass(frozen=True, slots=True)
class StepUpService:
    """Step-up, over the database."""

    db: SqlDatabase
    passwords: Passwords
    second_factors: SecondFactors
    sessions: SessionsService

    async def prove(self, user: Principal, proof: Proof) -> TokenPair | None:
        """New tokens of the session of whoever asks; None where it is in a cookie.

        Raises AccountGone, SessionRevoked, Overloaded; AccountLocked while the account takes no
        proof; SecondFactorRequired and InvalidParameter for the wrong kind of proof, which counts
        as none; WrongCode and WrongPassword, which count as log-ins that failed.
        """
        verified = await self._verified_hash(user, proof)

        async def check(uow: UnitOfWork, current: User, session: Session) -> AppError | None:
            right = verified is not None and verified == current.password_hash
            return await self._check(uow, current, session, proof, right)

        return await self.prove_by(user, check)

    async def prove_by(self, user: Principal, check: Check) -> TokenPair | None:
        """The same, where `check` looks at the proof of whoever asks, in the unit of work.

        It returns what is wrong, which counts as a log-in that failed; or None, once it has given
        the session the methods of now. What it raises is raised, and does not count.
        """
        async with self.db.unit_of_work() as uow:
            await _lock_tokens(uow, user.session)
            current = await unchanged(uow, user.user_id, exclusively=True)
            if current is None:
                raise AccountGone
            check_unlocked(current)
            session = await uow.get(Session, user.session, with_for_update=True)
            if session is None or session.ended_at or session.user_id != current.id:
                raise SessionRevoked
            refused = await check(uow, current, session)
            if refused is None:
                proved(current)
                session.authenticated_at = datetime.now(UTC)
                audit(uow, "step_up.proved", subject=user.subject, methods=session.methods)
                return await self._renewed(uow, current, session)
            await count_failure(uow, current.id)
            audit(uow, "step_up.failed", subject=user.subject)
        raise refused  # out here: in the unit of work it would undo what was counted

    async def _verified_hash(self, user: Principal, proof: Proof) -> str | None:
        """The hash that the password is right for, if it is given and right."""
        if proof.password is None:
            return None
        async with self.db.reading() as session:
            account = await session.get(User, user.user_id)
        if account is None:
            raise AccountGone
        check_unlocked(account)
        stored = account.password_hash
        right, _ = await self.passwords.verify(proof.password.get_secret_value(), stored)
        return stored if right else None

    async def _check(
        self, uow: UnitOfWork, user: User, session: Session, proof: Proof, right: bool
    ) -> AppError | None:
        """Why the proof is refused, or None: then the session's methods are those of now."""
        if factor := await in_force(uow, user.id):
            if proof.code is None:
                raise SecondFactorRequired
            if not await self.second_factors.take(uow, factor, proof.code):
                return WrongCode()
            session.methods = sorted({*session.methods, ONE_TIME_PASSWORD})
            return None
        if proof.password is None:
            missing = "There is no second factor: give the password"
            raise InvalidParameter(
                errors=[{"loc": ["body", "password"], "msg": missing, "type": "missing"}]
            )
        if not right:
            return WrongPassword()
        # A second factor that was removed is nothing that has been proved again.
        session.methods = sorted({*session.methods, PASSWORD} - {ONE_TIME_PASSWORD})
        return None

    async def _renewed(self, uow: UnitOfWork, user: User, session: Session) -> TokenPair | None:
        if session.cookie_digest is not None:
            return None
        # Who has a copy of the refresh token must not share in the proof, and is found out.
        unused = (
            IssuedRefreshToken.session_id == session.id,
            IssuedRefreshToken.used_at.is_(None),
        )
        now = datetime.now(UTC)
        await uow.execute(update(IssuedRefreshToken).where(*unused).values(used_at=now))
        return self.sessions.pair(uow, user, session)


async def _lock_tokens(uow: UnitOfWork, session: str) -> None:
    # Before the user, as a refresh does it: in two orders they would wait for each other.
    unused = IssuedRefreshToken.session_id == session, IssuedRefreshToken.used_at.is_(None)
    await uow.execute(select(IssuedRefreshToken.digest).where(*unused).with_for_update())


async def _step_up(connection: HTTPConnection, db: Database, sessions: Sessions) -> StepUpService:
    state = connection.app.state
    return StepUpService(db, state.passwords, state.second_factors, sessions)


StepUp = Annotated[StepUpService, Depends(_step_up)]
"""The service of step-up, injected."""
