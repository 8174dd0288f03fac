"""Removes parts from copies of the tree, then upgrades, serves, checks and tests the copies.

`make drill`. It shows that an example goes in one move, and so does accounts/ where an OpenID
provider knows who people are: its folders, of code, tests, pages and migrations, and its lines in
app/features/__init__.py. A database that was used while the part was there keeps what is in it, and
the rest works on.
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
import pytest
from anyio.from_thread import start_blocking_portal
from drills import ROOT, copy_tree, log_in, sign_up, wait_until_ready
from websockets.sync.client import connect

from tests import openid
from tests.core import issuer

FEATURES = Path("app/features/__init__.py")
FOLDERS = ("app/features", "tests", "web", "alembic/versions")


def main() -> int:
    """Drill every example that the list of features marks as one, and then accounts/."""
    examples = marked("example")
    if not examples:
        print("No example is left: there is nothing of them to remove.")
    for example in examples:
        with copied(f"without {example}") as copy:
            drill_example(copy, example)
    for people in marked("local"):
        with copied(f"without {people}, and a provider in its place") as copy:
            drill_people(copy, people, examples)
    return 0


def marked(mark: str) -> list[str]:
    """The features whose lines end in this mark."""
    text = (ROOT / FEATURES).read_text()
    return re.findall(rf"^    (\w+),  # {mark}$", text, re.MULTILINE)


@contextmanager
def copied(title: str) -> Iterator[Path]:
    """A copy of the tree, with the environment of this one."""
    print(f"== {title}", flush=True)
    with tempfile.TemporaryDirectory(prefix="drill-") as place:
        copy = Path(place) / "duplex"
        copy.mkdir()
        copy_tree(copy)
        (copy / ".venv").symlink_to(ROOT / ".venv")
        yield copy


def drill_example(copy: Path, example: str) -> None:
    """Use the copy, remove the example from it, and see that the rest lives."""
    used, empty = copy / "var" / "used.db", copy / "var" / "empty.db"
    tables = tables_of(copy, example)
    with serving(copy, used) as client:
        sign_up(client)
        log_in(client)
        USES[example](client)
    before = rows(used)
    assert all(before[table] for table in tables), f"not every table was used: {before}"

    remove(copy, example, "example")

    with serving(copy, used) as client:
        log_in(client)
        client.get("/api/v1/accounts/me").raise_for_status()
    with serving(copy, empty) as client:
        sign_up(client)
    see_the_rest(copy, used, empty, tables, before)
    make(copy, "check", "test", "browser")


def drill_people(copy: Path, people: str, examples: list[str]) -> None:
    """Use the copy, remove who knows people from it, and let a provider's people use the rest."""
    used, empty = copy / "var" / "used.db", copy / "var" / "empty.db"
    tables = tables_of(copy, people)
    with serving(copy, used) as client:
        sign_up(client)
        log_in(client)
        for example in examples:
            USES[example](client)
    before = rows(used)
    assert any(before[table] for table in tables), f"no table was used: {before}"

    remove(copy, people, "local")

    with provider() as (settings, token):
        for database in (used, empty):
            with serving(copy, database, **settings) as client:
                assert client.post("/api/v1/auth/login").status_code == 404
                assert client.get("/api/v1/me").status_code == 401
                client.get("/").raise_for_status()
                client.headers["Authorization"] = f"Bearer {token}"
                client.get("/api/v1/me").raise_for_status()
                for example in examples:
                    USES[example](client)
    see_the_rest(copy, used, empty, tables, before)
    make(copy, "check", "browser")
    # The tests of core and realtime are run without the examples; here they have to be found.
    run(copy, ".venv/bin/python", "-m", "pytest", "--collect-only", "-qq")
    make(copy, "test", ARGS="tests/features tests/wire tests/test_*.py")

    for example in examples:  # and there is something left without both
        remove(copy, example, "example")
    with serving(copy, empty):
        make(copy, "check")


def use_rooms(client: httpx2.Client) -> None:
    """A room, where what is posted at one door is heard at the other."""
    room = client.post("/api/v1/rooms", json={"name": "Library"}).raise_for_status().json()
    place = f"/api/v1/rooms/{room['id']}"
    headers = {"Authorization": client.headers["Authorization"]}
    address = str(client.base_url.join(f"{place}/ws")).replace("http", "ws", 1)
    with connect(address, additional_headers=headers, proxy=None) as socket:
        assert '"welcome"' in str(socket.recv(timeout=10))
        client.post(f"{place}/posts", json={"text": "Hello."}).raise_for_status()
        while '"Hello."' not in str(socket.recv(timeout=10)):
            pass


#: What uses an example, so that each of its tables has a row.
USES = {"rooms": use_rooms}


@contextmanager
def provider() -> Iterator[tuple[dict[str, str], str]]:
    """The settings with which the service trusts a provider, and a token of somebody there.

    It is a real one, or, where node is missing, the one that the tests have made themselves.
    """
    try:
        real = openid.OwnProvider()
    except pytest.skip.Exception as missing:
        print(f"   {missing}", flush=True)
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(issuer.Issuer()) as made,
        ):
            yield trusting(made.url, issuer.AUDIENCE), made.token()
    else:
        with real:
            yield trusting(real.issuer, openid.AUDIENCE), real.person_tokens("ada")["access_token"]


def trusting(url: str, audience: str) -> dict[str, str]:
    """The settings of a service whose people a provider knows; they may do all they are let."""
    oidc = {"OIDC_ISSUER": url, "OIDC_AUDIENCE": audience, "OIDC_SCOPES": "false"}
    return {"AUTH_MODE": "oidc"} | oidc


def remove(copy: Path, part: str, mark: str) -> None:
    """Remove a part as a person would."""
    for folder in FOLDERS:
        for found in sorted((copy / folder).rglob(part)):
            if found.is_dir():  # or it went with the folder that it was in
                print(f"   removes {found.relative_to(copy)}/", flush=True)
                shutil.rmtree(found)
    lines = (copy / FEATURES).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not re.search(rf"\b{part}\b.*# {mark}$", line)]
    (copy / FEATURES).write_text("".join(kept))
    print(f"   removes {len(lines) - len(kept)} lines of {FEATURES}", flush=True)


def see_the_rest(
    copy: Path, used: Path, empty: Path, tables: set[str], before: dict[str, int]
) -> None:
    """See that no row is lost, no table made that nobody needs, and that migrations agree."""
    after = rows(used)
    kept = before.keys() - {"alembic_version"}
    assert all(after.get(table, 0) >= before[table] for table in kept), (before, after)
    assert not tables & rows(empty).keys(), "the tables of what was removed are made without it"
    for database in (empty, used):
        run(copy, ".venv/bin/python", "-m", "app", "db", "check", env=environment_of(database))


def tables_of(copy: Path, part: str) -> set[str]:
    """The tables that a part's migrations create."""
    files = (copy / "alembic" / "versions" / part).glob("*.py")
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


def environment_of(database: Path, **settings: str) -> dict[str, str]:
    """The environment of a process on `database`."""
    given = {"DATABASE_URL": f"sqlite:///{database}", "LOG_LEVEL": "warning"}
    return os.environ | given | settings


def make(copy: Path, *targets: str, **variables: str) -> None:
    """Run targets of the copy's Makefile, one after the other."""
    given = [f"{name}={value}" for name, value in variables.items()]
    for target in targets:
        run(copy, "make", "--no-print-directory", target, f"PYTHON={sys.executable}", *given)


def run(place: Path, *command: str, env: dict[str, str] | None = None) -> None:
    """Run a command in the copy; one that fails ends the drill."""
    print("  ", *command, flush=True)
    subprocess.run(command, cwd=place, env=env, check=True)


@contextmanager
def serving(copy: Path, database: Path, **settings: str) -> Iterator[httpx2.Client]:
    """A client of the copy's server, which migrates `database` first and is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(copy / ".venv/bin/python"), "-m", "app", "serve", "--migrate"]
    environment = environment_of(database, **settings) | {"HOST": "127.0.0.1", "PORT": str(port)}
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
