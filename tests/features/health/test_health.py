"""Health: the process lives whatever happens; it is ready while the database answers."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psycopg
import pytest
from sqlalchemy import text

from app.core import provider_keys
from app.core.settings import Settings
from app.features.health import service
from app.main import create_app
from tests.core.issuer import AUDIENCE, Issuer
from tests.redis import OwnRedis
from tests.server import DEADLINE, RunningServer

NAMES = ("accepting", "database", "migrations", "backplane", "provider")
WELL = dict.fromkeys(NAMES, "ok")


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
        for what, more in (("live", {}), ("ready", {"checks": WELL, "detail": ""})):
            answer = await ask(client, what)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok", **more})
            assert answer.headers["Cache-Control"] == "no-store"


async def test_without_its_database_a_service_lives_and_is_not_ready(
    server: RunningServer, tmp_path: Path
) -> None:
    """It says so in time, and which database it is to nobody."""
    away = f"sqlite+aiosqlite:///{tmp_path / 'missing' / 'file.db'}"
    with server.database_at(away):
        async with server.client() as client:
            assert (await ask(client, "live")).status_code == 200
            ready = await ask(client, "ready")
    assert refuses(ready)
    assert ready.json()["checks"] == WELL | {"database": "failed", "migrations": "failed"}
    assert "missing" not in ready.text.replace("migrations_missing", "")


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_readiness_goes_and_comes_with_postgresql(
    server: RunningServer, settings: Settings, engine: str
) -> None:
    """While the database has another name the service is not ready; afterwards it is again."""
    name = settings.database.database
    beside = settings.database.set(drivername=engine, database="postgres")
    async with server.client() as client:
        assert (await ask(client, "ready")).status_code == 200
        server.app.state.readiness.forget()
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
                server.app.state.readiness.forget()
        assert (await ask(client, "ready")).status_code == 200


async def test_a_database_that_says_nothing_is_not_waited_for(server: RunningServer) -> None:
    """The check answers within its own time, whatever the time for a connection is."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        with server.database_at(url, timeout=30):
            async with server.client() as client:
                began = time.monotonic()
                assert refuses(await ask(client, "ready"))
                assert time.monotonic() - began < 4


async def _database_has(server: RunningServer, statement: str) -> None:
    """Change which migrations the database says it has."""
    database = create_app(server.settings).state.database
    async with database.unit_of_work() as uow:
        await uow.execute(text(statement))
    await database.dispose()
    server.app.state.readiness.forget()


@pytest.mark.usefixtures("engine")
async def test_a_newer_database_is_no_reason_and_an_older_one_is(server: RunningServer) -> None:
    """In a rolling upgrade the database goes first; without a migration nothing can be promised."""
    core = "UPDATE alembic_version SET version_num = '{}' WHERE version_num LIKE 'core_%'"
    async with server.client() as client:
        await _database_has(server, core.format("core_9999"))
        assert (await ask(client, "ready")).json()["checks"] == WELL
        await _database_has(server, core.format("core_0001"))
        ready = await ask(client, "ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "health.migrations_missing")
        assert ready.json()["checks"] == WELL | {"migrations": "failed"}
        assert "core" not in ready.text


async def test_however_many_ask_it_is_checked_once(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent asks share one check, and those of the next second its answer."""
    asked = 0
    database = server.app.state.database
    ping = database.ping

    async def counted() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        await ping()

    monkeypatch.setattr(database, "ping", counted)
    monkeypatch.setattr(service, "KEPT_SECONDS", 60)
    server.app.state.readiness.forget()
    async with server.client() as client:
        answers = await asyncio.gather(*(ask(client, "ready") for _ in range(30)))
        assert {each.status_code for each in answers} == {200}
        assert asked == 1
        monkeypatch.setattr(service, "KEPT_SECONDS", 0)
        server.app.state.readiness.forget()
        for _ in range(3):
            await ask(client, "ready")
    assert asked == 4


async def test_without_redis_a_service_is_degraded_and_ready(
    serve: Callable[..., RunningServer], own_redis: OwnRedis
) -> None:
    """It is told at once, while Redis hangs and while it is away, and taken back afterwards."""
    server = serve(redis_url=own_redis.url)
    async with server.client() as client:
        await _until(client, "ok")
        own_redis.hang()
        await _until(client, "degraded")
        began = time.monotonic()
        ready = await ask(client, "ready")
        assert time.monotonic() - began < 2.5
        assert ready.status_code == 200
        assert ready.json() == {
            "status": "degraded",
            "checks": WELL | {"backplane": "degraded"},
            "detail": "Redis does not answer: events of other processes come late.",
        }
        own_redis.resume()
        await _until(client, "ok")
        own_redis.kill()
        await _until(client, "degraded")
        assert (await ask(client, "live")).json() == {"status": "ok"}


async def test_without_its_provider_a_service_is_degraded_and_ready(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the keys that tokens are verified with; it says so, and whose they are to nobody."""
    monkeypatch.setattr(provider_keys, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(provider_keys, "RETRY_SECONDS", 0.05)
    async with Issuer() as issuer:
        server = await _served(serve, issuer)
        async with server.client() as client:
            await _until(client, "ok")
            issuer.instead = b"none"
            await _until(client, "degraded")
            ready = await ask(client, "ready")
            assert ready.status_code == 200
            assert ready.json()["detail"] == (
                "The identity provider does not answer: its newest keys may not be known."
            )
            issuer.instead = None
            await _until(client, "ok")


async def test_a_service_that_never_had_keys_is_not_ready(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could verify no token. It starts all the same, and is ready once the provider is there."""
    monkeypatch.setattr(provider_keys, "RETRY_SECONDS", 0.05)
    async with Issuer() as issuer:
        issuer.instead = b"none"
        server = await _served(serve, issuer)
        async with server.client() as client:
            ready = await ask(client, "ready")
            assert refuses(ready)
            assert ready.json()["detail"] == "The identity provider has not answered yet."
            assert (await ask(client, "live")).status_code == 200
            issuer.instead = None
            await _until(client, "ok")


async def _served(serve: Callable[..., RunningServer], issuer: Issuer) -> RunningServer:
    """A service that takes the tokens of this issuer, which is asked for its keys at the start."""
    oidc = {"auth_mode": "oidc", "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
    return await asyncio.to_thread(serve, **oidc)


async def _until(client: httpx2.AsyncClient, status: str) -> None:
    """Wait until readiness is so."""
    async with asyncio.timeout(DEADLINE):
        while (await ask(client, "ready")).json()["status"] != status:
            pass
