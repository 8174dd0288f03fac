"""Guessing: wrong passwords and codes in a row lock the account for a while.

Both count alike, so that who knows the password does not get more tries at the code.
"""

from datetime import UTC, datetime, timedelta
from math import ceil

from sqlalchemy import case, literal, null, or_, update
from sqlalchemy.sql.elements import Case

from app.core.audit import audit
from app.core.db import UnitOfWork, UtcDateTime
from app.features.accounts.errors import AccountLocked
from app.features.accounts.models import User

FREE_FAILURES = 10  # a person who mistypes needs fewer
FIRST_LOCK = timedelta(minutes=1)
LONGEST_LOCK = timedelta(hours=1)
NOBODY = 0  # an id that no user has


def is_locked(user: User) -> bool:
    """Whether the account takes no password and no code now, also not what would be right."""
    return user.locked_until is not None and datetime.now(UTC) < user.locked_until


def check_unlocked(user: User) -> None:
    """Raise AccountLocked while the account is locked, also for what would be right.

    It is for who has proved already that they know the account; a log-in tells nobody.
    """
    if user.locked_until is not None and is_locked(user):
        seconds = ceil((user.locked_until - datetime.now(UTC)).total_seconds())
        raise AccountLocked(retry_after=seconds, headers={"Retry-After": str(seconds)})


def lock_after(failures: int) -> timedelta:
    """How long so many failures in a row lock for, which are as many as lock at all."""
    doublings = min(failures - FREE_FAILURES, 10)
    return min(FIRST_LOCK * 2.0**doublings, LONGEST_LOCK)


async def count_failure(uow: UnitOfWork, user_id: int | None) -> None:
    """Count a wrong password or code; from the tenth in a row on each locks for twice as long.

    It is one statement, which takes as long where there is no such user (None). While the account
    is locked nothing counts: who guesses on keeps nobody out for longer.
    """
    now = datetime.now(UTC)
    free = or_(User.locked_until.is_(None), User.locked_until <= now)
    counted = (
        update(User)
        .where(User.id == (user_id or NOBODY), free)
        .values(failures=User.failures + 1, locked_until=_locked_until(now))
        .returning(User.locked_until)
        .execution_options(synchronize_session=False)
    )
    until: datetime | None = (await uow.execute(counted)).scalar_one_or_none()
    if until is not None:
        audit(uow, "account.locked", subject=str(user_id), until=until.isoformat())


def proved(user: User) -> None:
    """Begin to count anew, once somebody has given all that they need."""
    user.failures = 0
    user.locked_until = None


def _locked_until(now: datetime) -> Case[datetime | None]:
    """In SQL: the end of the lock that follows from the failures before this one."""
    # As many as make a difference: from the longest on, each is as long.
    lasting = [lock_after(number) for number in range(FREE_FAILURES, FREE_FAILURES + 11)]
    doubled = lasting[: lasting.index(LONGEST_LOCK)]
    ends = [
        (User.failures + 1 == number, literal(now + lock, UtcDateTime()))
        for number, lock in enumerate(doubled, FREE_FAILURES)
    ]
    longest = literal(now + LONGEST_LOCK, UtcDateTime())
    return case((User.failures + 1 < FREE_FAILURES, null()), *ends, else_=longest)
