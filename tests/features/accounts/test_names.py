"""Names can be searched by what two spellings share, on each database."""

from datetime import UTC, datetime
from typing import Any

import pytest
from alembic import command as alembic
from sqlalchemy import text

from app import migrations
from app.core.db import SqlDatabase
from app.features.accounts.models import User
from tests.features.accounts.administering import account

pytestmark = pytest.mark.usefixtures("engine")


async def test_a_name_that_changes_is_found_by_the_new_one(database: SqlDatabase) -> None:
    """Whoever changes it does not have to think of that; what is longer is cut."""
    user = await account(database, "STRAẞE")
    assert user.name_key == "strasse"
    async with database.unit_of_work() as uow:
        (await uow.get_one(User, user.id)).name = "Zoë \ufdfa" + "\ufdfa" * 75
    async with database.reading() as session:
        changed = await session.get_one(User, user.id)
    assert changed.name_key.startswith("zoë صلى الله")
    assert len(changed.name_key) == 255


async def test_those_who_were_there_before_can_be_found(database: SqlDatabase) -> None:
    """The migration folds their names."""
    now = datetime.now(UTC).replace(tzinfo=None)
    added = text(
        "INSERT INTO users (email, email_key, name, password_hash, roles, created_at)"
        " VALUES ('a', 'a', 'ÄNNE', 'x', '[]', :now)"
    )

    def back_and_up_again(connection: Any) -> None:
        config = migrations._config(connection)
        alembic.downgrade(config, "accounts_0001")
        connection.execute(added, {"now": now})
        alembic.upgrade(config, "heads")

    async with database.engine.begin() as connection:
        await connection.run_sync(back_and_up_again)
    async with database.reading() as session:
        keys = await session.execute(text("SELECT name_key FROM users"))
    assert keys.scalars().all() == ["änne"]
