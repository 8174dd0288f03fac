"""What is done with other people's accounts; each write is one unit of work.

`by` is the administrator who does it, None where an operator does: at the command line nobody is
kept from anything, since a command also makes the next administrator.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import ColumnElement, Select, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.mail import Mailer
from app.core.revocations import Revocations
from app.core.schemas import Page, following
from app.features.accounts.administration.schemas import AccountQuery, AdministeredAccount
from app.features.accounts.errors import (
    AccountNotFound,
    LastAdministrator,
    NoSecondFactor,
    NotToOneself,
)
from app.features.accounts.keys.credential import session_of
from app.features.accounts.locks import is_locked
from app.features.accounts.models import ApiKey, SecondFactor, Session, User, folded
from app.features.accounts.notices import Notice, notify
from app.features.accounts.roles import ADMIN, administrators
from app.features.accounts.second_factors import in_force, remove_second_factor
from app.features.accounts.sessions.ending import end_sessions
from app.features.accounts.users import by_email, email_key, new_user, say_taken

DISABLED = "The account was disabled."
FACTOR_REMOVED = "The second factor was removed."
ROLES_CHANGED = "Roles have changed: refresh the token."


@dataclass(frozen=True, slots=True)
class AdministrationService:
    """Other people's accounts, over the database."""

    db: SqlDatabase
    revocations: Revocations
    mail: Mailer

    async def accounts(self, query: AccountQuery) -> Page[AdministeredAccount]:
        """The accounts that a query is about, the newest first."""
        found = _seen(datetime.now(UTC)).order_by(User.id.desc()).limit(query.limit + 1)
        if query.search is not None:
            found = found.where(_begins_with(query.search))
        if query.after is not None:
            found = found.where(User.id < query.after)
        async with self.db.reading() as session:
            rows = (await session.execute(found)).all()
        accounts = [_account(*row) for row in rows]
        return Page(items=accounts[: query.limit], next=following(accounts, query.limit))

    async def account(self, user_id: int) -> AdministeredAccount:
        """One account. Raises AccountNotFound."""
        async with self.db.reading() as session:
            return await _shown(session, user_id)

    async def id_of(self, email: str) -> int:
        """Whose address it is, in any spelling. Raises AccountNotFound."""
        async with self.db.reading() as session:
            user = await by_email(session, email)
        if user is None:
            raise AccountNotFound
        return user.id

    async def create(self, email: str, name: str, password_hash: str, roles: list[str]) -> int:
        """Make an account, of whose address an operator is sure. Raises EmailTaken."""
        user = new_user(email, name, password_hash, roles)
        async with self.db.unit_of_work() as uow:
            uow.add(user)
            await say_taken(uow)
            audit(uow, "account.created", subject=str(user.id), roles=roles)
        return user.id

    async def disable(self, by: Principal | None, user_id: int) -> AdministeredAccount:
        """Let somebody in no more: their sessions end and their keys are revoked, for good.

        Raises AccountNotFound, NotToOneself, LastAdministrator.
        """
        async with self.db.unit_of_work() as uow:
            active = await administrators(uow)
            user = await _locked(uow, user_id)
            _check_spares(by, user, active)
            if user.disabled_at is None:
                user.disabled_at = datetime.now(UTC)
                await self._end_sessions(uow, by, user, DISABLED)
                for key in await _revoke_keys(uow, user):
                    self.revocations.revoke_session(uow, session_of(key), DISABLED)
                audit(uow, "account.disabled", subject=str(user.id), actor=_actor(by))
                notify(self.mail, uow, user, Notice.ACCOUNT_DISABLED)
            return await _shown(uow, user.id)

    async def enable(self, by: Principal | None, user_id: int) -> AdministeredAccount:
        """Let somebody in again, who has to log in. Raises AccountNotFound."""
        async with self.db.unit_of_work() as uow:
            user = await _locked(uow, user_id)
            if user.disabled_at is not None:
                user.disabled_at = None
                audit(uow, "account.enabled", subject=str(user.id), actor=_actor(by))
                notify(self.mail, uow, user, Notice.ACCOUNT_ENABLED)
            return await _shown(uow, user.id)

    async def set_roles(
        self, by: Principal | None, user_id: int, roles: tuple[str, ...]
    ) -> AdministeredAccount:
        """Give somebody these roles and no other.

        Raises AccountNotFound, NotToOneself, LastAdministrator.
        """
        async with self.db.unit_of_work() as uow:
            active = await administrators(uow)
            user = await _locked(uow, user_id)
            self._set_roles(uow, by, user, set(roles), active)
            return await _shown(uow, user.id)

    async def promote(self, user_id: int) -> None:
        """Make somebody an administrator, for an operator. Raises AccountNotFound."""
        async with self.db.unit_of_work() as uow:
            user = await _locked(uow, user_id)
            self._set_roles(uow, None, user, {*user.roles, ADMIN}, set())

    async def demote(self, user_id: int) -> None:
        """Make somebody no administrator, for an operator. Raises AccountNotFound."""
        async with self.db.unit_of_work() as uow:
            user = await _locked(uow, user_id)
            self._set_roles(uow, None, user, {*user.roles} - {ADMIN}, set())

    async def sign_out(self, by: Principal | None, user_id: int) -> None:
        """End all of somebody's sessions; their keys stay. Raises AccountNotFound."""
        why = "An administrator has ended it." if by else "An operator has ended it."
        async with self.db.unit_of_work() as uow:
            await self._end_sessions(uow, by, await _locked(uow, user_id), why)

    async def remove_second_factor(self, by: Principal | None, user_id: int) -> AdministeredAccount:
        """Ask somebody for no second factor any more, who has lost it; their sessions end.

        Raises AccountNotFound, NotToOneself, NoSecondFactor.
        """
        async with self.db.unit_of_work() as uow:
            user = await _locked(uow, user_id)
            if by is not None and by.subject == str(user.id):
                raise NotToOneself
            factor = await in_force(uow, user.id)
            if factor is None:
                raise NoSecondFactor
            await remove_second_factor(uow, factor)
            await self._end_sessions(uow, by, user, FACTOR_REMOVED)
            audit(uow, "second_factor.removed", subject=str(user.id), actor=_actor(by))
            notify(self.mail, uow, user, Notice.SECOND_FACTOR_TAKEN)
            return await _shown(uow, user.id)

    def _set_roles(
        self,
        uow: UnitOfWork,
        by: Principal | None,
        user: User,
        roles: set[str],
        active: set[int],
    ) -> None:
        before = set(user.roles)
        if roles == before:
            return
        if ADMIN in before - roles:
            _check_spares(by, user, active)
        user.roles = sorted(roles)
        if before - roles:
            self.revocations.revoke_subject(uow, str(user.id), ROLES_CHANGED)
        audit(
            uow,
            "account.roles_changed",
            subject=str(user.id),
            actor=_actor(by),
            before=sorted(before),
            after=sorted(roles),
        )
        told = ", ".join(sorted(roles)) or "none"
        notify(self.mail, uow, user, Notice.ROLES_CHANGED, roles=told)

    async def _end_sessions(
        self, uow: UnitOfWork, by: Principal | None, user: User, why: str
    ) -> None:
        await end_sessions(uow, self.revocations, user.id, why, actor=_actor(by))
        self.revocations.revoke_subject(uow, str(user.id), why)


def _check_spares(by: Principal | None, user: User, active: set[int]) -> None:
    """Raise where `by` would lock out themselves, or the last one who could let them in."""
    if by is None:
        return
    if by.subject == str(user.id):
        raise NotToOneself
    if active == {user.id}:
        raise LastAdministrator


async def _locked(uow: UnitOfWork, user_id: int) -> User:
    user = await uow.get(User, user_id, with_for_update=True)
    if user is None:
        raise AccountNotFound
    return user


async def _revoke_keys(uow: UnitOfWork, user: User) -> list[int]:
    good = update(ApiKey).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None))
    revoked = good.values(revoked_at=datetime.now(UTC)).returning(ApiKey.id)
    return list(await uow.scalars(revoked))


def _begins_with(search: str) -> ColumnElement[bool]:
    key = folded(search)
    matches = [
        User.email_key.startswith(key, autoescape=True),
        User.name_key.startswith(key[:255], autoescape=True),
    ]
    with suppress(ValueError):  # it is no whole address
        matches.append(User.email_key == email_key(search))  # its domain may be no ASCII
    return or_(*matches)


def _seen(now: datetime) -> Select[User, int, bool]:
    running = (Session.user_id == User.id, Session.ended_at.is_(None), Session.expires_at > now)
    sessions = select(func.count()).select_from(Session).where(*running).scalar_subquery()
    confirmed = (SecondFactor.user_id == User.id, SecondFactor.confirmed_at.is_not(None))
    return select(User, sessions, exists().where(*confirmed))


async def _shown(session: AsyncSession, user_id: int) -> AdministeredAccount:
    found = _seen(datetime.now(UTC)).where(User.id == user_id)
    row = (await session.execute(found)).one_or_none()
    if row is None:
        raise AccountNotFound
    return _account(*row)


def _account(user: User, sessions: int, second_factor: bool) -> AdministeredAccount:
    return AdministeredAccount(
        id=user.id,
        email=user.email,
        name=user.name,
        roles=tuple(user.roles),
        created_at=user.created_at,
        disabled=user.disabled_at is not None,
        locked=is_locked(user),
        second_factor=second_factor,
        sessions=sessions,
    )


def _actor(by: Principal | None) -> str | None:
    return by.subject if by else None


async def _administration(connection: HTTPConnection, db: Database) -> AdministrationService:
    state = connection.app.state
    return AdministrationService(db, state.revocations, state.mail)


Administration = Annotated[AdministrationService, Depends(_administration)]
"""The service of administration, injected."""
