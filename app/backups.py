"""Backups: the whole database at one moment, in a file, made while it is served; and the way back.

SQLite copies itself, PostgreSQL by its own pg_dump and pg_restore. What has happened since a backup
was told to clients and is forgotten by a database that is restored from it: `after_restore` sees
to it that none of that is taken for what happens next.
"""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from app import migrations
from app.core.db import SqlDatabase
from app.core.keyring import Keyring
from app.core.node_lock import node_lock
from app.core.settings import Settings, sqlite_file
from app.realtime.log import EventLog

BESIDE = ("", "-wal", "-shm", "-journal")  # what belongs to an SQLite database; its lock is nothing


class BackupError(Exception):
    """A backup cannot be made or restored; the message says why, and what to do."""


def backup(settings: Settings, file: Path) -> None:
    """Write the database to `file`, for its owner alone; whoever serves it goes on meanwhile.

    Raises:
        BackupError: `file` is there, cannot be written, or the database cannot be read.
    """
    if file.exists():
        raise BackupError(f"{file} is there already: give the backup another name.")
    source = sqlite_file(settings.database)
    with _finished(file) as partial:
        if source:
            _copy_sqlite(source, partial)
        else:
            _postgresql(settings.database, "pg_dump", "--format=custom", f"--file={partial}")


async def restore(settings: Settings, file: Path) -> None:
    """Fill an empty database from `file`, bring it up to date, and do what `after_restore` does.

    Raises:
        BackupError: the database is not empty, or `file` is no backup of one.
        ServedAlready: somebody serves the database.
        SchemaError: the backup is newer than this code.
        OSError, SQLAlchemyError: the database cannot be used.
    """
    target = sqlite_file(settings.database)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
    async with node_lock(settings.database, shared=False):
        if target:
            await _restore_sqlite(settings, file, target)
        else:
            await _restore_postgresql(settings, file)


async def after_restore(settings: Settings) -> None:
    """Make a database from a backup fit to be served: nobody takes what is lost for what follows.

    Every topic gets a new epoch, so that clients start over that have seen events which the backup
    has not. Every access token is refused: it may name somebody whose number another one gets now,
    or be signed by a key that has been removed since.

    Raises:
        ServedAlready: somebody serves the database.
        SQLAlchemyError: the database cannot be used.
    """
    async with node_lock(settings.database, shared=False):
        await _renew(settings)


async def _renew(settings: Settings) -> None:
    database = SqlDatabase(settings.database)
    try:
        await EventLog(database).renew()
        if settings.auth_mode == "local":
            await Keyring(database, settings).renew()
    finally:
        await database.dispose()


async def _restore_sqlite(settings: Settings, file: Path, target: Path) -> None:
    there = [place for end in BESIDE if (place := Path(f"{target}{end}")).exists()]
    if there:
        names = ", ".join(map(str, there))
        raise BackupError(f"A backup is restored to where nothing is: move {names} away first.")
    with _finished(target) as partial:
        await asyncio.to_thread(_copy_sqlite, file, partial)
        inside = settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{partial}")})
        await migrations.upgrade(inside)
        await _renew(inside)


async def _restore_postgresql(settings: Settings, file: Path) -> None:
    url = settings.database
    tables = await asyncio.to_thread(_tables, url)
    if tables:
        raise BackupError(
            f"A backup is restored into an empty database, and this one has {len(tables)} tables: "
            "set DATABASE_URL to a new one (createdb)."
        )
    await asyncio.to_thread(_needs, file)
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")
    await asyncio.to_thread(_postgresql, url, "pg_restore", *options, str(file))
    await migrations.upgrade(settings)
    await _renew(settings)


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy the database at one moment; writers do not wait. Raises BackupError."""
    _needs(source)
    try:
        connection = sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True)
        try:
            connection.isolation_level = None
            connection.execute("PRAGMA busy_timeout = 5000")
            query = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            if not connection.execute(query).fetchone():
                raise BackupError(f"{source} is no database of this service.")
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise BackupError(f"{source} is damaged ({found}): take an older backup.")
            connection.execute("VACUUM INTO ?", (str(target),))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied ({error}).") from error


def _needs(file: Path) -> None:
    if not file.is_file():
        raise BackupError(f"There is no file {file}.")


def _tables(url: URL) -> list[str]:
    engine = create_engine(url, poolclass=NullPool)
    try:
        return inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _postgresql(url: URL, program: str, *options: str) -> None:
    """Run a program of PostgreSQL's on the database. Raises BackupError."""
    found = shutil.which(program)
    if found is None:
        raise BackupError(
            f"{program} is not installed: install PostgreSQL's client, no older than the server, "
            "or run it where the server is (docs/backups.md)."
        )
    place = URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, url.query
    )
    address = place.render_as_string()
    # In the environment, as other users of the machine can read the arguments.
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    done = subprocess.run(  # noqa: S603 - a program of PostgreSQL's, on the address of the settings
        [found, "--no-password", f"--dbname={address}", *options],
        env=os.environ | secret,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise BackupError(f"{program} has failed: {lines[0].removeprefix(f'{program}: ')}")


@contextmanager
def _finished(file: Path) -> Iterator[Path]:
    """A new file for its owner alone, which is put in place of `file` once it is whole."""
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise BackupError(f"{file} cannot be written ({error.strerror}).") from error
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        _put(partial, file)
    finally:
        for end in BESIDE:
            Path(f"{partial}{end}").unlink(missing_ok=True)


def _put(partial: Path, file: Path) -> None:
    try:
        _flush(partial)
        partial.replace(file)
    except OSError as error:
        raise BackupError(f"{file} cannot be written ({error.strerror}).") from error
    with suppress(OSError):  # not every system opens directories
        _flush(file.parent)


def _flush(path: Path) -> None:
    """Have the system write to the disk what it still has in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
