"""Metrics of whole processes: one, several workers as one, a worker for jobs; and Prometheus."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.process import PROGRAM, ROOT, Process, environment, running, token
from tests.processes.test_cli import refused
from tests.processes.test_workers import answering, children
from tests.prometheus import DEPLOYED, OwnPrometheus, program
from tests.redis import OwnRedis, free_port

#: The service, with a channel on a durable topic, and a job for each of its events.
CHATTING = PROGRAM.replace(
    "features.router.include_router",
    """
from app.core.db import Database
from app.core.jobs import Job, JobRoutes, Jobs, JobRun
from app.realtime import Channel, Hub, Message, Topic, on

class Say(Message):
    type = "say"
    text: str

class Said(Message):
    type = "said"
    text: str

class Count(Job):
    name = "test.count"

said = Topic[Said]("talk", durable=True)
routes = JobRoutes()

@routes.on(Count)
async def count(job: Count, run: JobRun) -> None:
    pass

@router.websocket("/probe/talk")
class Talk(Channel):
    topic = said
    user: CurrentUser
    hub: Hub
    db: Database
    jobs: Jobs

    @on
    async def say(self, message: Say) -> Said:
        event = Said(text=message.text)
        async with self.db.unit_of_work() as uow:
            self.hub.publish(uow, said.at(), event)
            self.jobs.enqueue(uow, Count())
        return event

features.jobs.include(routes)
features.router.include_router""",
)
LIVE = 'duplex_requests_total{method="GET",route="/health/live",status="2xx"}'
GAUGE = "duplex_database_pool_size"


def scraped(port: int) -> dict[str, float]:
    """Every series at a port, as `name{label="value"}`."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def until(fact: Callable[[], Any], seconds: float = 40) -> Any:
    """Wait until something is so; what it is then."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
    return found


@pytest.fixture
def port() -> int:
    """A port for metrics."""
    return free_port()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize("command", [["serve", "--migrate"], ["worker"]], ids=" ".join)
def test_a_port_that_is_taken_is_named(command: list[str], taken: int, tmp_path: Path) -> None:
    """With the setting that is to be changed; nothing is served, and nothing migrated."""
    database = f"sqlite:///{tmp_path}/x.db"
    if command == ["worker"]:
        with running(DATABASE_URL=database):
            pass
    said = refused(*command, PORT="0", METRICS_PORT=str(taken), DATABASE_URL=database)
    where = f"127.0.0.1:{taken} is in use"
    assert said == f"{where}: stop what listens there, or set METRICS_PORT to a free port."
    assert (tmp_path / "x.db").exists() is (command == ["worker"])


def test_a_host_that_is_not_ours_is_named(port: int) -> None:
    """The address cannot be listened on, and the sentence names METRICS_HOST."""
    said = refused(
        "serve", PORT="0", METRICS_PORT=str(port), METRICS_HOST="203.0.113.1", DATABASE_URL=""
    )
    assert said.startswith(f"203.0.113.1:{port} cannot be listened on (")
    assert said.endswith("): correct METRICS_HOST or METRICS_PORT.")


def test_workers_count_together(own_redis: OwnRedis, port: int) -> None:
    """The sum is at one port, whoever has answered; a killed worker's counts stay, not its gauges.

    Who comes after it goes on counting in its files, of which there are no more then.
    """
    options = {"REDIS_URL": own_redis.url, "METRICS_PORT": str(port), "DATABASE_POOL_SIZE": "3"}
    with running("--workers", "2", **options) as process:
        for _ in range(40):
            process.get("/health/live")
        until(lambda: scraped(port).get(LIVE) == 40)
        until(lambda: scraped(port).get(GAUGE) == 6)
        [directory] = directories(process)
        files = set(directory.iterdir())
        # No third worker comes while there is a look at what is left of the first.
        os.kill(answering(process), signal.SIGKILL)
        process.wrote("worker ended")
        assert scraped(port)[GAUGE] == 3
        assert scraped(port)[LIVE] == 40
        process.wrote("worker serves")
        for _ in range(40):
            process.get("/health/live")
        until(lambda: scraped(port).get(LIVE) == 80)
        until(lambda: scraped(port).get(GAUGE) == 6)
        assert set(directory.iterdir()) == files
    assert process.exit_code() == 0
    assert not directory.exists()
    with pytest.raises(URLError):
        scraped(port)


def directories(process: Process) -> list[Path]:
    """Where the workers of a process count."""
    found: set[Path] = set()
    for child in children(process):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found.update(
            Path(each.partition(b"=")[2].decode())
            for each in variables
            if each.startswith(b"PROMETHEUS_MULTIPROC_DIR=")
        )
    return list(found)


@pytest.mark.timeout(300)
def test_what_clients_invent_does_not_grow(port: int) -> None:
    """A thousand paths, methods and frame types make no more series than one of each."""
    with running(program=CHATTING, METRICS_PORT=str(port), WS_MAX_STRIKES="10000") as process:
        asyncio.run(_nonsense(process, range(1)))
        nowhere = 'duplex_requests_total{method="GET",route="none",status="4xx"}'
        until(lambda: scraped(port).get(nowhere) == 1)
        before = set(scraped(port))
        asyncio.run(_nonsense(process, range(1, 1000)))
        until(lambda: scraped(port).get(nowhere) == 1000)
        now = scraped(port)
    unknown = 'duplex_frames_total{channel="/probe/talk",outcome="refused",type="unknown"}'
    assert now[unknown] == 1000
    new = {series for series in set(now) - before if not series.startswith("duplex_job")}
    assert new == set()


async def _nonsense(process: Process, numbers: range) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    async with httpx2.AsyncClient(base_url=process.url, timeout=30) as http:
        for number in numbers:
            await http.get(f"/nonsense/{number}")
            if number % 10 == 0:
                await http.request(f"M{number}", f"/nonsense/{number}")
    url = f"{process.ws_url}/probe/talk"
    async with connect(url, additional_headers=headers, proxy=None) as talk:
        await talk.recv()
        for number in numbers:
            await talk.send(json.dumps({"type": f"nonsense.t{number}", "ref": number}))
            while json.loads(await talk.recv()).get("ref") != number:
                pass


@contextmanager
def working(**variables: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m app worker`, once it works."""
    with subprocess.Popen(
        [sys.executable, "-m", "app", "worker"],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as worker:
        try:
            assert worker.stdout
            assert any("works on jobs" in line for line in worker.stdout)
            yield worker
        finally:
            worker.terminate()
            worker.communicate(timeout=20)


def test_a_worker_for_jobs_has_metrics_too(port: int, tmp_path: Path) -> None:
    """At the same setting; and a signal ends it as without them."""
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    with running(**variables):
        pass
    with working(METRICS_PORT=str(port), **variables) as worker:
        until(lambda: scraped(port)[GAUGE] == 10)
    assert worker.returncode == 0


def test_every_panel_of_the_dashboard_finds_something(port: int, tmp_path: Path) -> None:
    """In a real Prometheus, which asks a real server under a little load over both doors."""
    with (
        running(program=CHATTING, METRICS_PORT=str(port)) as process,
        OwnPrometheus([port]) as prometheus,
    ):
        checked = asyncio.run(_checked_under_load(process, prometheus.url))
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"\d\d queries find something", checked.stdout)


async def _checked_under_load(process: Process, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/dashboard_check.py", url, "--wait", "60"]
    loading = asyncio.create_task(_load(process))
    try:
        return await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False
        )
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


async def _load(process: Process) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    url = f"{process.ws_url}/probe/talk"
    async with httpx2.AsyncClient(base_url=process.url, timeout=30) as http:
        while True:
            async with connect(url, additional_headers=headers, proxy=None) as talk:
                await talk.send('{"type": "say", "data": {"text": "Hello."}}')
                await talk.send("{")
                await http.get("/health/live")
                await http.get("/nowhere")
                while '"said"' not in str(await talk.recv()):
                    pass
            await asyncio.sleep(0.1)


def test_a_panel_without_data_is_told(port: int, tmp_path: Path) -> None:
    """Of a Prometheus that asks nobody every panel is named, and the exit code is 1."""
    with OwnPrometheus([port]) as prometheus:
        done = subprocess.run(
            [sys.executable, "scripts/dashboard_check.py", prometheus.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert "Open connections: no data for " in done.stdout


def test_prometheus_takes_what_is_deployed() -> None:
    """Its own tool finds no fault with the configuration and the rules."""
    done = subprocess.run(
        [program("promtool"), "check", "config", str(DEPLOYED / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


#: What each alert is about, as promtool writes series: it has to fire for it.
BAD = {
    "DuplexDown": {'up{job="duplex"}': "0x60"},
    "DuplexRequestsFail": {
        'duplex_requests_total{status="5xx"}': "0+6x60",
        'duplex_requests_total{status="2xx"}': "0+60x60",
    },
    "DuplexFramesFail": {
        'duplex_frames_total{outcome="failed"}': "0+6x60",
        'duplex_frames_total{outcome="ok"}': "0+60x60",
    },
    "DuplexSlow": {
        'duplex_request_seconds_bucket{le="2.5",method="GET",route="/x"}': "0x60",
        'duplex_request_seconds_bucket{le="+Inf",method="GET",route="/x"}': "0+60x60",
        'duplex_request_seconds_count{method="GET",route="/x"}': "0+60x60",
    },
    "DuplexEvictions": {'duplex_evictions_total{reason="outbox"}': "0+60x60"},
    "DuplexOutboxesFull": {'duplex_outbox_bytes{instance="a"}': "300000000x60"},
    "DuplexDeliverySlow": {
        'duplex_delivery_seconds_bucket{le="1"}': "0x60",
        'duplex_delivery_seconds_bucket{le="2.5"}': "0+60x60",
        'duplex_delivery_seconds_bucket{le="+Inf"}': "0+60x60",
    },
    "DuplexFeedBehind": {'duplex_feed_lag_seconds{instance="a"}': "20x60"},
    "DuplexBackplaneAway": {'duplex_backplane_connected{instance="a"}': "0x60"},
    "DuplexJobsParked": {"duplex_jobs_parked": "1x60"},
    "DuplexJobsWait": {"duplex_jobs_ready": "1000x60"},
    "DuplexPoolExhausted": {
        'duplex_database_connections_used{instance="a"}': "10x60",
        'duplex_database_pool_size{instance="a"}': "10x60",
    },
    "DuplexLoopBlocked": {'duplex_loop_lag_seconds{instance="a"}': "2x60"},
    "DuplexLogInsFail": {"duplex_log_in_failures_total": "0+600x60"},
    "DuplexLimitsOpen": {"duplex_limits_failed_open_total": "0+60x60"},
}


@pytest.mark.parametrize("alert", BAD)
def test_an_alert_fires_for_what_it_is_about(alert: str, tmp_path: Path) -> None:
    """And for that alone: no other alert does."""
    everything = {'up{job="duplex"}': "1x60"} | BAD[alert]
    series = [{"series": name, "values": values} for name, values in everything.items()]
    ranges = [
        {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
         "eval_time": "30m", "exp_samples": [{"labels": "{}", "value": int(name == alert)}]}
        for name in BAD
    ]  # fmt: skip
    test = {"interval": "1m", "input_series": series, "promql_expr_test": ranges}
    file = tmp_path / "test.yml"
    rules = {"rule_files": [str(DEPLOYED / "alerts.yml")], "tests": [test]}
    file.write_text(json.dumps(rules | {"evaluation_interval": "1m"}))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """A new one needs an entry above."""
    assert re.findall(r"- alert: (\w+)", (DEPLOYED / "alerts.yml").read_text()) == list(BAD)
