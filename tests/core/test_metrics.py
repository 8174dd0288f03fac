"""What is counted at the REST door, of jobs and of the process; how many series there can be."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen

import pytest
from starlette.datastructures import State
from websockets.exceptions import InvalidStatus

from app.core import sampling
from app.core.db import SqlDatabase
from app.core.errors import RateLimited
from app.core.jobs import Job, JobQueue, JobRoutes, JobRun, JobRunner
from app.core.limits import Limit, Limits
from app.core.metrics import LOOP_LAG, POOL_SIZE, count_close, count_error
from app.core.metrics_door import SharedValues, metrics_door
from app.core.settings import Settings
from tests.conftest import changed_settings
from tests.counting import Added, all_series, value
from tests.redis import free_port
from tests.server import DEADLINE, RunningServer

ONCE = Limit("1/minute", name="tests.metrics")


class Count(Job):
    """A job that ends as its text says."""

    name = "test.metrics"
    ends: str


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """A database without a server."""
    opened = SqlDatabase(settings.database)
    yield opened
    await opened.dispose()


async def test_a_request_counts_for_the_template_of_its_route(server: RunningServer) -> None:
    """With prefixes and placeholders, by method and class of status; and how long it took."""
    live = Added("duplex_requests_total", method="GET", route="/health/live", status="2xx")
    ticket = Added("duplex_requests_total", method="POST", route="/api/v1/tickets", status="4xx")
    error = Added("duplex_requests_total", method="GET", route="/errors/{code}", status="4xx")
    timed = Added("duplex_request_seconds_count", method="GET", route="/health/live")
    async with server.client() as http:
        for _ in range(3):
            await http.get("/health/live")
        await http.post("/api/v1/tickets", json={"path": "/x"})
        await http.get("/errors/no_such_code")
    await live.reaches(3)
    await timed.reaches(3)
    await ticket.reaches(1)
    await error.reaches(1)


async def test_what_clients_invent_makes_no_series(server: RunningServer) -> None:
    """Hundreds of paths, methods and handshakes are a handful of series, and all are counted."""
    before = set(all_series())
    nowhere = Added("duplex_requests_total", method="GET", route="none", status="4xx")
    async with server.client(server.token()) as http:
        for number in range(100):
            await http.get(f"/nonsense/{number}?a={number}")
        for number in range(30):
            await http.request(f"METHOD{number}", f"/api/v1/other/{number}")
    for number in range(20):
        with suppress(InvalidStatus):
            async with server.socket(f"/nowhere/{number}"):
                pass
    await nowhere.reaches(100)
    made = {name for name, _ in set(all_series()) - before if not name.endswith("_bucket")}
    assert len(set(all_series()) - before) < 60, made
    assert not [series for series in all_series() if "nonsense" in str(series)]
    assert not [series for series in all_series() if "METHOD" in str(series)]


async def test_an_error_counts_by_its_code_and_door(server: RunningServer) -> None:
    """Also what is no HTTP, which no application sees; a code that is not registered is `other`."""
    rest = Added("duplex_errors_total", code="authentication_failed", door="rest")
    socket = Added("duplex_errors_total", code="not_found", door="ws")
    garbled = Added("duplex_errors_total", code="malformed_request", door="rest")
    async with server.client() as http:
        await http.post("/api/v1/tickets", json={"path": "/x"})
    with pytest.raises(InvalidStatus):
        async with server.socket("/nowhere"):
            pass
    await server.exchange(b"nonsense\r\n\r\n")
    await rest.reaches(1)
    await socket.reaches(1)
    await garbled.reaches(1)
    other = Added("duplex_errors_total", code="other", door="rest")
    count_error("no.such.code", "rest")
    assert other() == 1


def test_a_close_code_of_a_clients_own_is_other() -> None:
    """Those of RFC 6455 and those of the registry are kept."""
    labels = {"route": "/test"}
    for code, label in ((1000, "1000"), (4401, "4401"), (1013, "1013"), (3777, "other")):
        added = Added("duplex_connections_closed_total", code=label, **labels)
        count_close("/test", code)
        assert added() == 1


async def test_a_credential_that_is_not_valid_counts_by_its_kind(server: RunningServer) -> None:
    """A token and a ticket; a token that is missing is none."""
    token = Added("duplex_credentials_refused_total", kind="token")
    ticket = Added("duplex_credentials_refused_total", kind="ticket")
    async with server.client("nonsense") as http:
        await http.post("/api/v1/tickets", json={"path": "/x"})
    async with server.client() as http:
        await http.post("/api/v1/tickets", json={"path": "/x"})
    assert (token(), ticket()) == (1, 0)


async def test_limits_count_what_they_refuse_and_what_they_cannot_count() -> None:
    """By the name of the limit; without Redis every hit is let through, and counted as that."""
    limits = Limits(None, "test")
    refused = Added("duplex_limits_refused_total", limit="tests.metrics")
    await limits.hit(ONCE, "ann")
    with pytest.raises(RateLimited):
        await limits.hit(ONCE, "ann")
    assert refused() == 1
    away = Limits(f"redis://127.0.0.1:{free_port()}", "test")
    opened = Added("duplex_limits_failed_open_total")
    await away.hit(ONCE, "ann")
    await away.hit(ONCE, "ann")
    await away.close()
    assert opened() == 2


@pytest.mark.usefixtures("engine")
async def test_jobs_count_by_how_they_end(database: SqlDatabase) -> None:
    """Done, failed and to be tried again, or parked; and how long each took."""
    now = [datetime(2030, 1, 1, tzinfo=UTC)]
    routes = JobRoutes()

    @routes.on(Count, tries=2)
    async def handle(job: Count, run: JobRun) -> None:
        if job.ends != "well":
            raise ValueError(job.ends)

    queue = JobQueue(database, routes, lambda: now[0])
    worker = JobRunner(queue, database, State(), at_once=2, shutdown_seconds=5)
    async with database.unit_of_work() as uow:
        for ends in ("well", "badly"):
            queue.enqueue(uow, Count(ends=ends))
    outcomes = {
        outcome: Added("duplex_jobs_total", name="test.metrics", outcome=outcome)
        for outcome in ("done", "failed", "parked")
    }
    timed = Added("duplex_job_seconds_count", name="test.metrics")
    assert await queue.backlog() == (2, 0)
    for _ in range(2):
        async with asyncio.timeout(DEADLINE):
            await worker.turn()
            await asyncio.gather(*worker._running)
        now[0] += timedelta(hours=1)
    assert {outcome: added() for outcome, added in outcomes.items()} == {
        "done": 1,
        "failed": 1,
        "parked": 1,
    }
    assert timed() == 3
    assert await queue.backlog() == (0, 1)


async def test_a_blocked_event_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest that it was late stays for a while."""
    monkeypatch.setattr(sampling, "LAG_SECONDS", 0.02)
    LOOP_LAG.set(0)
    task = asyncio.create_task(sampling.LoopLag().run())
    await asyncio.sleep(0.03)
    time.sleep(0.4)  # noqa: ASYNC251 - that is what has to be seen
    async with asyncio.timeout(DEADLINE):
        while value("duplex_loop_lag_seconds") < 0.3:  # noqa: ASYNC110 - set by a task
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    assert value("duplex_loop_lag_seconds") >= 0.3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_gauges_are_sampled_where_somebody_looks(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With METRICS_PORT they are set again and again; without it nobody does that."""
    monkeypatch.setattr(sampling, "SAMPLE_SECONDS", 0.02)
    POOL_SIZE.set(-1)
    serve()
    serve(metrics_port=free_port(), database_pool_size=7)
    async with asyncio.timeout(DEADLINE):
        while value("duplex_database_pool_size") != 7:  # noqa: ASYNC110 - set in another thread
            await asyncio.sleep(0.01)
    assert value("duplex_backplane_connected") == 1


def test_the_door_is_open_for_its_block(settings: Settings) -> None:
    """In Prometheus' text format; and no longer than that. Without a port there is none."""
    port = free_port()
    with metrics_door(changed_settings(settings, {"metrics_port": port})):
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert "version=0.0.4" in answer.headers["content-type"]
            assert b"\nduplex_connections " in answer.read()
        with (
            pytest.raises(OSError, match="in use"),
            metrics_door(changed_settings(settings, {"metrics_port": port})),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    with metrics_door(settings):
        pass


async def test_metrics_are_not_at_the_public_door(server: RunningServer) -> None:
    """Whoever asks there finds nothing."""
    async with server.client() as http:
        assert (await http.get("/metrics")).status_code == 404


def test_shared_values_end_with_their_block() -> None:
    """The directory is there for the workers, each in its place, and is gone then."""
    with SharedValues() as shared:
        first, second = shared.environment(0), shared.environment(1)
        assert first["DUPLEX_PLACE"] != second["DUPLEX_PLACE"]
        assert first["PROMETHEUS_MULTIPROC_DIR"] == second["PROMETHEUS_MULTIPROC_DIR"]
    with SharedValues() as other:
        assert other.environment(0) != first
