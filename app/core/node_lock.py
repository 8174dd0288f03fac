"""Who may serve a database: one process, or any number that hear each other through Redis.

The lock dies with its process, whatever ends that.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.core.background import Periodic
from app.core.observability import log
from app.core.settings import sqlite_file

if sys.platform != "win32":
    import fcntl

ATTEMPTS = 10  # a tenth of a second apart: what has just ended may take a moment to be gone
ANSWER_SECONDS = 5
KEEP_SECONDS = 2.0
KEY = int.from_bytes(b"duplex", "big")


class ServedAlready(Exception):
    """Another process serves the database, and the two would not hear each other.

    The message says so, and what to do.
    """


class _Lock(Protocol):
    async def take(self) -> bool:
        """Take the lock; whether it was to be had."""

    async def keep(self) -> None:
        """Take it again where it was lost."""

    async def release(self) -> None:
        """Give it up, whether it was taken or not."""


@asynccontextmanager
async def node_lock(url: URL, *, shared: bool) -> AsyncIterator[None]:
    """Hold the right to serve a database while the block runs.

    Args:
        url: the database, with its async driver.
        shared: whether this process hears others; one that does not has to be alone.

    Raises:
        ServedAlready: another process serves the database.
        OSError, SQLAlchemyError: the database does not answer, or its lock cannot be written.
    """
    file = sqlite_file(url)
    lock: _Lock = _FileLock(file, shared) if file else _AdvisoryLock(url, shared)
    try:
        for _ in range(ATTEMPTS):
            if await lock.take():
                break
            await asyncio.sleep(0.1)
        else:
            raise ServedAlready(_refusal(shared))
        keeping = asyncio.create_task(Periodic("node lock", lock.keep, seconds=KEEP_SECONDS).run())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
    finally:
        await lock.release()


def _refusal(shared: bool) -> str:
    if shared:
        return (
            "A process without Redis serves this database, and would not hear what happens here: "
            "stop it, or give it the same REDIS_URL."
        )
    return (
        "Another process serves this database, and the two would not hear each other: stop it, "
        "or set REDIS_URL for both."
    )


class _FileLock:
    """flock(2) on a file beside the SQLite database; the kernel gives it up with the process."""

    def __init__(self, database: Path, shared: bool) -> None:
        self._shared = shared
        place = database.resolve()  # one lock, whatever link leads to the database
        self._descriptor = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o644)

    async def take(self) -> bool:
        if sys.platform == "win32":  # it has no flock: there it is up to the person
            return True
        kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def keep(self) -> None:
        """Nothing but the process's end takes it away."""

    async def release(self) -> None:
        os.close(self._descriptor)


class _AdvisoryLock:
    """PostgreSQL's lock of a session, on a connection of its own; it ends with the connection."""

    def __init__(self, url: URL, shared: bool) -> None:
        self._statement = text(
            f"SELECT pg_try_advisory_lock{'_shared' if shared else ''}(CAST(:key AS bigint))"
        ).bindparams(key=KEY)
        self._engine = create_async_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": ANSWER_SECONDS},
        )
        self._connection: AsyncConnection | None = None
        self._taken_by_another = False

    async def take(self) -> bool:
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._connection is None:
                self._connection = await self._engine.connect()
                # The lock of a machine that is cut off is given up in seconds, not in hours.
                await self._connection.execute(
                    text(
                        "SELECT set_config('tcp_keepalives_idle', '10', false), "
                        "set_config('tcp_keepalives_interval', '5', false), "
                        "set_config('tcp_keepalives_count', '3', false)"
                    )
                )
            return bool(await self._connection.scalar(self._statement))

    async def keep(self) -> None:
        """Take it again where the database was restarted; who was faster is told to a person."""
        try:
            if self._connection is not None and not self._taken_by_another:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._connection.execute(text("SELECT 1"))
                return
            taken = await self.take()
        except (OSError, SQLAlchemyError):  # /health/ready says that the database is away
            await self._disconnect()
            return
        if self._taken_by_another == taken:
            self._taken_by_another = not taken
            if taken:
                log.info("the node lock is held again")
            else:
                log.error("another process serves this database and hears nothing of this one")

    async def release(self) -> None:
        await self._disconnect()
        await self._engine.dispose()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError, SQLAlchemyError):
                await connection.invalidate()
                await connection.close()
