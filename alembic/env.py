"""Runs migrations over the async engine, on whichever database is configured."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import JSON, Column, Table
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import app.core.audit
import app.core.idempotency
import app.core.jobs
import app.core.keyring
import app.core.revocations
import app.core.tickets
import app.features
import app.realtime.log  # noqa: F401 - their models have to be known
from app.core.db import Base
from app.core.settings import Settings


def is_wanted(
    table: object, name: str | None, kind: str, reflected: bool, model: object | None
) -> bool:
    """Whether a migration is to speak of a table: of one that has a model, of every feature or one.

    A table without a model is what a removed feature has left. It is data: who wants it dropped
    writes that down.
    """
    if not isinstance(table, Table):
        return True
    if reflected and model is None:
        return False
    feature = context.config.attributes.get("feature")
    if feature is None:
        return True
    models = (mapper.class_ for mapper in Base.registry.mappers)
    places = (f"app.{feature}.", f"app.features.{feature}.")
    own = {m.__table__.key for m in models if m.__module__.startswith(places)}
    return table.key in own


def default_differs(_: Any, __: Any, column: Column[Any], *___: Any) -> bool | None:
    """Leave the comparison of defaults to alembic, but for JSON: PostgreSQL has no `=` for it."""
    return False if isinstance(column.type, JSON) else None


def migrate(connection: Connection) -> None:
    """Run the migrations that alembic was asked for, in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
        compare_server_default=default_differs,
        include_object=is_wanted,
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Open a connection of its own, unless app.migrations has given one."""
    engine = create_async_engine(Settings().database, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
elif context.is_offline_mode():
    raise SystemExit("Migrations run on a database: set DATABASE_URL and leave --sql out.")
else:
    asyncio.run(main())
