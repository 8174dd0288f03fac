"""docs/extending.md, put into a copy of the tree and used."""

import difflib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from websockets.asyncio.client import connect

from tests.process import ROOT, token

GUIDE = (ROOT / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^`(app/[\w/.]+)`\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIRST = "## Add an error, a route and a channel"
SETTINGS = "app/core/settings.py"

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
    """Somebody who is signed in at the copy's server."""

    def __init__(self, url: str, subject: str, name: str) -> None:
        self.subject = subject
        self._url, self._token = url, token(subject, name)
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
