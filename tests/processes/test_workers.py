"""`serve --workers N`, in processes: they share the address, and end together."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.process import PROGRAM, Process, environment, running, token, told_twice
from tests.processes.test_cli import refused
from tests.redis import OwnRedis

#: Fails where it is run as a worker, once it has imported everything.
FAILING = PROGRAM.replace("main()", "import os\nassert 'DUPLEX_WORKER' not in os.environ\nmain()")


@pytest.fixture
def workers(own_redis: OwnRedis) -> Iterator[Process]:
    """A parent with two workers, and their log."""
    with running("--workers", "2", REDIS_URL=own_redis.url, SHUTDOWN_SECONDS="30") as process:
        yield process


def children(process: Process) -> set[int]:
    """The numbers of the processes that a process has started and that live."""
    found = subprocess.run(
        ["pgrep", "--parent", str(process.pid)], capture_output=True, text=True, check=False
    )
    return {int(number) for number in found.stdout.split()}


def answering(process: Process) -> int:
    """The number of the process that answers."""
    number: int = process.get("/probe/process").json()
    return number


def test_without_redis_there_are_no_workers() -> None:
    """They would not hear of one another's events: the remedy is named, and nothing is bound."""
    said = refused("serve", "--workers", "2", PORT="0", DATABASE_URL="sqlite:////nowhere/x.db")
    assert said == (
        "Several workers tell each other of events through Redis: set REDIS_URL, or serve "
        "without --workers."
    )


def test_what_one_process_cannot_start_with_workers_cannot_either(tmp_path: str) -> None:
    """A taken port, no database, no migrations: a line that says so, and no worker is started."""
    file = f"sqlite:///{tmp_path}/x.db"
    given = {"REDIS_URL": "redis://127.0.0.1:1", "PORT": "0", "DATABASE_URL": file}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        away = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
        for wrong, said in (
            ({"PORT": str(taken.getsockname()[1])}, "is in use"),
            (away, "cannot be reached"),
            ({}, "The database is not up to date"),
        ):
            given_now: dict[str, Any] = given | wrong
            assert said in refused("serve", "--workers", "2", **given_now)


def test_a_signal_to_the_parent_ends_all_in_good_order(workers: Process) -> None:
    """The address is printed once; each socket is told and closed with 1012; the exit code is 0."""
    assert answering(workers) in children(workers)
    assert len(children(workers)) == 2
    asyncio.run(_told_of_the_end(workers))
    assert workers.ended() == 0
    assert workers.output.count("Duplex is at ") == 1
    assert "Traceback" not in workers.output


async def _told_of_the_end(workers: Process) -> None:
    opened = [await _opened(workers) for _ in range(8)]
    workers.ask_to_end(signal.SIGTERM)
    for connected in opened:
        assert '"code":"restarting"' in str(await connected.recv())
        with pytest.raises(ConnectionClosed):
            await connected.recv()
        assert connected.close_code == 1012


async def _opened(workers: Process) -> ClientConnection:
    headers = {"Authorization": f"Bearer {token()}"}
    return await connect(f"{workers.ws_url}/probe", additional_headers=headers, proxy=None)


def test_a_worker_that_dies_is_replaced(workers: Process) -> None:
    """The other one goes on serving; the log tells of the death, and who came after."""
    before = children(workers)
    os.kill(answering(workers), signal.SIGKILL)
    line = workers.wrote("worker ended")
    assert "code=-9" in line
    assert answering(workers) in before
    workers.wrote("worker serves")
    after = children(workers)
    assert len(after) == 2
    assert len(after & before) == 1


def test_without_their_parent_workers_end(workers: Process) -> None:
    """Nobody is left when the parent is killed, and sockets are told before."""
    os.kill(workers.pid, signal.SIGKILL)
    started = time.monotonic()
    assert workers.ended() == -signal.SIGKILL  # read to the end: nobody is left to write
    assert time.monotonic() - started < 15
    with pytest.raises(httpx2.ConnectError):
        workers.get("/health/live")


def test_a_ctrl_c_of_the_terminal_is_one_signal(own_redis: OwnRedis, tmp_path: str) -> None:
    """The terminal sends it to every process in the foreground, and workers end once."""
    variables = {
        "PORT": "0",
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "REDIS_URL": own_redis.url,
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", "--migrate", "--workers", "2"],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    ) as started:
        process = Process(started)
        os.killpg(started.pid, signal.SIGINT)
        assert process.ended() == 0
        assert "Traceback" not in process.output


def test_a_worker_that_cannot_start_ends_all(own_redis: OwnRedis, tmp_path: str) -> None:
    """There is no address, and the exit code is not 0."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, "serve", "--migrate", "--workers", "2"],
        env=environment(
            PORT="0", DATABASE_URL=f"sqlite:///{tmp_path}/x.db", REDIS_URL=own_redis.url
        ),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 1
    assert "worker did not start" in done.stdout
    assert "Duplex is at" not in done.stdout


def test_a_second_signal_to_the_parent_ends_all_at_once(own_redis: OwnRedis) -> None:
    """Nobody waits for a request that takes long."""
    with running("--workers", "2", REDIS_URL=own_redis.url, SHUTDOWN_SECONDS="30") as process:
        asyncio.run(told_twice(process))
        assert process.ended() == 128 + signal.SIGTERM
