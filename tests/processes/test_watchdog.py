"""The watchdog, in processes: a held event loop is told of, and ended where nobody looks on."""

import json
import os
import signal
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.process import PROGRAM, Process, running
from tests.redis import OwnRedis

#: With routes that hold the event loop; the second in a frame with a value that nobody may read.
HOLDING = PROGRAM.replace(
    "features.router.include_router",
    """
@router.get("/probe/holds")
async def holds(seconds: float) -> int:
    value = "hunter" + str(2)
    time.sleep(seconds)
    return os.getpid()

features.router.include_router""",
)
ELSEWHERE = {"ENVIRONMENT": "test", "WATCHDOG_SECONDS": "3", "LOG_FORMAT": "json"}


def hold(process: Process, seconds: float) -> None:
    """Hold the process's event loop; raises TransportError where the process ends meanwhile."""
    process.get(f"/probe/holds?seconds={seconds}", timeout=60)


def test_a_held_loop_ends_the_process() -> None:
    """The log has the stack, without values, long before; the exit code is 70."""
    with running(program=HOLDING, **ELSEWHERE) as process:
        began = time.monotonic()
        with pytest.raises(httpx2.TransportError):
            hold(process, 50)
        assert process.ended() == 70
        assert 2 < time.monotonic() - began < 40
    assert "event loop held" in process.output
    assert "hunter2" not in process.output
    last = json.loads(process.output.splitlines()[-1])
    assert last["event"] == "ended by the watchdog"
    assert last["stack"].endswith("in holds")


def test_in_development_it_is_only_told_of() -> None:
    """And the log says how long it was, when it is over."""
    with running(program=HOLDING, WATCHDOG_SECONDS="1", LOG_FORMAT="json") as process:
        hold(process, 4)
        assert '"event loop free"' in process.wrote("event loop free")
        assert process.get("/health/live").status_code == 200
    assert process.ended() == 0, process.output
    assert "event loop held" in process.output


def test_it_can_be_turned_off() -> None:
    """With 0 nobody watches."""
    with running(program=HOLDING, **(ELSEWHERE | {"WATCHDOG_SECONDS": "0"})) as process:
        hold(process, 4)
        assert process.get("/health/live").status_code == 200
    assert "event loop" not in process.output


def test_a_stopped_process_is_left_alone() -> None:
    """As by a debugger, or with its machine: longer than any function may hold the loop."""
    with running(program=HOLDING, **ELSEWHERE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(5)  # that is what it is about: real time goes by
        os.kill(process.pid, signal.SIGCONT)
        assert process.get("/health/live", timeout=20).status_code == 200
    assert process.ended() == 0
    assert "event loop held" not in process.output


@pytest.fixture
def workers(own_redis: OwnRedis) -> Iterator[Process]:
    """A parent with two workers."""
    given = ELSEWHERE | {"REDIS_URL": own_redis.url}
    with running("--workers", "2", program=HOLDING, **given) as process:
        yield process


def test_a_worker_that_is_held_is_replaced(workers: Process) -> None:
    """The parent starts another one in its place."""
    with pytest.raises(httpx2.TransportError):
        hold(workers, 50)
    assert '"code": 70' in workers.wrote("worker ended")
    workers.wrote("worker serves")
    assert workers.get("/health/live").status_code == 200
