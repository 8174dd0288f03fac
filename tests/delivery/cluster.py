"""Servers of the tests' own, as processes: on one database, and on one Redis where they are two."""

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

import httpx2
from websockets.asyncio.client import connect

from app.core.tokens import Tokens
from tests.conftest import SECRET
from tests.process import ROOT, environment
from tests.server import NO_TLS, Socket

START_SECONDS = 20
TOKENS = Tokens(SECRET, issuer="duplex", audience="duplex", lifetime=timedelta(seconds=900))


def token(subject: str = "1", name: str = "Ann") -> str:
    """An access token that every node takes."""
    return TOKENS.issue(subject, session=f"session-{subject}", name=name)


class Node:
    """One server process, always at the same port."""

    def __init__(self, log: Path, **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._environment = environment(
            ENVIRONMENT="test",
            SECRET_KEY=SECRET,
            TOKEN_LEEWAY_SECONDS="0",
            LOG_LEVEL="warning",
            LOG_FORMAT="json",
            PORT=str(self.port),
            **variables,
        )
        self._process: subprocess.Popen[bytes] | None = None

    def change(self, **variables: str) -> None:
        """Change its environment from the next start on."""
        self._environment |= variables

    def start(self) -> None:
        """Start it; `ready` says when it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.delivery.node", "serve"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def ready(self) -> None:
        """Wait until it is ready for work."""
        async with asyncio.timeout(START_SECONDS):
            while not await self.is_ready():
                assert self.is_alive, f"it ended: {self.output}"
                await asyncio.sleep(0.02)

    async def is_ready(self) -> bool:
        """Whether it says so."""
        try:
            async with self.client(timeout=5) as client:
                return (await client.get("/health/ready")).is_success
        except httpx2.TransportError:
            return False

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """All that it has written."""
        return self._log.read_text()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as a machine that loses its power would."""
        self.signal(signal.SIGKILL)
        self.ended()

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; its exit code."""
        assert self._process
        return self._process.wait(20)

    def client(self, token: str | None = None, *, timeout: float = 20) -> httpx2.AsyncClient:
        """An HTTP client of it, signed in where a token is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(
            base_url=self.url, headers=headers, timeout=timeout, verify=NO_TLS
        )

    @asynccontextmanager
    async def socket(self, path: str, token: str) -> AsyncIterator[Socket]:
        """A WebSocket of it; raises InvalidStatus where it is denied."""
        headers = {"Authorization": f"Bearer {token}"}
        url = self.url.replace("http", "ws", 1) + path
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            yield Socket(connection)


@dataclass
class Cluster:
    """Nodes that serve together."""

    database_url: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def first(self) -> Node:
        """One of them."""
        return self.nodes[0]

    @property
    def last(self) -> Node:
        """Another of them, where there are two."""
        return self.nodes[-1]

    async def start(self) -> Self:
        """Start all, and wait until they are ready."""
        for node in self.nodes:
            node.start()
        return await self.ready()

    async def ready(self) -> Self:
        """Wait until all are."""
        for node in self.nodes:
            await node.ready()
        return self


@contextmanager
def cluster(database_url: str, count: int, **variables: str) -> Iterator[Cluster]:
    """So many nodes on a database that is migrated, not started yet."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        made = Cluster(database_url)
        for number in range(count):
            log = Path(place) / f"node-{number}.log"
            node = Node(log, DATABASE_URL=database_url, **variables)
            stack.callback(_end, node)
            made.nodes.append(node)
        yield made


def _end(node: Node) -> None:
    if node.is_alive:
        node.kill()
