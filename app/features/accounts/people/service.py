"""What people do with their accounts; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import select
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.jobs import JobQueue
from app.core.mail import Mailer
from app.features.accounts.errors import (
    AccountGone,
    LastAdministrator,
    LinkRefused,
    WrongPassword,
)
from app.features.accounts.keys.service import good_keys
from app.features.accounts.locks import check_unlocked, count_failure
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.features.accounts.notices import Notice, notify
from app.features.accounts.passwords import Passwords
from app.features.accounts.people.deliverability import Deliverability
from app.features.accounts.people.guessable import refuse_guessable
from app.features.accounts.people.links import LinkWanted, Purpose, look_at, use, void
from app.features.accounts.people.schemas import Account, Confirmed, NewAddress
from app.features.accounts.roles import administrators
from app.features.accounts.sessions.service import PASSWORD, Sessions, SessionsService
from app.features.accounts.users import new_user, say_taken, unchanged


@dataclass(frozen=True, slots=True)
class PeopleService:
    """Accounts, over the database."""

    db: SqlDatabase
    passwords: Passwords
    sessions: SessionsService
    deliverability: Deliverability
    jobs: JobQueue
    mail: Mailer

    async def account(self, user_id: int) -> Account:
        """Somebody's account. Raises AccountGone."""
        async with self.db.reading() as session:
            user = await session.get(User, user_id)
        if user is None:
            raise AccountGone
        return _account(user)

    async def ask_to_sign_up(self, new: NewAddress) -> str:
        """Have a link mailed to choose a password with; returns the name of the mail.

        Whether there is an account makes no difference here. Raises InvalidParameter where the
        address takes no mail.
        """
        await self.deliverability.check(new.email)
        return await self._ask_for(Purpose.SIGN_UP, new.email, called=new.name)

    async def confirm(self, token: str, password: str) -> Confirmed:
        """Create the account that a mailed link is for, and begin its first session.

        Raises LinkRefused, InvalidParameter for a password that is guessed first, EmailTaken where
        another link to the address was faster, and Overloaded.
        """
        async with self.db.reading() as session:
            link = await look_at(session, Purpose.SIGN_UP, token)
        refuse_guessable(password, "password", link.email, link.name)
        password_hash = await self.passwords.hash(password)
        async with self.db.unit_of_work() as uow:
            await use(uow, Purpose.SIGN_UP, token)
            user = new_user(link.email, link.name, password_hash)
            uow.add(user)
            await say_taken(uow)
            audit(uow, "account.created", subject=str(user.id))
            pair = await self.sessions.begin(
                uow, user, methods={PASSWORD}, proved_at=datetime.now(UTC)
            )
        return Confirmed(account=_account(user), **pair.model_dump())

    async def forgot(self, email: str) -> str:
        """Have a link mailed to choose another password with; returns the name of the mail.

        Whether there is an account makes no difference here.
        """
        return await self._ask_for(Purpose.RESET_PASSWORD, email)

    async def reset(self, token: str, password: str) -> int:
        """Set the password of whoever a mailed link is for, and end all their sessions.

        Returns how many API keys they have, which stay good. Raises LinkRefused, InvalidParameter
        for a password that is guessed first, Overloaded.
        """
        async with self.db.reading() as session:
            link = await look_at(session, Purpose.RESET_PASSWORD, token)
            owner = await session.get(User, link.user_id)
        about = (owner.email, owner.name) if owner else ()
        refuse_guessable(password, "password", *about)
        password_hash = await self.passwords.hash(password)
        async with self.db.unit_of_work() as uow:
            user = await _owner_of(uow, link.user_id)
            await use(uow, Purpose.RESET_PASSWORD, token)
            user.failures, user.locked_until = 0, None  # whoever guesses has lost
            keys = await self._set_password(uow, user, password_hash, Notice.PASSWORD_RESET)
            audit(uow, "password.reset", subject=str(user.id))
            await self.sessions.end_all(uow, user.id, "The password was reset.")
        return keys

    async def change_password(self, user: Principal, current: str, new: str) -> None:
        """Set another password, and end all sessions but the one that asks.

        Raises AccountGone, WrongPassword, AccountLocked, InvalidParameter for a password that is
        guessed first, and Overloaded.
        """
        before = await self._proved(user, current)
        refuse_guessable(new, "new", before.email, before.name)
        password_hash = await self.passwords.hash(new)
        async with self.db.unit_of_work() as uow:
            owner = await _still(uow, before)
            await self._set_password(uow, owner, password_hash, Notice.PASSWORD_CHANGED)
            audit(uow, "password.changed", subject=user.subject)
            why = "The password was changed."
            await self.sessions.end_all(uow, owner.id, why, but=user.session)

    async def ask_to_change_email(self, user: Principal, email: str, password: str) -> str:
        """Have a link mailed to another address, which confirms it; returns the mail's name.

        Whether somebody has it makes no difference here. Raises AccountGone, WrongPassword,
        AccountLocked, Overloaded, and InvalidParameter where the address takes no mail.
        """
        await self._proved(user, password)
        await self.deliverability.check(email)
        return await self._ask_for(Purpose.CHANGE_EMAIL, email, user_id=user.user_id)

    async def confirm_email(self, token: str) -> None:
        """Let a mailed link's address be that of the account which it is for.

        Both addresses are told. Raises LinkRefused, and EmailTaken where the address has
        become somebody's meanwhile.
        """
        async with self.db.reading() as session:
            link = await look_at(session, Purpose.CHANGE_EMAIL, token)
        async with self.db.unit_of_work() as uow:
            user = await _owner_of(uow, link.user_id)
            await use(uow, Purpose.CHANGE_EMAIL, token)
            before = user.email
            user.email, user.email_key = link.email, link.email_key
            await say_taken(uow)
            await void(uow, user)
            audit(uow, "email.changed", subject=str(user.id))
            notify(self.mail, uow, user, Notice.EMAIL_CHANGED, to=before)
            notify(self.mail, uow, user, Notice.EMAIL_CONFIRMED)

    async def rename(self, user_id: int, name: str) -> Account:
        """Give somebody another name, which tokens have from the next on. Raises AccountGone."""
        async with self.db.unit_of_work() as uow:
            user = await unchanged(uow, user_id, exclusively=True)
            if user is None:
                raise AccountGone
            user.name = name
        return _account(user)

    async def delete(self, user: Principal, password: str) -> None:
        """Remove an account with all that is its own; the audit log keeps what was done.

        Raises AccountGone, WrongPassword, AccountLocked, LastAdministrator, Overloaded.
        """
        before = await self._proved(user, password)
        async with self.db.unit_of_work() as uow:
            await _lock_tokens(uow, before.id)
            if await administrators(uow) == {before.id}:
                raise LastAdministrator
            owner = await _still(uow, before)
            why = "The account was deleted."
            await self.sessions.end_all(uow, owner.id, why)
            self.sessions.revocations.revoke_subject(uow, user.subject, why)
            audit(uow, "account.deleted", subject=user.subject)
            notify(self.mail, uow, owner, Notice.ACCOUNT_DELETED)
            await uow.delete(owner)

    async def _ask_for(
        self, purpose: Purpose, email: str, *, called: str = "", user_id: int | None = None
    ) -> str:
        name = self.mail.new_name()
        wanted = LinkWanted(purpose=purpose, email=email, called=called, user_id=user_id, mail=name)
        async with self.db.unit_of_work() as uow:
            self.jobs.enqueue(uow, wanted)
        return name

    async def _proved(self, user: Principal, password: str) -> User:
        """Whoever asks, if the password is theirs; a wrong one counts as at a log-in.

        A right one lets nobody begin to count anew: who has a second factor was not asked for it.
        """
        async with self.db.reading() as session:
            owner = await session.get(User, user.user_id)
        if owner is None:
            raise AccountGone
        check_unlocked(owner)
        right, _ = await self.passwords.verify(password, owner.password_hash)
        if right:
            return owner
        async with self.db.unit_of_work() as uow:
            audit(uow, "password.wrong", subject=user.subject)
            await count_failure(uow, owner.id)
        raise WrongPassword

    async def _set_password(
        self, uow: UnitOfWork, user: User, password_hash: str, notice: Notice
    ) -> int:
        """Set a password and tell; how many API keys stay good."""
        user.password_hash = password_hash
        await void(uow, user)
        keys = await good_keys(uow, user.id)
        notify(self.mail, uow, user, notice, keys=keys)
        return keys


async def _owner_of(uow: UnitOfWork, user_id: int | None) -> User:
    """Whom a link belongs to, locked before the link is. Raises LinkRefused."""
    user = await unchanged(uow, user_id, exclusively=True) if user_id else None
    if user is None:
        raise LinkRefused
    return user


async def _still(uow: UnitOfWork, proved: User) -> User:
    """Who has given the right password, locked. Raises WrongPassword if it is another one now."""
    owner = await unchanged(uow, proved.id, exclusively=True)
    if owner is None:
        raise AccountGone
    check_unlocked(owner)
    if owner.password_hash != proved.password_hash:
        raise WrongPassword
    return owner


async def _lock_tokens(uow: UnitOfWork, user_id: int) -> None:
    # They go with the account. A refresh locks its token before the user: in another order the two
    # would wait for each other.
    theirs = select(Session.id).where(Session.user_id == user_id)
    tokens = select(IssuedRefreshToken.digest).where(IssuedRefreshToken.session_id.in_(theirs))
    await uow.execute(tokens.with_for_update())


def _account(user: User) -> Account:
    return Account(
        id=user.id,
        email=user.email,
        name=user.name,
        roles=tuple(user.roles),
        has_password=bool(user.password_hash),
        created_at=user.created_at,
    )


async def _people(connection: HTTPConnection, db: Database, sessions: Sessions) -> PeopleService:
    state = connection.app.state
    return PeopleService(
        db, state.passwords, sessions, state.deliverability, state.jobs, state.mail
    )


People = Annotated[PeopleService, Depends(_people)]
"""The service of people's accounts, injected."""
