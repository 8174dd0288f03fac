"""Fixtures that every test may use: databases of their own, settings, and the running server."""

import asyncio
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi import APIRouter

from app import migrations
from app.core.observability import configure_logging
from app.core.settings import Settings
from tests import passed
from tests.databases import Databases
from tests.postgresql import OwnPostgresql
from tests.redis import OwnRedis
from tests.server import RunningServer

IN_CI = bool(os.environ.get("CI"))
POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
SECRET = "a-secret-of-the-tests-and-of-nothing-else"

#: Skips that CI accepts, by their reason; there are none.
ACCEPTED_SKIPS: frozenset[str] = frozenset()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's own settings out of the tests, and the log as in production."""
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    Settings.model_config["env_file"] = None
    # Unconfigured, structlog draws each traceback for seconds, and the servers wait for it.
    configure_logging(level="warning", json=True)
    passed.record(config)


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs on PostgreSQL, for `make engines`."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and "postgresql" in callspec.params.values():
            item.add_marker("postgresql")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure, unless it is on the list."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if reason.removeprefix("Skipped: ") not in ACCEPTED_SKIPS:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing may be: {reason}"
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests: asyncio, as under uvicorn."""
    return "asyncio"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with every migration run, to copy."""
    file = tmp_path_factory.mktemp("migrated") / "template.db"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="module")
def new_sqlite(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Makes the address of a migrated, empty SQLite database, for a module's tests to share."""

    def make() -> str:
        file = tmp_path_factory.mktemp("module") / "module.db"
        shutil.copy(migrated_sqlite, file)
        return f"sqlite:///{file}"

    return make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Databases]:
    """PostgreSQL databases with every migration run."""
    with ExitStack() as stack:
        try:
            databases = stack.enter_context(Databases(POSTGRESQL, _migrate))
        except psycopg.OperationalError:
            if IN_CI:
                raise
            pytest.skip("PostgreSQL does not answer (TEST_POSTGRESQL_URL): only SQLite is tested")
        yield databases


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, new_sqlite: Callable[[], str]) -> Iterator[str]:
    """The address of a database that a module's tests share, on each engine."""
    if request.param == "sqlite":
        yield new_sqlite()
    else:
        with request.getfixturevalue("postgresql").one() as url:
            yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """The kind of database: what asks for it runs on each."""
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a migrated, empty database of this test's own; SQLite unless it asks."""
    kind = request.getfixturevalue("engine") if "engine" in request.fixturenames else "sqlite"
    if kind == "sqlite":
        template: Path = request.getfixturevalue("migrated_sqlite")
        shutil.copy(template, tmp_path / "test.db")
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    with request.getfixturevalue("postgresql").one() as url:
        yield url


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """A Redis server of this test's own."""
    with OwnRedis() as redis:
        yield redis


@pytest.fixture
def own_postgresql() -> Iterator[OwnPostgresql]:
    """A PostgreSQL server of this test's own, without a database."""
    with OwnPostgresql() as postgresql:
        yield postgresql


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a test: its own database and mail, no leeway for tokens."""
    return settings_for(database_url, mail_directory=tmp_path / "mail")


@pytest.fixture
def serve(settings: Settings) -> Iterator[Callable[..., RunningServer]]:
    """Starts the server with routers of the test's own and settings changed by keyword."""
    with ExitStack() as stack:

        def start(*routers: APIRouter, **changed: Any) -> RunningServer:
            return stack.enter_context(RunningServer(changed_settings(settings, changed), *routers))

        yield start


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The server as it is."""
    return serve()


def settings_for(database_url: str, **changed: Any) -> Settings:
    """Settings that read neither the environment nor `.env`."""
    values: dict[str, Any] = {
        "environment": "test",
        "database_url": database_url,
        "secret_key": SECRET,
        "token_leeway_seconds": 0,
        "log_level": "warning",
        "watchdog_seconds": 0,
    }
    return Settings(**(values | _needed(changed) | changed))


def changed_settings(settings: Settings, changed: dict[str, Any]) -> Settings:
    """The same settings with some changed, validated anew."""
    return Settings(**(settings.model_dump() | _needed(changed) | changed))


def _needed(changed: dict[str, Any]) -> dict[str, Any]:
    """What production does not start without: a mail server, at which nobody answers."""
    in_production = changed.get("environment") == "production"
    return {"smtp_url": "smtp://127.0.0.1:9"} if in_production else {}


def _migrate(url: str) -> None:
    asyncio.run(migrations.upgrade(settings_for(url)))


def postgresql_url(name: str) -> str:
    """The address of another database on the same server."""
    return POSTGRESQL.rsplit("/", 1)[0] + f"/{name}"
