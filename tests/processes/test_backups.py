"""Backups, on each database: made under writes, restored into an empty place, and served again."""

import asyncio
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import backups, migrations
from app.core.db import SqlDatabase
from app.core.keyring import Keyring
from app.core.node_lock import ServedAlready, node_lock
from app.core.settings import Settings
from app.realtime.log import EventLog
from tests.conftest import SECRET, settings_for
from tests.delivery.node import router
from tests.process import command
from tests.server import RunningServer


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "backup"


@pytest.fixture
def empty(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a database with nothing in it, on the engine of the test."""
    if engine == "sqlite":
        return settings_for(f"sqlite:///{tmp_path}/restored/duplex.db")
    return settings_for(request.getfixturevalue("own_postgresql").create("restored"))


def letter(file: Path) -> None:
    """Write a file that is no database."""
    file.write_text("a letter to somebody " * 100)


def other_database(file: Path) -> None:
    """Write an SQLite database that is not ours."""
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE letters (id INT)")


def rights(file: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(file.stat().st_mode)


def names(place: Path) -> list[str]:
    """What is in a directory."""
    return sorted(each.name for each in place.iterdir())


async def token_of(settings: Settings) -> str:
    """An access token signed by the newest key in the database."""
    database = SqlDatabase(settings.database)
    ring = Keyring(database, settings)
    await ring.load()
    await database.dispose()
    return ring.tokens.issue("1", session="s", name="Ann")


async def say(server: RunningServer, signed: str) -> dict[str, Any]:
    """Say something in the room; where it is in the log."""
    async with server.client(signed) as client:
        answer = await client.post("/delivery/7/say", json={"text": "x"})
    place: dict[str, Any] = answer.raise_for_status().json()
    return place


async def test_what_was_written_by_then_is_in_a_backup(
    settings: Settings, empty: Settings, backup: Path
) -> None:
    """Writers do not wait, what was acknowledged before is in it, and nothing is half in it."""
    said: asyncio.Queue[int] = asyncio.Queue(100)

    async def write(server: RunningServer) -> None:
        async with server.client(server.token()) as client:
            while True:
                answer = await client.post("/delivery/7/say", json={"text": "x" * 1000})
                await said.put(answer.raise_for_status().json()["offset"])

    with RunningServer(settings, router) as server:
        writing = asyncio.create_task(write(server))
        before = [await said.get() for _ in range(10)][-1]
        await asyncio.to_thread(backups.backup, settings, backup)
        after = max([await said.get() for _ in range(said.qsize() + 1)])
        writing.cancel()
    assert rights(backup) == 0o600
    await backups.restore(empty, backup)
    assert await migrations.differences(empty) is None
    database = SqlDatabase(empty.database)
    head = (await EventLog(database).heads(["said:7"]))["said:7"].offset
    async with database.reading() as session:
        offsets = text("SELECT \"offset\" FROM event_log WHERE topic = 'said:7' ORDER BY 1")
        there = (await session.scalars(offsets)).all()
    await database.dispose()
    assert before <= head <= after
    assert there == list(range(1, head + 1))


async def test_who_resumes_after_a_restore_starts_over(
    settings: Settings, empty: Settings, backup: Path
) -> None:
    """An offset from before means another event now: the client is told, and misses none."""
    with RunningServer(settings, router) as server:
        old = server.token()
        await say(server, old)
        await asyncio.to_thread(backups.backup, settings, backup)
        seen = await say(server, old)  # which the backup has not
    await backups.restore(empty, backup)
    with RunningServer(empty, router) as server:
        signed = await token_of(empty)
        again = await say(server, signed)
        assert again["offset"] == seen["offset"]
        position = f"?epoch={seen['epoch']}&after={seen['offset']}"
        async with server.socket(f"/delivery/7/ws{position}", signed) as socket:
            welcome = (await socket.until("welcome"))["data"]
        assert welcome["recovered"] is False
        assert (welcome["epoch"], welcome["offset"]) == (again["epoch"], again["offset"])
        async with server.client(old) as client:
            answer = await client.get("/delivery/7/place")
        assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")


async def test_every_key_of_a_backup_is_removed(
    settings: Settings, empty: Settings, backup: Path
) -> None:
    """One that was removed after the backup, as it had leaked, does not come back with it."""
    database = SqlDatabase(settings.database)
    rotated = await Keyring(database, settings).rotate("ES256")
    await database.dispose()
    await asyncio.to_thread(backups.backup, settings, backup)
    await backups.restore(empty, backup)
    database = SqlDatabase(empty.database)
    ring = Keyring(database, empty)
    rows = await ring.rows()
    await ring.load()
    await database.dispose()
    (made,) = (row for row in rows if row.removed_at is None)
    assert rotated.kid in {row.kid for row in rows} - {made.kid}
    signing = ring.tokens.signing_key()
    assert signing
    assert (signing.kid, signing.algorithm) == (made.kid, "ES256")


async def test_a_database_restored_by_other_means_is_made_fit(settings: Settings) -> None:
    """`after_restore` gives every topic a new epoch, and refuses the tokens of every key."""
    database = SqlDatabase(settings.database)
    log, ring = EventLog(database), Keyring(database, settings)
    for name in ("a", "b"):
        await log.begin(name)
    before = await log.heads(["a", "b"])
    await backups.after_restore(settings)
    after = await log.heads(["a", "b"])
    assert {name: each.offset for name, each in after.items()} == {"a": 0, "b": 0}
    assert {each.epoch for each in before.values()}.isdisjoint(e.epoch for e in after.values())
    assert [row.removed_at is None for row in await ring.rows()] == [False, True]
    await database.dispose()


async def test_nothing_is_restored_while_it_is_served(
    settings: Settings, engine: str, backup: Path
) -> None:
    """Processes that serve have positions and keys in memory."""
    await asyncio.to_thread(backups.backup, settings, backup)
    async with node_lock(settings.database, shared=True):
        with pytest.raises(ServedAlready):
            await backups.after_restore(settings)
        with pytest.raises(ServedAlready):
            await backups.restore(settings, backup)


async def test_only_an_empty_database_is_restored_into(
    settings: Settings, engine: str, backup: Path, tmp_path: Path
) -> None:
    """What is there is not touched, and the sentence says what to do."""
    await asyncio.to_thread(backups.backup, settings, backup)
    with pytest.raises(backups.BackupError) as refusal:
        await backups.restore(settings, backup)
    assert await migrations.differences(settings) is None
    if engine == "postgresql":
        assert "into an empty database, and this one has" in str(refusal.value)
        return
    assert str(refusal.value) == (
        f"A backup is restored to where nothing is: move {tmp_path}/test.db away first."
    )
    (tmp_path / "test.db").unlink()
    (tmp_path / "test.db-wal").touch()  # SQLite would take it for the restored one's
    with pytest.raises(backups.BackupError, match="db-wal away"):
        await backups.restore(settings, backup)


def test_a_backup_replaces_nothing(migrated_sqlite: Path, backup: Path, tmp_path: Path) -> None:
    """A file that is there stays as it is, and a failed backup leaves nothing behind."""
    database = settings_for(f"sqlite:///{migrated_sqlite}")
    backup.write_text("the last one")
    with pytest.raises(backups.BackupError, match="is there already: give"):
        backups.backup(database, backup)
    assert backup.read_text() == "the last one"
    letter(tmp_path / "other.db")
    other = settings_for(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(backups.BackupError, match="file is not a database"):
        backups.backup(other, tmp_path / "new")
    with pytest.raises(backups.BackupError, match="No such file"):
        backups.backup(database, tmp_path / "no" / "new")
    assert names(tmp_path) == ["backup", "other.db"]


async def test_what_is_no_backup_is_not_restored(
    empty: Settings, engine: str, backup: Path, tmp_path: Path
) -> None:
    """The place stays empty, so that a backup can be restored there next."""
    with pytest.raises(backups.BackupError, match=f"There is no file {backup}"):
        await backups.restore(empty, backup)
    letter(backup)
    said = "file is not a database" if engine == "sqlite" else "pg_restore has failed: "
    with pytest.raises(backups.BackupError, match=said):
        await backups.restore(empty, backup)
    if engine == "sqlite":
        other_database(tmp_path / "other")
        with pytest.raises(backups.BackupError, match="no database of this service"):
            await backups.restore(empty, tmp_path / "other")
        assert names(tmp_path / "restored") == ["duplex.db.lock"]
    await migrations.upgrade(empty)


def test_a_damaged_backup_is_told(migrated_sqlite: Path, backup: Path, tmp_path: Path) -> None:
    """Pages that were overwritten are found before anything is in place."""
    content = bytearray(migrated_sqlite.read_bytes())
    content[4096 * 8 : 4096 * 12] = b"\xff" * 4096 * 4
    backup.write_bytes(content)
    with pytest.raises(backups.BackupError, match=r"is damaged|malformed"):
        asyncio.run(backups.restore(settings_for(f"sqlite:///{tmp_path}/x.db"), backup))
    assert not (tmp_path / "x.db").exists()


async def test_an_older_backup_is_migrated_and_a_newer_one_refused(
    settings: Settings, empty: Settings, tmp_path: Path
) -> None:
    """It is served with this code either way, or not at all."""
    newer = "UPDATE alembic_version SET version_num = 'core_9999' WHERE version_num LIKE 'core%'"
    engine = create_async_engine(settings.database, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(
            lambda sync: alembic.downgrade(migrations._config(sync), "core@core_0001")
        )
    await asyncio.to_thread(backups.backup, settings, tmp_path / "older")
    async with engine.begin() as connection:
        await connection.execute(text(newer))
    await engine.dispose()
    await asyncio.to_thread(backups.backup, settings, tmp_path / "newer")
    await backups.restore(empty, tmp_path / "older")
    assert await migrations.differences(empty) is None
    elsewhere = settings_for(f"sqlite:///{tmp_path}/elsewhere/duplex.db")
    if settings.database.drivername.startswith("sqlite"):
        with pytest.raises(migrations.SchemaError, match="newer than the code"):
            await backups.restore(elsewhere, tmp_path / "newer")
        assert names(tmp_path / "elsewhere") == ["duplex.db.lock"]


def test_without_postgresqls_programs_the_remedy_is_named(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump is not part of the service, and its password is in no argument."""
    monkeypatch.setenv("PATH", str(tmp_path))
    database = settings_for("postgresql://ann:hunter2@127.0.0.1:1/duplex")
    with pytest.raises(backups.BackupError, match="pg_dump is not installed: install PostgreSQL"):
        backups.backup(database, backup)
    given = tmp_path / "arguments"
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" >{given}; echo "pg_dump: $PGPASSWORD" >&2; exit 1\n')
    program.chmod(0o700)
    with pytest.raises(backups.BackupError, match=r"^pg_dump has failed: hunter2$"):
        backups.backup(database, backup)
    assert "--dbname=postgresql://ann@127.0.0.1:1/duplex" in given.read_text()
    assert "hunter2" not in given.read_text()


def test_the_commands(migrated_sqlite: Path, backup: Path, tmp_path: Path) -> None:
    """Each says in a sentence what is so now, or why not."""

    def said(*arguments: str, url: str, code: int = 0) -> str:
        done = command("db", *arguments, DATABASE_URL=url, SECRET_KEY=SECRET)
        assert done.returncode == code, done.stderr
        return done.stderr.removeprefix("duplex: ") if code else done.stdout

    url = f"sqlite:///{tmp_path}/restored.db"
    assert said("backup", str(backup), url=f"sqlite:///{migrated_sqlite}") == (
        f"{backup} has the database: keep it as secret as the database, with its SECRET_KEY.\n"
    )
    renewed = "Clients start over, and access tokens are refused: sessions refresh theirs.\n"
    restored = said("restore", str(backup), url=url)
    assert restored == f"The database is that of {backup}. {renewed}"
    assert said("after-restore", url=url) == renewed
    assert "is there already" in said("backup", str(backup), url=url, code=1)
    assert "move " in said("restore", str(backup), url=url, code=1)
