"""PostgreSQL databases for tests, used again: to make one and to drop one are long waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from app.core.db import Base

COLUMNS = """
    SELECT table_name, column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' ORDER BY 1, 2
"""
OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
FROM_ONE = """
    SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
    FROM pg_sequences WHERE last_value IS NOT NULL
"""


class Databases:
    """Copies of a migrated database, on one server, for as long as the block lasts.

    Args:
        server: the address of a database there, to connect to.
        migrate: runs every migration on the database at an address.
    """

    def __init__(self, server: str, migrate: Callable[[str], None]) -> None:
        self._server = server
        self._migrate = migrate
        self._template = f"duplex_template_{uuid4().hex[:12]}"
        self._made: list[str] = []
        self._free: list[str] = []
        self._columns: list[Any] = []

    def __enter__(self) -> Self:
        """Make the one that others are copies of. Raises OperationalError without a server."""
        self._run(SQL("CREATE DATABASE {}").format(Identifier(self._template)))
        self._made.append(self._template)
        try:
            self._migrate(self._url(self._template))
            with psycopg.connect(self._url(self._template)) as connection:
                self._columns = connection.execute(COLUMNS).fetchall()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in reversed(self._made):
            self._drop(name)

    @contextmanager
    def one(self) -> Iterator[str]:
        """The address of a migrated, empty database that nobody else has meanwhile."""
        name = self._free.pop() if self._free else self._copy()
        try:
            yield self._url(name)
        finally:
            if self._emptied(name):
                self._free.append(name)
            else:
                self._made.remove(name)
                self._drop(name)

    def _copy(self) -> str:
        name = f"duplex_test_{uuid4().hex[:12]}"
        parts = Identifier(name), Identifier(self._template)
        self._run(SQL("CREATE DATABASE {} TEMPLATE {}").format(*parts))
        self._made.append(name)
        # Nothing of this has to outlast a power failure.
        self._run(SQL("ALTER DATABASE {} SET synchronous_commit = off").format(parts[0]))
        return name

    def _emptied(self, name: str) -> bool:
        """Make it as it was, whoever still uses it; whether that was possible."""
        with psycopg.connect(self._url(name)) as connection:
            connection.execute(OTHERS)
            migrated = {table for table, _, _ in self._columns}
            there = {table for table, _, _ in connection.execute(COLUMNS)}
            for table in there - migrated:  # a test's own
                connection.execute(SQL("DROP TABLE {} CASCADE").format(Identifier(table)))
            if connection.execute(COLUMNS).fetchall() != self._columns:
                return False
            for each in reversed(Base.metadata.sorted_tables):
                if each.name in migrated:
                    connection.execute(SQL("DELETE FROM {}").format(Identifier(each.name)))
            connection.execute(FROM_ONE)
        return True

    def _drop(self, name: str) -> None:
        self._run(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def _run(self, statement: Composed) -> None:
        with psycopg.connect(self._server, autocommit=True, connect_timeout=3) as connection:
            connection.execute(statement)

    def _url(self, name: str) -> str:
        return self._server.rsplit("/", 1)[0] + f"/{name}"
