"""Health: the process lives whatever happens; it is ready while the database answers."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psycopg
import pytest

from app.core.settings import Settings
from tests.server import RunningServer


async def ask(client: httpx2.AsyncClient, what: str) -> httpx2.Response:
    """The answer to a health check."""
    return await client.get(f"/health/{what}")


def refuses(ready: httpx2.Response) -> bool:
    """Whether this is the registered refusal, which says when to ask again."""
    assert ready.status_code == 503
    assert ready.headers["Content-Type"] == "application/problem+json"
    assert int(ready.headers["Retry-After"]) >= 1
    problem = ready.json()
    return bool(problem["retryable"]) and problem["code"] == "health.not_ready"


@pytest.mark.usefixtures("engine")
async def test_a_service_with_its_database_lives_and_is_ready(server: RunningServer) -> None:
    """Both checks answer so, to anybody, and nothing keeps the answer."""
    async with server.client() as client:
        for what in ("live", "ready"):
            answer = await ask(client, what)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert answer.headers["Cache-Control"] == "no-store"


async def test_without_its_database_a_service_lives_and_is_not_ready(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """It says so in time, and which database it is to nobody."""
    server = serve(database_url=f"sqlite:///{tmp_path / 'missing' / 'file.db'}")
    async with server.client() as client:
        assert (await ask(client, "live")).status_code == 200
        ready = await ask(client, "ready")
    assert refuses(ready)
    assert "missing" not in ready.text


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_readiness_goes_and_comes_with_postgresql(
    server: RunningServer, settings: Settings, engine: str
) -> None:
    """While the database has another name the service is not ready; afterwards it is again."""
    name = settings.database.database
    beside = settings.database.set(drivername=engine, database="postgres")
    async with server.client() as client:
        assert (await ask(client, "ready")).status_code == 200
        with psycopg.connect(beside.render_as_string(False), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            admin.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')
            try:
                assert refuses(await ask(client, "ready"))
                assert (await ask(client, "live")).status_code == 200
            finally:
                admin.execute(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
        assert (await ask(client, "ready")).status_code == 200


async def test_a_database_that_says_nothing_is_not_waited_for(
    serve: Callable[..., RunningServer],
) -> None:
    """The check answers within its own time, whatever the time for a connection is."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = serve(
            database_url=f"postgresql://nobody@127.0.0.1:{port}/none", database_timeout_seconds=30
        )
        async with server.client() as client:
            began = time.monotonic()
            assert refuses(await ask(client, "ready"))
            assert time.monotonic() - began < 4
