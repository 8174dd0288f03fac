"""The database's schema: brought to the newest revision, one branch for each part that has tables.

The parts are `core`, `realtime` and the features.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util.exc import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, delete, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.core.db import begin_explicitly
from app.core.revisions import ROOT, part_of, revisions
from app.core.settings import Settings, sqlite_file

#: How long a migration waits for a table that somebody holds; who comes after it waits as well.
LOCK_SECONDS = 5
VERSIONS = ROOT / "alembic" / "versions"
APP = ROOT / "app"


def has_tables(part: str) -> bool:
    """Whether `part` is one that may have migrations: the engine's floors, and each feature."""
    if part in ("core", "realtime"):
        return True
    return (APP / "features" / part / "models.py").is_file()


class SchemaError(Exception):
    """The schema cannot be brought to where this code needs it; the message says what to do."""


def _config(connection: Connection | None = None) -> Config:
    config = Config(toml_file=str(ROOT / "pyproject.toml"))
    config.attributes["connection"] = connection
    return config


@asynccontextmanager
async def _connected(settings: Settings, *, write: bool = False) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(settings.database, poolclass=NullPool)
    begin_explicitly(engine)  # so that a migration is done as a whole or not at all
    try:
        if write:
            async with engine.execution_options(immediate=True).begin() as connection:
                yield connection
        else:
            async with engine.connect() as connection:
                yield connection
    finally:
        await engine.dispose()


async def upgrade(settings: Settings) -> list[str]:
    """Run the migrations that are missing. Returns the features it found removed.

    Raises:
        SchemaError: the database is newer than this code, has what a migration would create, or
            holds a table that a migration changes.
    """
    if file := sqlite_file(settings.database):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        async with _connected(settings, write=True) as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            removed = await connection.run_sync(_forget_removed)
            await connection.run_sync(lambda sync: command.upgrade(_config(sync), "heads"))
    except DBAPIError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise SchemaError(
                "A table that a migration changes was in use for too long, and nothing was done: "
                "run it again, when no long query or transaction is under way."
            ) from error
        if "already exists" not in str(error.orig):
            raise
        raise SchemaError(
            f"A migration would create what is there ({error.orig}): a feature that was removed "
            "has left it. Drop it, or have `alembic stamp` say that the migration was run."
        ) from error
    return removed


async def pending(settings: Settings) -> bool:
    """Whether the database lacks migrations that this code needs; it may be newer than that."""
    async with _connected(settings) as connection:
        applied = await connection.run_sync(
            lambda sync: set(MigrationContext.configure(sync).get_current_heads())
        )
    return bool(revisions().missing(applied))


async def differences(settings: Settings) -> str | None:
    """How models and migrations differ on a migrated database; None where they agree."""
    try:
        async with _connected(settings) as connection:
            await connection.run_sync(lambda sync: command.check(_config(sync)))
    except CommandError as error:
        return str(error)
    return None


async def revise(settings: Settings, feature: str, message: str) -> Path:
    """Write the migration that the models of `feature` need now. Returns its file.

    Raises:
        SchemaError: there is no such feature.
    """
    if not has_tables(feature):
        raise SchemaError(f"There is no app/features/{feature}/models.py: write the models first.")
    script = ScriptDirectory.from_config(_config())
    mine = [r.revision for r in script.walk_revisions() if r.revision.startswith(f"{feature}_")]
    place = VERSIONS / feature
    place.mkdir(exist_ok=True)

    def write(connection: Connection) -> Script | list[Script | None] | None:
        config = _config(connection)
        config.attributes["feature"] = feature
        # Alembic writes only to directories that it is given by name.
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", "\n".join(map(str, VERSIONS.glob("*/"))))
        return command.revision(
            config,
            message,
            autogenerate=True,
            rev_id=f"{feature}_{len(mine) + 1:04}",
            head=f"{feature}@head" if mine else "base",
            branch_label=None if mine else feature,
            version_path=str(place),
        )

    async with _connected(settings) as connection:
        made = await connection.run_sync(write)
    assert isinstance(made, Script)  # noqa: S101 - for the types: one head makes one script
    return Path(made.path)


def _forget_removed(connection: Connection) -> list[str]:
    """Forget the revisions of features whose folder is gone; their tables stay as they are."""
    context = MigrationContext.configure(connection)
    removed = []
    for revision in set(context.get_current_heads()) - revisions().known:
        feature = part_of(revision)
        if has_tables(feature):
            raise SchemaError(
                f"The database has the migration {revision}, which this code does not know: it is "
                "newer than the code. Deploy the newer code, or restore a backup."
            )
        version = context._version
        connection.execute(delete(version).where(version.c.version_num == revision))
        removed.append(feature)
    return sorted(removed)
