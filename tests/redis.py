"""A Redis server of a test's own, to be killed, hung and started again."""

import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence

import pytest
import redis

from tests.owned import OwnProcess


def free_port() -> int:
    """A port that nobody listens on, and that stays free while a server of ours is down.

    Below those that the kernel gives to clients: one that tries to reach a server that is down
    would get its port in the end, and be connected to itself.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class OwnRedis(OwnProcess):
    """A redis-server that keeps nothing, at the same port for as long as the block lasts.

    Skips the test where there is no redis-server.

    Args:
        options: of redis-server's command line, as `("--requirepass", "secret")`.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed: what happens over Redis is not tested")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = tempfile.TemporaryDirectory(prefix="redis")
        self.unix_url = f"unix://{self._directory.name}/redis.sock"
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", self._directory.name, "--unixsocket", f"{self._directory.name}/redis.sock"),
            *options,
        ]

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self._process.stdout
        said = b""
        for line in self._process.stdout:
            said += line
            if b"eady to accept connections" in line:
                return
        raise AssertionError(f"redis-server did not start: {said.decode()}")

    def close(self) -> None:
        """End it for good, and remove its directory."""
        super().close()
        self._directory.cleanup()

    def client(self) -> "redis.Redis":
        """A client of it."""
        return redis.Redis(port=self.port, protocol=2, socket_timeout=5)
