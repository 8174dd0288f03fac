"""The service as a process of its own: what a person who starts it sees."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.core.settings import DEVELOPMENT_SECRET, Settings
from app.core.tokens import Tokens
from tests.server import NO_TLS

ROOT = Path(__file__).parent.parent
TOKENS = Tokens(
    DEVELOPMENT_SECRET, issuer="duplex", audience="duplex", lifetime=timedelta(seconds=900)
)
#: The service, with routes of the tests' own.
PROGRAM = """
import asyncio, os, time
from fastapi import APIRouter, WebSocket
from app import features
from app.cli import main
from app.core.auth import CurrentUser

router = APIRouter()

@router.websocket("/probe")
async def probe(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept("bearer" if websocket.scope["subprotocols"] else None)
    await websocket.receive()

@router.get("/probe/process")
async def process() -> int:
    return os.getpid()

@router.get("/probe/waits")
async def waits(seconds: float) -> str:
    print("It waits.", flush=True)
    await asyncio.sleep(seconds)
    return "done"

@router.websocket("/probe/blocks")
async def blocks(websocket: WebSocket) -> None:
    await websocket.accept()
    lines = await websocket.receive_json()
    print("It blocks.\\n" * lines, flush=True)
    time.sleep(60)

features.router.include_router(router)
main()
"""


def token(subject: str = "1", name: str = "Ann") -> str:
    """An access token that a process with no SECRET_KEY takes, for somebody without an account."""
    return TOKENS.issue(subject, session=f"session-{subject}", name=name)


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
        self.line = self.wrote("Duplex is at ")
        self.url = self.line.split()[3]
        self.ws_url = self.url.replace("http", "ws", 1)

    @property
    def pid(self) -> int:
        """The number of the process that was started."""
        return self._started.pid

    def wrote(self, part: str) -> str:
        """Wait until it writes a line with `part` in it; returns the line."""
        assert self._started.stdout
        for line in self._started.stdout:
            self.output += line
            if part in line:
                return line
        raise AssertionError(f"it never wrote {part!r}: {self.output}")

    def get(self, path: str, **kwargs: Any) -> httpx2.Response:
        """Ask it for something."""
        return httpx2.get(self.url + path, verify=NO_TLS, **{"timeout": 20} | kwargs)

    def post(self, path: str, **kwargs: Any) -> httpx2.Response:
        """Send it something."""
        return httpx2.post(self.url + path, verify=NO_TLS, **{"timeout": 20} | kwargs)

    def ask_to_end(self, number: int = signal.SIGINT) -> None:
        """Send it a signal."""
        self._started.send_signal(number)

    def exit_code(self) -> int:
        """Wait for its end without reading what it writes; returns the exit code."""
        return self._started.wait(timeout=20)

    def ended(self) -> int:
        """Wait for its end, and that of whoever writes where it does; returns the exit code."""
        if not self._started.stdout or self._started.stdout.closed:
            return self._started.returncode
        rest, _ = self._started.communicate(timeout=20)
        self.output += rest
        return self._started.returncode


@contextmanager
def running(*options: str, program: str = PROGRAM, **variables: str) -> Iterator[Process]:
    """`python -m app serve --migrate` on a free port and an empty database, unless told others."""
    with tempfile.TemporaryDirectory() as directory:
        given = {
            "PORT": "0",
            "DATABASE_URL": f"sqlite:///{directory}/process.db",
            "MAIL_DIRECTORY": f"{directory}/mail",
        } | variables
        with subprocess.Popen(
            [sys.executable, "-c", program, "serve", "--migrate", *options],
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


async def told_twice(process: Process) -> None:
    """Ask a process to end, and again while a request of its takes long: it ends at once."""
    async with httpx2.AsyncClient(base_url=process.url) as client:
        request = asyncio.create_task(client.get("/probe/waits?seconds=60", timeout=60))
        await asyncio.to_thread(process.wrote, "It waits.")
        process.ask_to_end(signal.SIGTERM)
        with suppress(httpx2.TransportError):
            while await _answers(process):  # until all have heard: two signals at once are one
                pass
        started = time.monotonic()
        process.ask_to_end(signal.SIGTERM)
        with pytest.raises(httpx2.TransportError):
            await request
    await asyncio.to_thread(process.ended)
    assert time.monotonic() - started < 12


async def _answers(process: Process) -> bool:
    async with httpx2.AsyncClient() as client:
        return (await client.get(f"{process.url}/health/live")).is_success
