"""Second factors: whether somebody has one in force, and whether a code of theirs is good.

A code is looked at and used up under the lock of its row, so that it is good once, also for two
requests at one moment.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import delete

from app.core.audit import audit
from app.core.db import UnitOfWork
from app.core.secrets_at_rest import Sealed
from app.features.accounts.codes import (
    TOTP_CODE,
    compact,
    new_recovery_codes,
    new_secret,
    recovery_digest,
    step_of,
)
from app.features.accounts.models import RecoveryCode, SecondFactor


class SecondFactors:
    """The authenticators of users.

    Args:
        sealed: encrypts their secrets, each for its user.
        clock: seconds since the epoch.
    """

    def __init__(self, sealed: Sealed, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._sealed = sealed

    def set_up(self, user_id: int) -> tuple[SecondFactor, bytes]:
        """A factor that is not in force yet, and its secret."""
        secret = new_secret()
        factor = SecondFactor(
            user_id=user_id,
            secret=self._sealed.seal(secret, _context(user_id)),
            created_at=datetime.now(UTC),
        )
        return factor, secret

    def take_step(self, factor: SecondFactor, code: str) -> bool:
        """Use up a code of the authenticator; False where it is wrong or has been used.

        The factor's row has to be locked.
        """
        secret = self._sealed.open(factor.secret, _context(factor.user_id))
        step = step_of(secret, compact(code), now=self.clock(), after=factor.last_step)
        if step is None:
            return False
        factor.last_step = step
        return True

    async def take(self, uow: UnitOfWork, factor: SecondFactor, code: str) -> bool:
        """The same for a code of the authenticator or a recovery code."""
        if TOTP_CODE.fullmatch(compact(code)):
            return self.take_step(factor, code)
        found = await uow.get(RecoveryCode, recovery_digest(code), with_for_update=True)
        if found is None or found.user_id != factor.user_id or found.used_at is not None:
            return False
        found.used_at = datetime.now(UTC)
        audit(uow, "recovery_code.used", subject=str(factor.user_id))
        return True


async def in_force(uow: UnitOfWork, user_id: int) -> SecondFactor | None:
    """The second factor that a user is asked for, locked until the unit of work ends."""
    factor = await locked(uow, user_id)
    return factor if factor and factor.confirmed_at else None


async def locked(uow: UnitOfWork, user_id: int) -> SecondFactor | None:
    """A user's second factor, in force or only set up, locked until the unit of work ends."""
    return await uow.get(SecondFactor, user_id, with_for_update=True, populate_existing=True)


async def remove_second_factor(uow: UnitOfWork, factor: SecondFactor) -> None:
    """Remove a user's second factor, which has to be locked, with its recovery codes."""
    await uow.delete(factor)
    await _forget_recovery_codes(uow, factor.user_id)


async def renew_recovery_codes(uow: UnitOfWork, user_id: int) -> list[str]:
    """New recovery codes of a user; those of before, used or not, are good no more."""
    codes = new_recovery_codes()
    await _forget_recovery_codes(uow, user_id)
    uow.add_all(RecoveryCode(digest=recovery_digest(code), user_id=user_id) for code in codes)
    return codes


async def _forget_recovery_codes(uow: UnitOfWork, user_id: int) -> None:
    await uow.execute(delete(RecoveryCode).where(RecoveryCode.user_id == user_id))


def _context(user_id: int) -> str:
    return f"second_factor:{user_id}"
