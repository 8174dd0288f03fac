"""The roles that an account can have. One more is a line here, and `has_role(…)` is its guard."""

from sqlalchemy import ColumnElement, String, cast, select

from app.core.db import UnitOfWork
from app.features.accounts.models import User

ADMIN = "admin"

#: Each role, and what it means to a person.
ROLES: dict[str, str] = {ADMIN: "Administers accounts and reads the audit log"}


def has(role: str) -> ColumnElement[bool]:
    """Whether a user has a role, in SQL: the list is stored as JSON, on either engine."""
    return cast(User.roles, String).contains(f'"{role}"', autoescape=True)


async def administrators(uow: UnitOfWork) -> set[int]:
    """Who administers now; none of them ceases to until `uow` ends.

    They are locked in the order of their ids, before anybody else is: of two that act at one
    moment the second sees what the first has done.
    """
    active = select(User.id).where(has(ADMIN), User.disabled_at.is_(None))
    return set(await uow.scalars(active.order_by(User.id).with_for_update()))
