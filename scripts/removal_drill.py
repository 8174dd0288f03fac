"""Removes each example from a copy of the tree, then upgrades, serves, checks and tests the copy.

`make drill`. It shows that an example goes in one move: its folder, its tests, its page, its
migrations and its lines in app/features/__init__.py. A database that was used while the example
was there keeps what is in it, and the rest works on.
"""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
from drills import ROOT, copy_tree, log_in, sign_up, wait_until_ready

FEATURES = Path("app/features/__init__.py")


def main() -> int:
    """Drill every example that the list of features marks as one."""
    mapped = (ROOT / FEATURES).read_text()
    examples = re.findall(r"^router\.include_router\((\w+)\..*# example$", mapped, re.MULTILINE)
    if not examples:
        print("No example is left: there is nothing to remove.")
    for example in examples:
        print(f"== without {example}", flush=True)
        with tempfile.TemporaryDirectory(prefix="drill-") as place:
            copy = Path(place) / "duplex"
            copy.mkdir()
            copy_tree(copy)
            (copy / ".venv").symlink_to(ROOT / ".venv")
            drill(copy, example)
    return 0


def drill(copy: Path, example: str) -> None:
    """Use the copy, remove the example from it, and see that the rest lives."""
    used, empty = copy / "var" / "used.db", copy / "var" / "empty.db"
    tables = tables_of(copy, example)
    with serving(copy, used) as client:
        sign_up(client)
        log_in(client)
        FILL[example](client)
    before = rows(used)
    assert all(before[table] for table in tables), f"not every table was used: {before}"

    remove(copy, example)

    with serving(copy, used) as client:
        log_in(client)
        client.get("/api/v1/accounts/me").raise_for_status()
    after = rows(used)
    kept = before.keys() - {"alembic_version"}
    assert all(after.get(table, 0) >= before[table] for table in kept), (before, after)

    with serving(copy, empty) as client:
        sign_up(client)
    assert not tables & rows(empty).keys(), "the example's tables are made without it"
    for database in (empty, used):
        run(copy, ".venv/bin/python", "-m", "app", "db", "check", env=environment_of(database))
    run(copy, "make", "--no-print-directory", "check", f"PYTHON={sys.executable}")
    run(copy, "make", "--no-print-directory", "test", f"PYTHON={sys.executable}")


def fill_rooms(client: httpx2.Client) -> None:
    """A room with a post in it."""
    room = client.post("/api/v1/rooms", json={"name": "Library"}).raise_for_status().json()
    client.post(f"/api/v1/rooms/{room['id']}/posts", json={"text": "Hello."}).raise_for_status()


#: What uses an example, so that each of its tables has a row.
FILL = {"rooms": fill_rooms}


def remove(copy: Path, example: str) -> None:
    """Remove an example as a person would."""
    for folder in ("app/features", "tests", "web", "alembic/versions"):
        for found in sorted((copy / folder).rglob("*")):
            named = re.fullmatch(rf"{example}|test_{example}(_\w+)?\.py", found.name)
            if named and found.exists():  # or it went with its folder
                print(f"   removes {found.relative_to(copy)}", flush=True)
                shutil.rmtree(found) if found.is_dir() else found.unlink()
    lines = (copy / FEATURES).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not re.search(rf"\b{example}\b.*# example$", line)]
    (copy / FEATURES).write_text("".join(kept))
    print(f"   removes {len(lines) - len(kept)} lines of {FEATURES}", flush=True)


def tables_of(copy: Path, example: str) -> set[str]:
    """The tables that an example's migrations create."""
    files = (copy / "alembic" / "versions" / example).glob("*.py")
    return {t for f in files for t in re.findall(r'create_table\(\s*"(\w+)"', f.read_text())}


def rows(database: Path) -> dict[str, int]:
    """How many rows each table has."""
    with closing(sqlite3.connect(database)) as connection:
        listed = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        counts = {}
        for (name,) in listed.fetchall():
            count = f'SELECT count(*) FROM "{name}"'  # noqa: S608 - a name from the schema
            counts[name] = int(connection.execute(count).fetchone()[0])
    return counts


def environment_of(database: Path) -> dict[str, str]:
    """The environment of a process on `database`."""
    return os.environ | {"DATABASE_URL": f"sqlite:///{database}", "LOG_LEVEL": "warning"}


def run(place: Path, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a command in the copy; one that fails ends the drill."""
    print("  ", *command, flush=True)
    subprocess.run(command, cwd=place, env=env, check=True)


@contextmanager
def serving(copy: Path, database: Path) -> Iterator[httpx2.Client]:
    """A client of the copy's server, which migrates `database` first and is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(copy / ".venv/bin/python"), "-m", "app", "serve", "--migrate"]
    environment = environment_of(database) | {"HOST": "127.0.0.1", "PORT": str(port)}
    with (
        subprocess.Popen(command, cwd=copy, env=environment) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        try:
            wait_until_ready(client, alive=lambda: server.poll() is None)
            yield client
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 0, "the server did not end cleanly"


if __name__ == "__main__":
    sys.exit(main())
