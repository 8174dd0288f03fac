"""What people do with their second factor; each write is one unit of work."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlalchemy import func, select
from starlette.requests import HTTPConnection

from app.core.audit import audit
from app.core.auth import Principal
from app.core.db import Database, SqlDatabase, UnitOfWork
from app.core.errors import InvalidParameter
from app.core.mail import Mailer
from app.features.accounts.codes import base32, provisioning_uri, qr
from app.features.accounts.errors import AccountGone, NoSecondFactor, SecondFactorInForce
from app.features.accounts.factors.schemas import RecoveryCodes, SecondFactorStatus, SetUp
from app.features.accounts.models import RecoveryCode, SecondFactor, User
from app.features.accounts.notices import Notice, notify
from app.features.accounts.second_factors import (
    SecondFactors,
    in_force,
    locked,
    remove_second_factor,
    renew_recovery_codes,
)
from app.features.accounts.sessions.service import Sessions, SessionsService
from app.features.accounts.users import unchanged


@dataclass(frozen=True, slots=True)
class FactorsService:
    """Second factors, over the database."""

    db: SqlDatabase
    second_factors: SecondFactors
    sessions: SessionsService
    mail: Mailer
    issuer: str

    async def status(self, user: Principal) -> SecondFactorStatus:
        """Whether whoever asks has a second factor in force, and how many codes are left."""
        unused = RecoveryCode.user_id == user.user_id, RecoveryCode.used_at.is_(None)
        async with self.db.reading() as session:
            factor = await session.get(SecondFactor, user.user_id)
            if factor is None or factor.confirmed_at is None:
                return SecondFactorStatus(enabled=False)
            left = await session.scalar(select(func.count()).where(*unused))
        return SecondFactorStatus(
            enabled=True, created_at=factor.confirmed_at, recovery_codes_left=left or 0
        )

    async def set_up(self, user: Principal) -> SetUp:
        """Begin a second factor, which is not in force before a code has confirmed it.

        One that was begun and not confirmed is replaced. Raises AccountGone, SecondFactorInForce.
        """
        async with self.db.unit_of_work() as uow:
            owner = await _owner(uow, user)
            if begun := await locked(uow, owner.id):
                if begun.confirmed_at is not None:
                    raise SecondFactorInForce
                await uow.delete(begun)
                await uow.flush()
            factor, secret = self.second_factors.set_up(owner.id)
            uow.add(factor)
        uri = provisioning_uri(secret, account=owner.email, issuer=self.issuer)
        return SetUp(secret=base32(secret), uri=uri, qr=qr(uri))

    async def confirm(self, user: Principal, code: str) -> RecoveryCodes:
        """Put the second factor in force that was set up, and end all other sessions.

        Raises AccountGone, NoSecondFactor, SecondFactorInForce, and InvalidParameter where the
        code is wrong. That counts as no guess: whoever asks has been told the secret.
        """
        async with self.db.unit_of_work() as uow:
            owner = await _owner(uow, user)
            factor = await locked(uow, owner.id)
            if factor is None:
                raise NoSecondFactor
            if factor.confirmed_at is not None:
                raise SecondFactorInForce
            if not self.second_factors.take_step(factor, code):
                wrong = "The code is not one that the authenticator shows now"
                raise InvalidParameter(
                    errors=[{"loc": ["body", "code"], "msg": wrong, "type": "wrong_code"}]
                )
            factor.confirmed_at = datetime.now(UTC)
            audit(uow, "second_factor.added", subject=user.subject)
            notify(self.mail, uow, owner, Notice.SECOND_FACTOR_ADDED)
            why = "A second factor was added: sign in with it."
            await self.sessions.end_all(uow, owner.id, why, but=user.session)
            return RecoveryCodes(recovery_codes=await renew_recovery_codes(uow, owner.id))

    async def remove(self, user: Principal) -> None:
        """Ask for no second factor any more. Raises AccountGone, NoSecondFactor."""
        async with self.db.unit_of_work() as uow:
            owner, factor = await _in_force(uow, user)
            await remove_second_factor(uow, factor)
            audit(uow, "second_factor.removed", subject=user.subject)
            notify(self.mail, uow, owner, Notice.SECOND_FACTOR_REMOVED)

    async def renew_recovery_codes(self, user: Principal) -> RecoveryCodes:
        """New recovery codes instead of those there are. Raises AccountGone, NoSecondFactor."""
        async with self.db.unit_of_work() as uow:
            owner, _ = await _in_force(uow, user)
            audit(uow, "recovery_codes.renewed", subject=user.subject)
            notify(self.mail, uow, owner, Notice.RECOVERY_CODES_RENEWED)
            return RecoveryCodes(recovery_codes=await renew_recovery_codes(uow, owner.id))


async def _owner(uow: UnitOfWork, user: Principal) -> User:
    # Always before the factor's row: two orders of locking would wait for each other.
    owner = await unchanged(uow, user.user_id, exclusively=True)
    if owner is None:
        raise AccountGone
    return owner


async def _in_force(uow: UnitOfWork, user: Principal) -> tuple[User, SecondFactor]:
    owner = await _owner(uow, user)
    factor = await in_force(uow, owner.id)
    if factor is None:
        raise NoSecondFactor
    return owner, factor


async def _factors(connection: HTTPConnection, db: Database, sessions: Sessions) -> FactorsService:
    app = connection.app
    return FactorsService(db, app.state.second_factors, sessions, app.state.mail, app.title)


Factors = Annotated[FactorsService, Depends(_factors)]
"""The service of second factors, injected."""
