"""Users as the parts of accounts find them: by address, and locked while a token is made."""

from collections.abc import Sequence
from datetime import UTC, datetime

from email_validator import validate_email
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import UnitOfWork
from app.features.accounts.errors import EmailTaken
from app.features.accounts.models import User, folded


def email_key(address: str) -> str:
    """What two spellings of one address share: NFKC and case folded, the domain in ASCII.

    Raises ValueError (EmailNotValidError) for what is no address.
    """
    valid = validate_email(address, check_deliverability=False)
    return f"{folded(valid.local_part)}@{valid.ascii_domain}"


def new_user(email: str, name: str, password_hash: str, roles: Sequence[str] = ()) -> User:
    """Somebody who is to have an account."""
    return User(
        email=email,
        email_key=email_key(email),
        name=name,
        password_hash=password_hash,
        roles=list(roles),
        created_at=datetime.now(UTC),
    )


async def say_taken(uow: UnitOfWork) -> None:
    """Flush what has a new address. Raises EmailTaken where that is somebody's already."""
    try:
        await uow.flush()
    except IntegrityError:
        raise EmailTaken from None


async def by_email(session: AsyncSession, email: str, *, exclusively: bool = False) -> User | None:
    """The user of an e-mail address, in any spelling of it; locked where that is asked for."""
    try:
        key = email_key(email[:255])
    except ValueError:
        return None
    found = select(User).where(User.email_key == key)
    return await session.scalar(found.with_for_update() if exclusively else found)


async def unchanged(uow: UnitOfWork, user_id: int, *, exclusively: bool = False) -> User | None:
    """The user as they are now, and until the unit of work ends: what a token says is true then.

    Somebody who is disabled is as if gone: nothing is issued to them.
    """
    user = await uow.get(User, user_id, with_for_update={"read": not exclusively})
    return None if user is None or user.disabled_at else user
