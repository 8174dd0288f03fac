"""A compose project of the test's own, in a copy of the tree: started, asked and looked at."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2

PORTS = ("HTTP_PORT", "HTTPS_PORT", "MAIL_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


class Project:
    """It has a name, ports and an address range of its own: one that is up already is left alone.

    Args:
        copy: the directory with docker-compose.yml.
    """

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.name = f"duplex-test-{os.getpid()}"
        self.edge = f"10.253.{os.getpid() % 180 + 1}"
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
            for free in sockets:
                free.bind(("127.0.0.1", 0))
            self.ports = {
                name: free.getsockname()[1] for name, free in zip(PORTS, sockets, strict=True)
            }
        self.url = f"https://localhost:{self.ports['HTTPS_PORT']}"
        self.root = copy / "root.crt"
        self.variables = {name: str(port) for name, port in self.ports.items()}
        self.variables |= {"COMPOSE_PROJECT_NAME": self.name, "EDGE": self.edge}

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints that is run in the copy, with the project's variables."""
        done = subprocess.run(
            command, cwd=self.copy, env=os.environ | self.variables, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What `docker compose` prints; raises RuntimeError where it fails."""
        return self.run("docker", "compose", *arguments, check=check)

    def deploy(self, command: str, *, check: bool = True) -> str:
        """What scripts/deploy.py prints, as `make up` and `make rolling-restart` run it."""
        return self.run(sys.executable, "scripts/deploy.py", command, check=check)

    def containers(self, service: str) -> list[str]:
        """The service's containers, those that have ended too."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, container: str) -> Any:
        """What Docker knows of a container."""
        return json.loads(self.run("docker", "inspect", container))[0]

    def trust(self) -> ssl.SSLContext:
        """A context that trusts the proxy's own authority, and no other."""
        if not self.root.exists():
            place = "/data/caddy/pki/authorities/local/root.crt"
            self.compose("cp", f"proxy:{place}", str(self.root))
        return ssl.create_default_context(cafile=str(self.root))

    @contextmanager
    def client(self) -> Iterator[httpx2.Client]:
        """A client of the proxy."""
        with httpx2.Client(
            base_url=self.url, verify=self.trust(), trust_env=False, timeout=30
        ) as client:
            yield client

    def mailed(self, address: str) -> str:
        """The text of the first mail to an address; waits for it."""
        url = f"http://127.0.0.1:{self.ports['MAIL_PORT']}/api/v1"
        with httpx2.Client(base_url=url, trust_env=False, timeout=15) as mails:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                for mail in mails.get("/messages").raise_for_status().json()["messages"]:
                    if mail["To"][0]["Address"] == address:
                        read = mails.get(f"/message/{mail['ID']}").raise_for_status()
                        return str(read.json()["Text"])
                time.sleep(0.2)
        raise RuntimeError(f"no mail came to {address}")

    def lines(self, container: str) -> list[dict[str, Any]]:
        """What a container of the service has logged."""
        logged = self.run("docker", "logs", container).splitlines()
        return [json.loads(line) for line in logged if line.startswith("{")]

    def remove(self) -> None:
        """Take it down, with its volumes and its image."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", check=False)
        self.run("docker", "image", "rm", self.name, check=False)
