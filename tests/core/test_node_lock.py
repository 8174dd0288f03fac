"""The node lock: one process without Redis serves a database, or any number with it."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from app.core import node_lock as module
from app.core.node_lock import KEY, ServedAlready, node_lock
from app.core.settings import Settings
from tests.conftest import postgresql_url, settings_for
from tests.postgresql import OwnPostgresql
from tests.process import ROOT, environment

#: Takes the lock, says so, and waits for its end.
HOLDER = """
import asyncio
from app.core.node_lock import node_lock
from app.core.settings import Settings

async def hold():
    async with node_lock(Settings().database, shared=False):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""
HOLDERS = """
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused is refused at once."""
    monkeypatch.setattr(module, "ATTEMPTS", 1)


@asynccontextmanager
async def held(settings: Settings, *kinds: bool) -> AsyncIterator[None]:
    """Processes with Redis (True) and without (False) serve the database."""
    async with AsyncExitStack() as stack:
        for shared in kinds:
            await stack.enter_async_context(node_lock(settings.database, shared=shared))
        yield


async def refusal(settings: Settings, *, shared: bool) -> str:
    """What another process is told."""
    with pytest.raises(ServedAlready) as refused:
        async with held(settings, shared):
            pass
    return str(refused.value)


@pytest.mark.usefixtures("engine", "at_once")
async def test_a_process_without_redis_is_alone(settings: Settings) -> None:
    """Another one is refused, with Redis or without, until it has ended."""
    async with held(settings, False):
        said = await refusal(settings, shared=False)
        assert said.startswith("Another process serves this database")
        assert said.endswith("or set REDIS_URL for both.")
        said = await refusal(settings, shared=True)
        assert said.startswith("A process without Redis serves this database")
        assert said.endswith("or give it the same REDIS_URL.")
    async with held(settings, False):
        pass


@pytest.mark.usefixtures("engine", "at_once")
async def test_processes_with_redis_are_as_many_as_they_like(settings: Settings) -> None:
    """One without is refused while any of them serves."""
    async with held(settings, True, True, True):
        assert "Another process" in await refusal(settings, shared=False)
    async with held(settings, False):
        pass


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_two_databases_of_a_server_are_two(settings: Settings, engine: str) -> None:
    """Who serves one is in nobody's way on another."""
    async with held(settings, False), held(settings_for(postgresql_url("postgres")), True):
        pass


@pytest.mark.usefixtures("at_once")
async def test_a_link_leads_to_the_same_lock(settings: Settings, tmp_path: Path) -> None:
    """A database that has two names is served once."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "test.db")
    async with held(settings, False):
        for name in ("link/test.db", "link.db"):
            await refusal(settings_for(f"sqlite:///{tmp_path / name}"), shared=False)


@pytest.mark.usefixtures("engine")
async def test_the_lock_dies_with_its_process(settings: Settings) -> None:
    """Whoever is killed leaves nothing behind that keeps the next one out."""
    url = settings.database_url.get_secret_value()
    with subprocess.Popen(  # noqa: ASYNC220 - its first line is waited for, whatever that blocks
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    async with held(settings, False):
        pass


async def test_a_database_that_is_away_is_no_refusal(tmp_path: Path) -> None:
    """It raises what tells a person so."""
    with pytest.raises(FileNotFoundError):
        async with held(settings_for(f"sqlite:///{tmp_path}/missing/x.db"), False):
            pass
    with pytest.raises(OperationalError):
        async with held(settings_for("postgresql://postgres@127.0.0.1:1/x"), False):
            pass


async def test_after_a_restart_of_postgresql_the_lock_is_taken_again(
    own_postgresql: OwnPostgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else gets in once the database is back."""
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)
    settings = settings_for(own_postgresql.url())
    async with held(settings, False):
        own_postgresql.restart()
        await _until_held(own_postgresql.url())
        await refusal(settings, shared=False)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_who_was_faster_after_a_loss_is_told(
    settings: Settings,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is an error in the log, once; when the other has gone the lock is taken again."""
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "duplex")
    url = settings.database_url.get_secret_value()
    async with held(settings, False):
        with psycopg.connect(url, autocommit=True) as faster:
            for pid in faster.execute(HOLDERS).fetchall():
                faster.execute("SELECT pg_terminate_backend(%s)", pid)
            faster.execute("SELECT pg_advisory_lock(%s::bigint)", [KEY])
            await _until_logged(caplog, 1)
            await asyncio.sleep(0.2)  # it tries several times
        await _until_logged(caplog, 2)
        await _until_held(url)
    told = [(record.levelname, record.msg["event"]) for record in caplog.records]  # type: ignore[index]
    assert told == [
        ("ERROR", "another process serves this database and hears nothing of this one"),
        ("INFO", "the node lock is held again"),
    ]


async def _until_logged(caplog: pytest.LogCaptureFixture, lines: int) -> None:
    for _ in range(500):
        if len(caplog.records) >= lines:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{caplog.records} are fewer than {lines} lines")


async def _until_held(url: str) -> None:
    """Wait until somebody has the lock of this database."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for _ in range(500):
            if (await connection.execute(HOLDERS)).rowcount:
                return
            await asyncio.sleep(0.01)
    raise AssertionError("nobody holds the lock")
