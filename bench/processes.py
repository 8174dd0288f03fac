"""Servers and clients as processes, and databases that live as long as the run."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg

from app import migrations
from app.core.settings import Settings
from bench.client import Job, Result
from bench.servers import settings_for

ROOT = Path(__file__).resolve().parent.parent
POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
GRACE_SECONDS = 0.5  # nobody is connected any more; Channels does not end at all sometimes
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


@dataclass
class Running:
    """A service under test: one process or more."""

    ports: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


def environment() -> dict[str, str]:
    """This process's environment without any setting of the service."""
    return {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}


@contextmanager
def running(name: str, *arguments: str, processes: int = 1) -> Iterator[Running]:
    """`python -m bench.servers.<name> <arguments>`, that many times, until the block ends."""
    service = Running()
    variables = environment() | {"BENCH_PREFIX": f"bench-{uuid4().hex[:12]}"}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(program(f"bench.servers.{name}", *arguments, env=variables))
            for _ in range(processes)
        ]
        for started in servers:
            assert started.stdout
            line = started.stdout.readline()
            if not line.startswith("{"):
                raise SystemExit(f"bench: {name} did not start")
            said = json.loads(line)
            service.ports.append(said["port"])
            service.pids.append(started.pid)
            service.headers = said["headers"]
        yield service


@contextmanager
def program(module: str, *arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A Python program that is talked to over its standard input and output, and ended."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(GRACE_SECONDS)
        finally:
            started.kill()


def measure(job: Job) -> Result:
    """Have a client do the job. Ends the run where the service fails it."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.client", json.dumps(asdict(job))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit("bench: the measurement failed")
    return Result(**json.loads(done.stdout))


@contextmanager
def sqlite() -> Iterator[str]:
    """The address of a migrated SQLite database."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        url = f"sqlite:///{directory}/bench.db"
        asyncio.run(migrations.upgrade(settings_for(url)))
        yield url


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a migrated PostgreSQL database. Raises psycopg's error where none answers."""
    name = f"duplex_bench_{uuid4().hex[:12]}"
    url = POSTGRESQL.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(POSTGRESQL, autocommit=True, connect_timeout=3) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            asyncio.run(migrations.upgrade(settings_for(url)))
            yield url
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
