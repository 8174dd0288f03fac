"""The service as a process of its own: what a person who starts it sees."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from app.core.settings import Settings

ROOT = Path(__file__).parent.parent
#: The service, with a WebSocket of the tests' own.
PROGRAM = """
from fastapi import APIRouter, WebSocket
from app import features
from app.cli import main
from app.core.auth import CurrentUser

router = APIRouter()

@router.websocket("/probe")
async def probe(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept("bearer" if websocket.scope["subprotocols"] else None)
    await websocket.receive()

features.router.include_router(router)
main()
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without any setting, and with these."""
    kept = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
    return kept | variables


def command(
    *arguments: str, root: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m app …` in the tree at `root`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=root,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


class Process:
    """A running `serve --migrate`: its address, and, once it has ended, all that it wrote."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._started = started
        self.output = ""
        self.line = self._read_until("Duplex is at ")
        self.url = self.line.split()[3]
        self.ws_url = self.url.replace("http", "ws", 1)

    def _read_until(self, beginning: str) -> str:
        assert self._started.stdout
        for line in self._started.stdout:
            self.output += line
            if line.startswith(beginning):
                return line
        raise AssertionError(f"it did not start: {self.output}")

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        """Ask it for something."""
        return httpx2.get(self.url + path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """Send it something."""
        return httpx2.post(self.url + path, **kwargs)

    def sign_in(self, email: str, password: str) -> dict[str, Any]:
        """Begin a session; returns its tokens."""
        form = {"username": email, "password": password}
        pair: dict[str, Any] = self.post("/api/v1/auth/login", data=form).json()
        return pair

    def ask_to_end(self, number: int = signal.SIGINT) -> None:
        """Send it a signal."""
        self._started.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        if not self._started.stdout or self._started.stdout.closed:
            return self._started.returncode
        rest, _ = self._started.communicate(timeout=20)
        self.output += rest
        return self._started.returncode


@contextmanager
def running(**variables: str) -> Iterator[Process]:
    """`python -m app serve --migrate` on a free port and an empty database, unless told others."""
    with tempfile.TemporaryDirectory() as directory:
        given = {"PORT": "0", "DATABASE_URL": f"sqlite:///{directory}/process.db"} | variables
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve", "--migrate"],
            cwd=ROOT,
            env=environment(**given),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as started:
            try:
                process = Process(started)
                yield process
                if started.poll() is None:
                    process.ask_to_end()
                process.ended()
            finally:
                if started.poll() is None:
                    started.kill()
