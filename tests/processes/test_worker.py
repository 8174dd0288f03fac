"""`python -m app worker` does jobs apart from the requests, `jobs` shows them."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.core.db import SqlDatabase
from app.core.jobs import Job, JobQueue, JobRoutes, JobRun
from app.core.jobs.commands import commands
from tests.conftest import settings_for
from tests.process import ROOT, environment, running
from tests.processes.test_cli import refused

#: The service, with a job that goes on until there is a file.
PROGRAM = """
import asyncio
from pathlib import Path
from sqlalchemy import text
from app import features
from app.cli import main
from app.core.jobs import Job, JobRoutes, JobRun

class Wait(Job):
    name = "test.wait"
    for_file: str

routes = JobRoutes()

@routes.on(Wait)
async def wait(job: Wait, run: JobRun) -> None:
    print("It begins.", flush=True)
    while not Path(job.for_file).exists():
        await asyncio.sleep(0.01)
    await run.uow.execute(text("INSERT INTO effects VALUES (:attempt)"), {"attempt": run.attempt})

features.jobs.include(routes)
main()
"""


class Wait(Job):
    """A job that goes on until there is a file."""

    name = "test.wait"
    for_file: str


routes = JobRoutes()


@routes.on(Wait)
async def wait(job: Wait, run: JobRun) -> None:
    """Done by the worker, which has one of its own."""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._started = started
        self.output = ""

    def wrote(self, part: str) -> None:
        """Wait until it writes a line with `part` in it."""
        assert self._started.stdout
        for line in self._started.stdout:
            self.output += line
            if part in line:
                return
        raise AssertionError(f"it never wrote {part!r}: {self.output}")

    def tell(self, number: int) -> None:
        """Send it a signal."""
        self._started.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        rest, _ = self._started.communicate(timeout=20)
        self.output += rest
        return self._started.returncode


@contextmanager
def working(database: Path) -> Iterator[Worker]:
    """A worker on a database."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "worker"],
        cwd=ROOT,
        env=environment(DATABASE_URL=f"sqlite:///{database}", LOG_FORMAT="json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        try:
            yield Worker(started)
        finally:
            if started.poll() is None:
                started.kill()


@pytest.fixture
def database(tmp_path: Path, migrated_sqlite: Path) -> Path:
    """A database, with a table for what jobs do."""
    file = tmp_path / "worked.db"
    shutil.copy(migrated_sqlite, file)
    ask(file, "CREATE TABLE effects (attempt INTEGER)")
    return file


def ask(database: Path, statement: str, *values: object) -> list[Any]:
    """What the database answers to one statement."""
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def enqueue(database: Path, *jobs: Wait, at: datetime | None = None) -> None:
    """Have jobs done."""

    async def committed() -> None:
        db = SqlDatabase(settings_for(f"sqlite:///{database}").database)
        async with db.unit_of_work() as uow:
            for job in jobs:
                JobQueue(db, routes).enqueue(uow, job, at=at)
        await db.dispose()

    asyncio.run(committed())


def test_a_killed_workers_job_is_done_by_another(database: Path, tmp_path: Path) -> None:
    """After its lease, by one that ends in good order: it finishes what it has begun."""
    enqueue(database, Wait(for_file=str(tmp_path / "go")))
    with working(database) as killed:
        killed.wrote("Duplex works on jobs (Ctrl-C ends it)")
        killed.wrote("It begins.")
        killed.tell(signal.SIGKILL)
        assert killed.ended() == -signal.SIGKILL
    (lease,) = ask(database, "SELECT run_at FROM jobs WHERE name = 'test.wait'")
    ends = datetime.fromisoformat(lease[0]).replace(tzinfo=UTC)
    assert timedelta(seconds=40) < ends - datetime.now(UTC) < timedelta(seconds=61)
    over = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
    ask(database, "UPDATE jobs SET run_at = ? WHERE name = 'test.wait'", over)
    with working(database) as other:
        other.wrote("It begins.")
        other.tell(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert other.ended() == 0
    assert ask(database, "SELECT attempt FROM effects") == [(2,)]
    assert ask(database, "SELECT id FROM jobs WHERE name = 'test.wait'") == []
    assert '"event": "job"' in other.output
    assert '"job": "test.wait"' in other.output
    assert "Traceback" not in killed.output + other.output


def test_a_server_that_ends_gives_back_what_it_cannot_finish(
    database: Path, tmp_path: Path
) -> None:
    """In time for its own end, and as if the job had never been tried."""
    url = f"sqlite:///{database}"
    with running(program=PROGRAM, DATABASE_URL=url, SHUTDOWN_SECONDS="1") as process:
        enqueue(database, Wait(for_file=str(tmp_path / "never")))
        process.wrote("It begins.")
        process.ask_to_end(signal.SIGTERM)
        assert process.ended() == 0
    ((run_at, attempts),) = ask(
        database, "SELECT run_at, attempts FROM jobs WHERE name = 'test.wait'"
    )
    assert datetime.fromisoformat(run_at).replace(tzinfo=UTC) <= datetime.now(UTC)
    assert attempts == 0


def test_a_worker_needs_a_database_that_is_up_to_date(tmp_path: Path) -> None:
    """As serving does, and looking at the jobs; the remedy is named."""
    url = f"sqlite:///{tmp_path}/x.db"
    expected = "The database is not up to date: run `python -m app db upgrade`, or serve --migrate."
    assert refused("worker", DATABASE_URL=url) == expected
    assert refused("jobs", "list", DATABASE_URL=url) == expected


@pytest.fixture
def jobs(database: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `python -m app jobs …` writes."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{database}")
    app = typer.Typer()
    app.add_typer(commands, name="jobs")
    return lambda *arguments: CliRunner().invoke(app, ["jobs", *arguments]).output


def test_a_person_sees_the_jobs_and_why_one_was_given_up(
    database: Path, jobs: Callable[..., str]
) -> None:
    """Without what is in them; one can be tried again, or dropped."""
    assert jobs("list") == ""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    enqueue(database, Wait(for_file="hunter2"), Wait(for_file="hunter2"), at=at)
    parked = "UPDATE jobs SET parked_at = ?, attempts = 12, error = ? WHERE id = 2"
    ask(database, parked, "2030-01-02 00:00:00", "ValueError: no\nsuch file")
    assert jobs("list") == (
        "       2  test.wait  parked 2030-01-02 00:00:00Z  tries: 12  ValueError: no such file\n"
        "       1  test.wait  waits 2030-01-01 00:00:00Z  tries: 0\n"
    )
    assert jobs("retry", "2") == "Job 2 is due now.\n"
    assert "parked" not in jobs("list")
    assert jobs("drop", "2") == "Job 2 is forgotten.\n"
    for verb in ("retry", "drop"):
        assert jobs(verb, "2") == (
            "duplex: There is no job 2: `jobs list` shows those there are.\n"
        )


def test_many_jobs_are_not_all_listed(database: Path, jobs: Callable[..., str]) -> None:
    """A hundred are, and that there are more."""
    enqueue(database, *(Wait(for_file=str(number)) for number in range(101)))
    lines = jobs("list").splitlines()
    assert len(lines) == 101
    assert lines[-1] == "… and more."
