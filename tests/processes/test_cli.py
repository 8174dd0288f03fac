"""The command line, in processes of its own: what a person is told, and the exit code."""

import asyncio
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.process import ROOT, Process, command, running, token
from tests.redis import OwnRedis


def refused(*arguments: str, code: int = 1, **variables: str) -> str:
    """The one sentence that a command ends with, which names what to do."""
    done = command(*arguments, root=ROOT, **variables)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("duplex: ")
    return done.stderr.removeprefix("duplex: ").strip()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "var" / "duplex.db"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_port_that_is_taken_changes_nothing(taken_port: int, database: Path) -> None:
    """The remedy is named, and no database has been made."""
    said = refused("serve", "--migrate", PORT=str(taken_port), DATABASE_URL=f"sqlite:///{database}")
    assert said == (
        f"127.0.0.1:{taken_port} is in use: stop what listens there, or set PORT to a free port."
    )
    assert not database.parent.exists()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "::nonsense"])
def test_a_host_that_is_not_ours_is_named(host: str, database: Path) -> None:
    """An address that cannot be listened on names HOST."""
    said = refused("serve", HOST=host, PORT="0", DATABASE_URL=f"sqlite:///{database}")
    assert said.startswith(f"{host}:0 cannot be listened on (")
    assert said.endswith("): correct HOST or PORT.")


WRONG: dict[str, Any] = {"PORT": "eighty", "SECRET_KEY": "hunter2", "ALLOWED_HOSTS": "*a"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("serve", "--workers", "2"),
        ("worker",),
        ("db", "upgrade"),
        ("settings", "check"),
    ],
    ids=" ".join,
)
def test_all_settings_that_are_wrong_are_named(arguments: tuple[str, ...]) -> None:
    """A line for each, whatever is started: its name, what it should be and never its value."""
    done = command(*arguments, **WRONG)
    assert (done.returncode, done.stdout) == (1, "")
    heading, *lines = done.stderr.splitlines()
    assert heading == "duplex: 3 settings are wrong (.env.example describes each):"
    assert [line.split(":")[0].strip() for line in lines] == list(WRONG)
    assert "hunter2" not in done.stderr
    assert "eighty" not in done.stderr


def test_settings_are_listed_without_secrets(tmp_path: Path) -> None:
    """What is in force, that of `.env` too; what nothing reads there is pointed out."""
    (tmp_path / ".env").write_text("COLOUR=red\nTOKEN_ISSUER=ours\nOTEL_SERVICE_NAME=x\n")
    for name in ("app", "alembic"):
        (tmp_path / name).symlink_to(ROOT / name)
    secrets: dict[str, Any] = {
        "SECRET_KEY": "hunter1" * 5,
        "DATABASE_URL": "postgresql://ann:hunter2@db.example/duplex?password=hunter3",
        "DATABASE_PASSWORD": "hunter4",
        "REDIS_URL": "redis://:hunter5@redis.example",
        "SMTP_URL": "smtps://ann:hunter6@mail.example",
        "SIGN_IN_PROVIDERS": '{"ours": {"issuer": "https://op.example", "client_id": "us", '
        '"client_secret": "hunter7", "label": "Ours"}}',
    }
    done = command("settings", "check", root=tmp_path, **secrets)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter" not in done.stdout
    given, default = done.stdout.split("By default:")
    assert given.startswith("The settings are right.")
    assert "DATABASE_URL=postgresql+psycopg://ann:***@db.example/duplex\n" in given
    assert "TOKEN_ISSUER=ours" in given
    assert "PORT=8000" in default
    assert default.endswith("\nIn .env, and no setting: COLOUR\n")


def test_a_worker_on_sqlite_is_refused_in_production() -> None:
    """The remedy is named; where it does not matter a worker may run beside."""
    production: dict[str, Any] = {"ENVIRONMENT": "production", "SECRET_KEY": "x" * 32}
    production["SMTP_URL"] = "smtps://h"
    said = refused("worker", DATABASE_URL="sqlite:////nowhere/x.db", **production)
    assert said == (
        "SQLite is for one process in production: set DATABASE_URL to a postgresql:// address."
    )


def test_a_database_that_is_away_is_named() -> None:
    """Its address is told without the password, with what to do."""
    url = "postgresql://ann:hunter2@127.0.0.1:1/duplex"
    said = refused("serve", "--migrate", PORT="0", DATABASE_URL=url)
    assert said.startswith(
        "The database postgresql+psycopg://ann:***@127.0.0.1:1/duplex cannot be reached ("
    )
    assert said.endswith("): start it, or correct DATABASE_URL.")
    assert refused("jobs", "list", DATABASE_URL=url) == said
    assert "hunter2" not in said


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The file is named, and that its directory has to be writable."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        url = f"sqlite:///{place}/duplex.db"
        said = refused("serve", "--migrate", PORT="0", DATABASE_URL=url)
        assert said.startswith(f"The database file {place}/duplex.db cannot be used (")
        assert said.endswith(
            "): make its directory writable, or set DATABASE_URL to another place."
        )


def test_a_new_migration_needs_a_feature(tmp_path: Path, migrated_sqlite: Path) -> None:
    """A migration is of the models of a feature, and of nothing else."""
    shutil.copy(migrated_sqlite, tmp_path / "x.db")
    said = refused("db", "revision", "nowhere", "why", DATABASE_URL=f"sqlite:///{tmp_path}/x.db")
    assert said == "There is no app/features/nowhere/models.py: write the models first."
    assert not (ROOT / "alembic" / "versions" / "nowhere").exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Something else at the database's place is not touched."""
    (tmp_path / "x.db").write_text("a letter to somebody " * 100)
    said = refused("db", "upgrade", DATABASE_URL=f"sqlite:///{tmp_path}/x.db")
    assert f"{tmp_path}/x.db" in said
    assert (tmp_path / "x.db").read_text().startswith("a letter")


def test_a_database_that_is_not_migrated_is_not_served(database: Path) -> None:
    """Without --migrate nothing is migrated, and what to run is named."""
    database.parent.mkdir()
    said = refused("serve", PORT="0", DATABASE_URL=f"sqlite:///{database}")
    expected = "The database is not up to date: run `python -m app db upgrade`, or serve --migrate."
    assert said == expected
    assert refused("db", "check", DATABASE_URL=f"sqlite:///{database}") == expected
    assert refused("jobs", "list", DATABASE_URL=f"sqlite:///{database}") == expected


def test_a_database_newer_than_the_code_is_left_alone(
    tmp_path: Path, migrated_sqlite: Path
) -> None:
    """A migration that this code does not know stops it."""
    shutil.copy(migrated_sqlite, tmp_path / "newer.db")
    with sqlite3.connect(tmp_path / "newer.db") as connection:
        connection.execute(
            "UPDATE alembic_version SET version_num = 'core_9999' WHERE version_num LIKE 'core_%'"
        )
    said = refused("serve", "--migrate", PORT="0", DATABASE_URL=f"sqlite:///{tmp_path}/newer.db")
    assert "has the migration core_9999" in said
    assert said.endswith("Deploy the newer code, or restore a backup.")


def test_serving_twice_keeps_the_data(database: Path) -> None:
    """It says where it is, ends cleanly, and finds its data when it is started again."""
    url = f"sqlite:///{database}"
    for arguments in (("db", "upgrade"), ("keys", "rotate", "--algorithm", "ES256")):
        assert command(*arguments, DATABASE_URL=url).returncode == 0
    with running(DATABASE_URL=url) as process:
        assert process.line.startswith("Duplex is at http://127.0.0.1:")
        assert process.line.endswith(" (Ctrl-C ends it)\n")
        keys = process.get("/.well-known/jwks.json").json()["keys"]
        process.ask_to_end(signal.SIGINT)
        assert process.ended() == 0
        assert "Traceback" not in process.output
    with running(DATABASE_URL=url) as process:
        assert process.get("/.well-known/jwks.json").json()["keys"] == keys
    assert keys


def test_a_database_is_not_served_twice_without_redis(database: Path) -> None:
    """The second process ends with the remedy, and the first goes on."""
    url = f"sqlite:///{database}"
    with running(DATABASE_URL=url) as process:
        assert refused("serve", PORT="0", DATABASE_URL=url) == (
            "Another process serves this database, and the two would not hear each other: stop "
            "it, or set REDIS_URL for both."
        )
        assert process.get("/health/ready").json()["status"] == "ok"


def test_processes_with_redis_serve_a_database_together(
    database: Path, own_redis: OwnRedis
) -> None:
    """Two of them run side by side."""
    together = {"DATABASE_URL": f"sqlite:///{database}", "REDIS_URL": own_redis.url}
    with running(**together) as one, running(**together) as other:
        assert one.get("/health/live").status_code == other.get("/health/live").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_open_socket_is_told_of_the_end(number: int) -> None:
    """Whoever is connected gets 1012 (service restart), and the process ends cleanly."""
    with running() as process:
        assert asyncio.run(_close_code_at_the_end(process, number)) == 1012
        assert process.ended() == 0
        assert "Traceback" not in process.output


async def _close_code_at_the_end(process: Process, number: int) -> int | None:
    headers = {"Authorization": f"Bearer {token()}"}
    address = f"{process.ws_url}/probe"
    async with connect(address, additional_headers=headers, proxy=None) as opened:
        process.ask_to_end(number)
        assert '"code":"restarting"' in str(await opened.recv())
        with pytest.raises(ConnectionClosed):
            await opened.recv()
        return opened.close_code


def test_nobody_needs_a_database_to_ask_for_help() -> None:
    """Help names every command."""
    done = command("--help", DATABASE_URL="nonsense")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("serve", "db", "jobs", "keys"))
