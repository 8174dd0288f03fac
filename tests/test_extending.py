"""docs/extending.md works: its code is put into a copy of the tree, and used."""

import asyncio
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.server import Socket

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^`(app/[\w/.]+)`\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIRST = "## Add an error, a route and a channel"
SETTINGS = "app/core/settings.py"
PASSWORD = "correct horse battery staple"

Blocks = list[tuple[str, str]]


def blocks(*, first: bool) -> Blocks:
    """The files and the code of the first section, or of the others."""
    section, others = GUIDE.split(FIRST)[1].split("\n## ", 1)
    return BLOCK.findall(section if first else others)


def put(tree: Path, code: Blocks) -> None:
    """Do with the code what the guide says: imports to the top, the rest to the end."""
    for name, text in code:
        file = tree / name
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            file.write_text(text)
            continue
        before = file.read_text()
        if name == SETTINGS:  # a field, which goes to the others
            fields, methods = before.split("\n    @", 1)
            file.write_text(f"{fields}{text}\n    @{methods}")
            continue
        imports = re.match(r"((?:from|import) .*\n)*", text)
        assert imports
        top = re.search(r"^(from|import) ", before, re.MULTILINE)
        assert top
        rest = text[imports.end() :].strip("\n")
        gap = "\n\n" if re.match(r"class |@", rest) else ""
        file.write_text(f"{before[: top.start()]}{imports[0]}{before[top.start() :]}{gap}{rest}\n")
    run(tree, "ruff", "check", "--no-cache", "--fix", "--select", "I", "app")


def run(tree: Path, *arguments: str, **variables: str) -> str:
    """What a module prints that is run in the tree; one that fails, fails the test."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tree,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def check(tree: Path) -> None:
    """See that the code is formatted as it is, and that the linter likes it."""
    run(tree, "ruff", "format", "--no-cache", "--check", "app")
    run(tree, "ruff", "check", "--no-cache", "app")


def added(tree: Path) -> dict[str, list[str]]:
    """The lines that each file of the tree has and ours has not; blank ones do not count."""
    found: dict[str, list[str]] = {}
    for file in sorted((tree / "app").rglob("*.py")):
        name = str(file.relative_to(tree))
        ours = (ROOT / name).read_text().splitlines() if (ROOT / name).exists() else []
        compared = difflib.unified_diff(ours, file.read_text().splitlines(), lineterm="", n=0)
        lines = [line[1:] for line in list(compared)[2:] if line.startswith("+")]
        if lines := [line for line in lines if line.strip()]:
            found[name] = lines
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what runs."""
    for name in ("app", "alembic", "web"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@contextmanager
def running(tree: Path, database: str) -> Iterator[str]:
    """The address of the copy's own server."""
    with subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--migrate"],
        cwd=tree,
        env=os.environ
        | {"PORT": "0", "DATABASE_URL": database, "ENVIRONMENT": "test", "NOTES_SHOWN": "2"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout
        try:
            said = next(line for line in server.stdout if line.startswith("Duplex is at "))
            yield said.split()[3]
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()
    assert server.returncode == 0


class Person:
    """Somebody with an account of the copy."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        account = {"email": f"{name}@example.com", "password": PASSWORD, "name": name}
        with httpx2.Client(base_url=f"{url}/api/v1") as client:
            self.id = client.post("/accounts", json=account).json()["id"]
            form = {"username": account["email"], "password": PASSWORD}
            self._token = client.post("/auth/login", data=form).json()["access_token"]
        self.headers = {"Authorization": f"Bearer {self._token}"}

    def ask(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        """The answer to a request."""
        address = f"{self._url}/api/v1{path}"
        return httpx2.request(method, address, headers=self.headers, **kwargs)

    def socket(self, path: str, *, page: bool = False) -> connect:
        """A socket, as a program or a page opens it."""
        address = f"{self._url.replace('http', 'ws', 1)}/api/v1{path}"
        if not page:
            return connect(address, additional_headers=self.headers, proxy=None)
        protocols: Any = ["bearer", self._token]
        origin: Any = self._url
        return connect(address, origin=origin, subprotocols=protocols, proxy=None)


def test_an_error_a_route_and_a_channel_take_fifteen_lines(tree: Path) -> None:
    """Counted from the diff of formatted files, imports included, in no more than four files."""
    put(tree, blocks(first=True))
    check(tree)
    lines = added(tree)
    assert set(lines) == {name for name, _ in blocks(first=True)}
    assert sum(map(len, lines.values())) <= 15, lines
    assert len(lines) <= 4
    said = f"{sum(map(len, lines.values()))} lines in {['', 'one', 'two'][len(lines)]} files"
    assert said in GUIDE


def test_the_error_is_at_both_doors(tree: Path) -> None:
    """The new route and the new channel let their owner in, and refuse others with the error."""
    put(tree, blocks(first=True))
    with running(tree, f"sqlite:///{tree}/first.db") as url:
        ann, bob = Person(url, "Ann"), Person(url, "Bob")
        path = f"/accounts/{ann.id}"
        assert ann.ask("GET", f"{path}/greeting").json() == "Hello, Ann."
        over_rest = bob.ask("GET", f"{path}/greeting")
        assert over_rest.status_code == 403
        described = httpx2.get(f"{url}/errors/accounts.not_yours").json()
        schema = httpx2.get(f"{url}/openapi.json").json()
        asyncio.run(_at_the_channel(ann, bob, path, over_rest.json()))
    assert described["close_code"] == 4403
    operation = schema["paths"]["/api/v1/accounts/{account_id}/greeting"]["get"]
    assert "accounts.not_yours" in operation["responses"]["403"]["description"]


async def _at_the_channel(ann: Person, bob: Person, path: str, over_rest: dict[str, Any]) -> None:
    async with ann.socket(f"{path}/ws") as connection:
        socket = Socket(connection)
        assert (await socket.frame())["type"] == "welcome"
        assert (await socket.ask("ping"))["type"] == "pong"
    with pytest.raises(InvalidStatus, match="403"):
        async with bob.socket(f"{path}/ws"):
            pass
    async with bob.socket(f"{path}/ws", page=True) as connection:
        code, reason, (frame,) = await Socket(connection).ending()
    assert (code, reason) == (4403, "accounts.not_yours")
    own = {"instance": None, "request_id": None}
    assert frame["data"] | own == over_rest | own


def test_the_feature_of_the_guide_works(tree: Path) -> None:
    """Its migration is written, its setting read, its guard kept, its error is at both doors."""
    database = f"sqlite:///{tree}/feature.db"
    put(tree, blocks(first=False))
    check(tree)
    revise = re.search(r'^python -m app (db revision \w+) "(.+)"$', GUIDE, re.MULTILINE)
    assert revise
    run(tree, "app", "db", "upgrade", DATABASE_URL=database)
    written = run(tree, "app", *revise[1].split(), revise[2], DATABASE_URL=database)
    named = re.search(r"`(alembic/versions/.+\.py)`", GUIDE)
    assert named
    assert written.endswith(str(tree / named[1]))
    with running(tree, database) as url:
        ann = Person(url, "Ann")
        for text in ("one", "two", "three"):
            assert ann.ask("POST", "/notes", json={"text": text}).status_code == 201
        assert [note["text"] for note in ann.ask("GET", "/notes").json()] == ["three", "two"]
        again = ann.ask("POST", "/notes", json={"text": "one"})
        assert (again.status_code, again.json()["code"]) == (409, "notes.pinned_already")
        refused = ann.ask("DELETE", "/notes")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        asyncio.run(_at_the_board(ann))
    run(tree, "app", "db", "check", DATABASE_URL=database)


async def _at_the_board(ann: Person) -> None:
    async with ann.socket("/notes/ws") as hers, ann.socket("/notes/ws") as watching:
        socket, other = Socket(hers), Socket(watching)
        assert (await other.frame())["type"] == "welcome"
        refused = await socket.ask("pin", {"text": "one"}, ref="a")
        assert refused["data"]["code"] == "notes.pinned_already"
        pinned = await socket.ask("pin", {"text": "four"}, ref="b")
        heard = await other.frame()
        assert heard == {"type": "pinned", "topic": "notes", "data": pinned["data"]}
