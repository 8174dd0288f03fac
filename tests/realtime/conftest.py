"""The server with the probe's routes."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter

from tests.conftest import settings_for
from tests.realtime import probe as probes
from tests.realtime.probe import Probe
from tests.server import RunningServer


@pytest.fixture
def probe() -> Probe:
    """What this test and the channel tell each other."""
    return Probe()


@pytest.fixture(scope="module")
def serve_module(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningServer]]:
    """Starts a server with routers of a module's own, for all the module's tests."""
    with ExitStack() as stack:

        def start(*routers: APIRouter) -> RunningServer:
            file = tmp_path_factory.mktemp("module") / "module.db"
            shutil.copy(migrated_sqlite, file)
            return stack.enter_context(RunningServer(settings_for(f"sqlite:///{file}"), *routers))

        yield start


@pytest.fixture(scope="module")
def shared_server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """One server with the probe's routes and its table, for the tests that change no setting."""
    running = serve_module(probes.router)
    with closing(sqlite3.connect(str(running.settings.database.database))) as connection:
        connection.execute("CREATE TABLE probe (text TEXT)")
    return running


@pytest.fixture
def probe_server(shared_server: RunningServer, probe: Probe) -> RunningServer:
    """The server with the probe, at this test's service."""
    shared_server.app.state.probe = probe
    return shared_server


@pytest.fixture
def probe_table(probe_server: RunningServer) -> Callable[[], list[str]]:
    """Empties the table that the probe writes to; called, it gives what has been committed."""
    file = str(probe_server.settings.database.database)

    def rows() -> list[str]:
        with closing(sqlite3.connect(file)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM probe")]

    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("DELETE FROM probe")
    return rows


@pytest.fixture
def serve_probe(serve: Callable[..., RunningServer], probe: Probe) -> Callable[..., RunningServer]:
    """Starts a server with the probe, and settings changed by keyword."""

    def start(**changed: Any) -> RunningServer:
        running = serve(probes.router, **changed)
        running.app.state.probe = probe
        return running

    return start
