"""What can be done with accounts and sessions; each write is one unit of work."""

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import uuid4

from email_validator import validate_email
from fastapi import Depends
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.tokens import Tokens
from app.features.accounts.errors import (
    AccountGone,
    EmailTaken,
    RefreshRefused,
    RefreshReused,
    WrongCredentials,
)
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.features.accounts.passwords import Passwords
from app.features.accounts.schemas import PASSWORD_MAX, Account, SignUp, TokenPair


def email_key(address: str) -> str:
    """What two spellings of one address share: NFKC and case folded, the domain in ASCII.

    Raises ValueError (EmailNotValidError) for what is no address.
    """
    valid = validate_email(address, check_deliverability=False)
    local = unicodedata.normalize("NFKC", valid.local_part).casefold()
    return f"{unicodedata.normalize('NFKC', local)}@{valid.ascii_domain}"


@dataclass(frozen=True, slots=True)
class AccountsService:
    """Accounts and sessions, over the database."""

    db: SqlDatabase
    tokens: Tokens
    passwords: Passwords
    access_lifetime: timedelta
    session_lifetime: timedelta

    async def sign_up(self, new: SignUp) -> Account:
        """Create an account. Raises EmailTaken, also for two at the same moment."""
        password_hash = await self.passwords.hash(new.password.get_secret_value())
        user = User(
            email=new.email,
            email_key=email_key(new.email),
            name=new.name,
            password_hash=password_hash,
            roles=[],
            created_at=datetime.now(UTC),
        )
        async with self.db.unit_of_work() as uow:
            uow.add(user)
            try:
                await uow.flush()
            except IntegrityError:
                raise EmailTaken from None
        return _account(user)

    async def log_in(self, email: str, password: str) -> TokenPair:
        """Begin a session. Raises WrongCredentials, after the same work whatever is wrong."""
        async with self.db.reading() as session:
            user = await by_email(session, email)
        password = password if len(password) <= PASSWORD_MAX else ""
        right, renewed = await self.passwords.verify(password, user.password_hash if user else None)
        if not right or user is None:
            raise WrongCredentials
        now = datetime.now(UTC)
        begun = Session(
            id=uuid4().hex,
            user_id=user.id,
            created_at=now,
            expires_at=now + self.session_lifetime,
        )
        async with self.db.unit_of_work() as uow:
            forgotten = delete(Session).where(Session.user_id == user.id, Session.expires_at <= now)
            await uow.execute(forgotten)
            uow.add(begun)
            await uow.flush()
            if renewed:
                (await uow.get_one(User, user.id)).password_hash = renewed
            return self._pair(uow, user, begun)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """Trade a refresh token for a new pair; a token that was used before ends its session.

        Raises RefreshRefused, RefreshReused.
        """
        now = datetime.now(UTC)
        async with self.db.unit_of_work() as uow:
            issued = await _issued(uow, refresh_token)
            family = await uow.get(Session, issued.session_id) if issued else None
            if issued is None or family is None or family.ended_at or family.expires_at <= now:
                raise RefreshRefused
            reused = issued.used_at is not None
            if reused:
                family.ended_at = now
            else:
                issued.used_at = now
                family.expires_at = now + self.session_lifetime
                user = await uow.get_one(User, family.user_id)
                return self._pair(uow, user, family)
        # Raised out here: in the unit of work it would undo the end of the session.
        raise RefreshReused

    async def log_out(self, refresh_token: str) -> None:
        """End the session of a refresh token; one that is not known changes nothing (RFC 7009)."""
        async with self.db.unit_of_work() as uow:
            issued = await _issued(uow, refresh_token)
            family = await uow.get(Session, issued.session_id) if issued else None
            if family and not family.ended_at:
                family.ended_at = datetime.now(UTC)

    async def account(self, user_id: int) -> Account:
        """Somebody's account. Raises AccountGone."""
        async with self.db.reading() as session:
            user = await session.get(User, user_id)
        if user is None:
            raise AccountGone
        return _account(user)

    def _pair(self, uow: UnitOfWork, user: User, session: Session) -> TokenPair:
        refresh_token = secrets.token_urlsafe(32)
        uow.add(IssuedRefreshToken(digest=_digest(refresh_token), session_id=session.id))
        access_token = self.tokens.issue(
            str(user.id), name=user.name, session=session.id, roles=user.roles
        )
        return TokenPair(
            access_token=access_token,
            expires_in=int(self.access_lifetime.total_seconds()),
            refresh_token=refresh_token,
        )


def _digest(refresh_token: str) -> str:
    # 256 random bits need no salt and no slow hash.
    return hashlib.sha256(refresh_token.encode(errors="replace")).hexdigest()


def _account(user: User) -> Account:
    return Account(
        id=user.id,
        email=user.email,
        name=user.name,
        roles=tuple(user.roles),
        created_at=user.created_at,
    )


async def by_email(session: AsyncSession, email: str) -> User | None:
    """The user of an e-mail address, in any spelling of it."""
    try:
        key = email_key(email[:255])
    except ValueError:
        return None
    return await session.scalar(select(User).where(User.email_key == key))


async def _issued(uow: UnitOfWork, refresh_token: str) -> IssuedRefreshToken | None:
    # Locked, so that of two uses at one moment the second sees the first.
    return await uow.get(IssuedRefreshToken, _digest(refresh_token), with_for_update=True)


async def _accounts(connection: HTTPConnection, db: Database) -> AccountsService:
    state = connection.app.state
    settings = state.settings
    return AccountsService(
        db,
        state.tokens,
        state.passwords,
        settings.access_token_lifetime,
        settings.session_lifetime,
    )


Accounts = Annotated[AccountsService, Depends(_accounts)]
"""The accounts service, injected."""
