"""A PostgreSQL server of a test's own, to be stopped and started again."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest

from tests.redis import free_port

PLACES = Path("/usr/lib/postgresql")  # of Debian and Ubuntu, which keep them off the PATH
FAST = "-c fsync=off -c full_page_writes=off -c shared_buffers=16MB"


def programs() -> Path | None:
    """Where initdb and pg_ctl are; the newest of several."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    those = [each.parent for each in PLACES.glob("*/bin/initdb")]
    return max(those, key=lambda each: float(each.parent.name), default=None)


class OwnPostgresql:
    """A PostgreSQL server at the same port for as long as the block lasts; its data stay as long.

    It trusts whoever is `postgres`. It refuses to be run by root, and is run as the system's user
    `postgres` then. Skips the test where PostgreSQL is not installed.
    """

    def __init__(self) -> None:
        place = programs()
        if place is None:
            pytest.skip("PostgreSQL's initdb is not installed: its restart is not tested")
        self._programs = place
        self._user: dict[str, Any] = {}
        self._directory = tempfile.TemporaryDirectory(prefix="postgresql")
        if os.geteuid() == 0:
            shutil.chown(self._directory.name, "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._data = f"{self._directory.name}/data"
        self.port = free_port()

    def __enter__(self) -> Self:
        self._run(
            *("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
            *("--locale=C", "--no-sync", "--no-instructions"),
        )
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if Path(self._data, "postmaster.pid").exists():
            self.stop()
        self._directory.cleanup()

    def url(self, database: str = "postgres") -> str:
        """The address of a database of it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make a database; returns its address."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        options = f"-p {self.port} -k {self._directory.name} -c listen_addresses=127.0.0.1 {FAST}"
        log = f"{self._directory.name}/log"
        self._run("pg_ctl", "-D", self._data, "-l", log, "-o", options, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: at once, `fast` in good order, or `smart` once nobody is connected."""
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")

    def restart(self, how: str = "immediate") -> None:
        """Stop it and start it again."""
        self.stop(how)
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._directory.name,
            **self._user,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
