"""What is done with identities at providers; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import ONE_TIME_PASSWORD, Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.errors import AppError
from app.core.mail import Mailer
from app.features.accounts.errors import (
    AccountGone,
    AddressNotVerified,
    AttemptRefused,
    EmailTaken,
    IdentityNotFound,
    IdentityTaken,
    LastIdentity,
    LinkFirst,
    ProofRefused,
    ProviderRefused,
    SecondFactorRequired,
    WrongCode,
)
from app.features.accounts.failures import log_in_failed
from app.features.accounts.locks import is_locked, proved
from app.features.accounts.models import Identity, Session, User
from app.features.accounts.notices import Notice, notify
from app.features.accounts.providers.attempts import (
    LOG_IN,
    Attempt,
    Attempts,
    Proof,
    linking,
    stepping_up,
)
from app.features.accounts.providers.client import Providers
from app.features.accounts.providers.id_token import Told
from app.features.accounts.providers.schemas import Begun, LinkedIdentity, Proved, Return
from app.features.accounts.second_factors import in_force
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.sessions.service import PROVIDER, Sessions, SessionsService
from app.features.accounts.step_up.service import StepUp, StepUpService
from app.features.accounts.users import by_email, new_user, say_taken, unchanged

AT_MOST = 100  # that are listed


@dataclass(frozen=True, slots=True)
class IdentitiesService:
    """Who people are at providers, over the database."""

    db: SqlDatabase
    providers: Providers
    attempts: Attempts
    sessions: SessionsService
    step_ups: StepUpService
    mail: Mailer

    async def begin(self, name: str, purpose: str = LOG_IN, *, again: bool = False) -> Begun:
        """Begin at a provider; `again` asks for a new log-in there.

        Raises ProviderNotFound, Unavailable.
        """
        provider = self.providers.named(name)
        attempt, sealed = self.attempts.begin(name, purpose)
        return Begun(url=await provider.address(attempt, again=again), attempt=sealed)

    async def prove(self, name: str, given: Return) -> Proved:
        """What begins a session, for who has come back from a provider to log in.

        Who comes for the first time, with an address that the provider has verified and nobody
        has here, gets an account. Raises ProviderNotFound, AttemptRefused, ProviderRefused,
        AddressNotVerified, LinkFirst and Unavailable.
        """
        self.providers.named(name)
        attempt = self._opened(given, LOG_IN)
        if attempt.provider != name:
            raise AttemptRefused
        try:
            told = await self._told(attempt, given)
            try:
                return await self._proved(told)
            except (EmailTaken, LinkFirst):  # or another request of theirs was faster
                return await self._proved(told)
        except (ProviderRefused, AddressNotVerified, LinkFirst) as refused:
            async with self.db.unit_of_work() as uow:
                log_in_failed(uow, provider=name, why=refused.code)
            raise

    async def _proved(self, told: Told) -> Proved:
        async with self.db.unit_of_work() as uow:
            identity = await _linked(uow, told)
            if identity is None:
                identity = await _first_time(uow, told)
            needed = await in_force(uow, identity.user_id) is not None
        return Proved(
            proof=self.attempts.prove(identity.id, told.authenticated_at), second_factor=needed
        )

    async def log_in(self, proof: Proof, code: str | None = None) -> TokenPair:
        """Begin a session by a proof, which is used up by it; `code` is of the second factor.

        Raises SecondFactorRequired, WrongCode, which counts, and ProofRefused: also for an account
        that is locked or disabled.
        """
        refused: AppError = ProofRefused()
        async with self.db.unit_of_work() as uow:
            user = await _owner_of(uow, proof.identity)
            # After its owner, as everywhere: with what was used meanwhile.
            identity = await uow.get(Identity, proof.identity, with_for_update=True)
            if user is None or identity is None or is_locked(user) or _was_used(identity, proof):
                subject = str(identity.user_id) if identity else None
                log_in_failed(uow, subject=subject, why=refused.code)
            else:
                methods = await self.sessions.proved_by(uow, user, PROVIDER, code)
                if methods:
                    identity.proof_used_at = proof.at
                    proved(user)
                    # An hours-old log-in at the provider is no fresh proof here; a code is.
                    coded = ONE_TIME_PASSWORD in methods
                    proved_at = datetime.now(UTC) if coded else proof.authenticated_at
                    return await self.sessions.begin(
                        uow, user, methods=methods, proved_at=proved_at
                    )
                refused = WrongCode()
        raise refused  # out here: in the unit of work it would undo what was counted

    async def step_up(self, user: Principal, given: Return) -> TokenPair | None:
        """New tokens of the session of whoever asks, who has logged in at the provider again.

        None where the session is in a cookie. Raises what StepUpService.prove_by does, and
        AttemptRefused, ProviderRefused, Unavailable, and SecondFactorRequired for who has one.
        """
        attempt = self._opened(given, stepping_up(user))
        told = await self._told(attempt, given)
        provider = self.providers.named(attempt.provider)
        since = int(attempt.begun_at) - provider.leeway
        if told.authenticated_at is None or told.authenticated_at < since:
            raise ProviderRefused("The provider does not say that you have logged in just now.")

        async def check(uow: UnitOfWork, current: User, session: Session) -> AppError | None:
            identity = await _linked(uow, told)
            if identity is None or identity.user_id != current.id:
                raise ProviderRefused("That is not linked to this account.")
            if await in_force(uow, current.id):
                raise SecondFactorRequired
            session.methods = sorted({*session.methods, PROVIDER} - {ONE_TIME_PASSWORD})
            return None

        return await self.step_ups.prove_by(user, check)

    async def link(self, user: Principal, given: Return) -> LinkedIdentity:
        """Link who has come back from a provider to the account of whoever asks.

        Raises AttemptRefused, ProviderRefused, Unavailable, AccountGone, IdentityTaken.
        """
        attempt = self._opened(given, linking(user))
        told = await self._told(attempt, given)
        async with self.db.unit_of_work() as uow:
            owner = await unchanged(uow, user.user_id, exclusively=True)
            if owner is None:
                raise AccountGone
            identity = await _linked(uow, told)
            if identity is None:
                try:
                    identity = await _link(uow, owner, told)
                except IntegrityError:
                    raise IdentityTaken from None
                label = self._shown(identity).label
                notify(self.mail, uow, owner, Notice.IDENTITY_LINKED, provider=label)
            elif identity.user_id != owner.id:
                raise IdentityTaken
        return self._shown(identity)

    async def linked(self, user: Principal) -> list[LinkedIdentity]:
        """The identities that are linked to the account of whoever asks."""
        theirs = select(Identity).where(Identity.user_id == user.user_id)
        async with self.db.reading() as session:
            found = await session.scalars(theirs.order_by(Identity.id).limit(AT_MOST))
            return [self._shown(each) for each in found]

    async def unlink(self, user: Principal, identity_id: int) -> None:
        """Take a link away; all sessions end but the one that asks.

        Raises AccountGone, IdentityNotFound, and LastIdentity where nothing else lets them in.
        """
        async with self.db.unit_of_work() as uow:
            owner = await unchanged(uow, user.user_id, exclusively=True)
            if owner is None:
                raise AccountGone
            identity = await uow.get(Identity, identity_id, with_for_update=True)
            if identity is None or identity.user_id != owner.id:
                raise IdentityNotFound
            mine = select(func.count()).where(Identity.user_id == owner.id)
            if not owner.password_hash and await uow.scalar(mine) == 1:
                raise LastIdentity
            await uow.delete(identity)
            audit(uow, "identity.unlinked", subject=user.subject, issuer=identity.issuer)
            label = self._shown(identity).label
            notify(self.mail, uow, owner, Notice.IDENTITY_UNLINKED, provider=label)
            why = "A link to a provider was removed."
            await self.sessions.end_all(uow, owner.id, why, but=user.session)

    def _opened(self, given: Return, purpose: str) -> Attempt:
        return self.attempts.opened(given.attempt.get_secret_value(), purpose, given.state)

    async def _told(self, attempt: Attempt, given: Return) -> Told:
        provider = self.providers.named(attempt.provider)
        return await provider.told(attempt, given.code.get_secret_value(), given.iss)

    def _shown(self, identity: Identity) -> LinkedIdentity:
        provider = self.providers.at(identity.issuer)
        return LinkedIdentity(
            id=identity.id,
            provider=provider.name if provider else None,
            label=provider.known.label if provider else urlsplit(identity.issuer).netloc,
            email=identity.email,
            created_at=identity.created_at,
        )


async def _linked(session: AsyncSession, told: Told) -> Identity | None:
    """The identity that the provider speaks of, if it is linked to anybody."""
    at = Identity.issuer == told.issuer, Identity.subject == told.subject
    found: Identity | None = await session.scalar(select(Identity).where(*at))
    return found


async def _first_time(uow: UnitOfWork, told: Told) -> Identity:
    """Make an account. Raises AddressNotVerified, LinkFirst, and EmailTaken in a race."""
    if told.email is None:
        raise AddressNotVerified
    if await by_email(uow, told.email) is not None:
        # Whoever made that account may have waited for the owner of the address to come this way.
        raise LinkFirst
    user = new_user(told.email, told.name or told.email.partition("@")[0], "")
    uow.add(user)
    await say_taken(uow)
    audit(uow, "account.created", subject=str(user.id), issuer=told.issuer)
    return await _link(uow, user, told)


async def _link(uow: UnitOfWork, user: User, told: Told) -> Identity:
    """Link somebody. Raises IntegrityError where another request has done it."""
    identity = Identity(
        user_id=user.id,
        issuer=told.issuer,
        subject=told.subject,
        email=told.email,
        created_at=datetime.now(UTC),
    )
    uow.add(identity)
    await uow.flush()
    audit(uow, "identity.linked", subject=str(user.id), issuer=told.issuer)
    return identity


def _was_used(identity: Identity, proof: Proof) -> bool:
    """Whether this proof was used, or a later one."""
    return identity.proof_used_at is not None and identity.proof_used_at >= proof.at


async def _owner_of(uow: UnitOfWork, identity_id: int) -> User | None:
    """Whose an identity is, locked until the unit of work ends, unless they are disabled."""
    whose = select(Identity.user_id).where(Identity.id == identity_id)
    user_id = await uow.scalar(whose)
    return await unchanged(uow, user_id, exclusively=True) if user_id else None


async def _identities(
    connection: HTTPConnection, db: Database, sessions: Sessions, step_ups: StepUp
) -> IdentitiesService:
    state = connection.app.state
    return IdentitiesService(
        db, state.providers, state.provider_attempts, sessions, step_ups, state.mail
    )


Identities = Annotated[IdentitiesService, Depends(_identities)]
"""The service of identities, injected."""
