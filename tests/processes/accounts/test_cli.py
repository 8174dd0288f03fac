"""The commands for accounts, in processes of their own."""

import sqlite3
from pathlib import Path

from tests.process import command, running
from tests.processes.accounts.people import sign_in, sign_up
from tests.processes.test_cli import refused

SIGN_UP = {"email": "Ann@example.com", "password": "correct horse staple", "name": "Ann"}


def test_accounts_are_kept_and_promoted_from_the_command_line(tmp_path: Path) -> None:
    """A process that is started again knows them; who has none is named, and what to do."""
    database = tmp_path / "var" / "duplex.db"
    url = f"sqlite:///{database}"
    with running(DATABASE_URL=url) as process:
        sign_up(process, **SIGN_UP)
    with running(DATABASE_URL=url) as process:
        pair = sign_in(process, SIGN_UP["email"], SIGN_UP["password"])
        account = process.get(
            "/api/v1/accounts/me", headers={"Authorization": f"Bearer {pair['access_token']}"}
        )
        assert account.json()["email"] == SIGN_UP["email"]

    promoted = command("user", "promote", "ann@EXAMPLE.com", DATABASE_URL=url)
    assert (promoted.returncode, promoted.stdout) == (0, "ann@EXAMPLE.com is an administrator.\n")
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT roles FROM users").fetchall() == [('["admin"]',)]
    said = refused("user", "promote", "bob@example.com", DATABASE_URL=url)
    assert said == "There is no account of bob@example.com: sign up first."


def test_the_commands_need_a_database_and_help_needs_none(tmp_path: Path) -> None:
    """One that is away is told without its password; so is one that is not migrated."""
    away = "postgresql://ann:hunter2@127.0.0.1:1/duplex"
    said = refused("user", "promote", "ann@example.com", DATABASE_URL=away)
    assert said.startswith(
        "The database postgresql+psycopg://ann:***@127.0.0.1:1/duplex cannot be reached ("
    )
    assert said.endswith("): start it, or correct DATABASE_URL.")
    assert refused("user", "promote", "a@b.com", DATABASE_URL=f"sqlite:///{tmp_path}/x.db") == (
        "The database is not up to date: run `python -m app db upgrade`, or serve --migrate."
    )
    assert "user" in command("--help", DATABASE_URL="nonsense").stdout
