"""What is done with sessions; each write is one unit of work."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import uuid4

from fastapi import Depends
from sqlalchemy import delete
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import ONE_TIME_PASSWORD, Principal
from app.core.caller import current_caller
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.revocations import Revocations
from app.core.secrets_at_rest import digest_of
from app.core.tokens import Tokens
from app.features.accounts.errors import (
    RefreshRefused,
    RefreshReused,
    SecondFactorRequired,
    WrongCode,
    WrongCredentials,
)
from app.features.accounts.failures import log_in_failed
from app.features.accounts.fingerprints import Fingerprints
from app.features.accounts.lifetimes import Lifetimes
from app.features.accounts.locks import count_failure, is_locked, proved
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.features.accounts.passwords import PASSWORD_MAX, Passwords
from app.features.accounts.second_factors import SecondFactors, in_force
from app.features.accounts.sessions.ending import end_sessions
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.users import by_email, unchanged

PASSWORD = "pwd"  # noqa: S105 - the name of a method, RFC 8176
PROVIDER = "fed"  # a log-in at an OpenID provider; RFC 8176 has no name for it


@dataclass(frozen=True, slots=True)
class SessionsService:
    """Sessions, over the database."""

    db: SqlDatabase
    tokens: Tokens
    passwords: Passwords
    revocations: Revocations
    access_lifetime: timedelta
    lifetimes: Lifetimes
    fingerprints: Fingerprints
    second_factors: SecondFactors

    async def log_in(self, email: str, password: str, code: str | None = None) -> TokenPair:
        """Begin a session; `code` is of the second factor, for who has one.

        Raises WrongCredentials, after the same work whatever is wrong, and only for the right
        password SecondFactorRequired and WrongCode. While an account is locked or disabled its
        right password is a wrong one, and that is not told either.
        """
        async with self.db.reading() as session:
            user = await by_email(session, email)
        password = password if len(password) <= PASSWORD_MAX else ""
        right, renewed = await self.passwords.verify(password, user.password_hash if user else None)
        if not right or user is None or user.disabled_at or is_locked(user):
            await self._wrong(email, user)
            raise WrongCredentials
        async with self.db.unit_of_work() as uow:
            counted = user.failures > 0 or code is not None
            current = await unchanged(uow, user.id, exclusively=bool(renewed) or counted)
            if current is None or is_locked(current):
                raise WrongCredentials
            changed = current.password_hash != user.password_hash
            if not changed and (methods := await self.proved_by(uow, current, PASSWORD, code)):
                if counted:
                    proved(current)
                if renewed:
                    current.password_hash = renewed
                return await self.begin(uow, current, methods=methods, proved_at=datetime.now(UTC))
        if not changed:  # raised out here: in the unit of work it would undo what was counted
            raise WrongCode
        # While this one was verified it was changed, or its hash was renewed.
        return await self.log_in(email, password, code)

    async def proved_by(
        self, uow: UnitOfWork, user: User, method: str, code: str | None
    ) -> set[str]:
        """What is proved by `method` and `code`: nothing, where the code is wrong, which counts."""
        factor = await in_force(uow, user.id) if code else None
        if factor is None or code is None:
            return {method}
        if await self.second_factors.take(uow, factor, code):
            return {method, ONE_TIME_PASSWORD}
        log_in_failed(uow, subject=str(user.id), code=True)
        await count_failure(uow, user.id)
        return set()

    async def _wrong(self, email: str, user: User | None) -> None:
        """Count and record a log-in that failed, in as many statements for an unknown address."""
        async with self.db.unit_of_work() as uow:
            if user is None:
                log_in_failed(uow, fingerprint=self.fingerprints.of(email))
            else:
                log_in_failed(uow, subject=str(user.id))
            await count_failure(uow, user.id if user else None)

    async def begin(
        self, uow: UnitOfWork, user: User, *, methods: Iterable[str], proved_at: datetime | None
    ) -> TokenPair:
        """Begin a session of somebody who has proved who they are, by `methods`.

        `proved_at` is None where nobody knows when: the session is not fresh then. Raises
        SecondFactorRequired where they have a second factor and did not prove that.
        """
        methods = sorted(methods)
        if ONE_TIME_PASSWORD not in methods and await in_force(uow, user.id):
            raise SecondFactorRequired
        now = datetime.now(UTC)
        forgotten = delete(Session).where(Session.user_id == user.id, Session.expires_at <= now)
        await uow.execute(forgotten)
        caller = current_caller()
        begun = Session(
            id=uuid4().hex,
            user_id=user.id,
            agent=caller.agent,
            address=caller.address,
            methods=methods,
            authenticated_at=proved_at,
            used_at=now,
            created_at=now,
            expires_at=self.lifetimes.end(now, now),
        )
        uow.add(begun)
        await uow.flush()
        audit(uow, "session.begun", subject=str(user.id), methods=begun.methods)
        return self.pair(uow, user, begun)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Trade a refresh token for a new pair; a token that was used before ends its session.

        Raises RefreshRefused, also for a session that has lasted for as long as one may, and
        RefreshReused.
        """
        now = datetime.now(UTC)
        async with self.db.unit_of_work() as uow:
            issued, family = await self._going_on(uow, refresh_token, now)
            if issued.used_at is not None:
                self.end(uow, family, "A refresh token of it was used twice.")
            else:
                user = await unchanged(uow, family.user_id)
                if user is None:
                    raise RefreshRefused
                caller = current_caller()
                issued.used_at = family.used_at = now
                family.agent, family.address = caller.agent, caller.address
                family.expires_at = self.lifetimes.end(family.created_at, now)
                return self.pair(uow, user, family)
        # Raised out here: in the unit of work it would undo the end of the session.
        raise RefreshReused

    async def _going_on(
        self, uow: UnitOfWork, refresh_token: str, now: datetime
    ) -> tuple[IssuedRefreshToken, Session]:
        """A refresh token and its session, which goes on. Raises RefreshRefused."""
        issued = await _issued(uow, refresh_token)
        family = await uow.get(Session, issued.session_id) if issued else None
        if issued is None or family is None or family.ended_at:
            raise RefreshRefused
        if self.lifetimes.end(family.created_at, now) <= now:
            raise RefreshRefused("It has lasted for as long as a session may.")
        if family.expires_at <= now:
            raise RefreshRefused
        return issued, family

    async def log_out(self, refresh_token: str) -> None:
        """End the session of a refresh token, and revoke its access tokens.

        A token that is not known changes nothing (RFC 7009).
        """
        async with self.db.unit_of_work() as uow:
            issued = await _issued(uow, refresh_token)
            family = await uow.get(Session, issued.session_id) if issued else None
            if family and not family.ended_at:
                self.end(uow, family, "It was signed out.")

    async def log_out_everywhere(self, user: Principal) -> None:
        """End every session of whoever asks, this one too, and revoke their access tokens."""
        why = "It was signed out everywhere."
        async with self.db.unit_of_work() as uow:
            ended = await self.end_all(uow, user.user_id, why)
            if user.session not in ended:
                self.revocations.revoke_session(uow, user.session, why)

    async def end_all(
        self, uow: UnitOfWork, user_id: int, why: str, *, but: str | None = None
    ) -> Sequence[str]:
        """End all of a user's sessions, or all `but` one; returns those that had not ended."""
        return await end_sessions(uow, self.revocations, user_id, why, but=but)

    def end(self, uow: UnitOfWork, session: Session, why: str) -> None:
        """End one session, and refuse its access tokens from the commit on."""
        session.ended_at = datetime.now(UTC)
        self.revocations.revoke_session(uow, session.id, why)
        audit(uow, "session.ended", subject=str(session.user_id), sessions=[session.id], why=why)

    def pair(self, uow: UnitOfWork, user: User, session: Session) -> TokenPair:
        """A new pair of tokens of a session, which the access token does not outlast."""
        left = session.expires_at - datetime.now(UTC)
        lifetime = max(timedelta(seconds=1), min(self.access_lifetime, left))
        refresh_token = secrets.token_urlsafe(32)
        uow.add(IssuedRefreshToken(digest=digest_of(refresh_token), session_id=session.id))
        access_token = self.tokens.issue(
            str(user.id),
            name=user.name,
            session=session.id,
            roles=user.roles,
            authenticated_at=session.authenticated_at,
            methods=session.methods,
            lifetime=lifetime,
        )
        return TokenPair(
            access_token=access_token,
            expires_in=int(lifetime.total_seconds()),
            refresh_token=refresh_token,
        )


async def _issued(uow: UnitOfWork, refresh_token: str) -> IssuedRefreshToken | None:
    # Locked, so that of two uses at one moment the second sees the first.
    return await uow.get(IssuedRefreshToken, digest_of(refresh_token), with_for_update=True)


async def _sessions(connection: HTTPConnection, db: Database) -> SessionsService:
    state = connection.app.state
    settings = state.settings
    return SessionsService(
        db,
        state.tokens,
        state.passwords,
        state.revocations,
        settings.access_token_lifetime,
        state.lifetimes,
        state.fingerprints,
        state.second_factors,
    )


Sessions = Annotated[SessionsService, Depends(_sessions)]
"""The sessions service, injected."""
