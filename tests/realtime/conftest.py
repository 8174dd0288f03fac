"""The server with the probe's routes, and hubs over a database without a server."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import APIRouter

from app.core.connections import OpenConnections
from app.core.db import SqlDatabase
from app.core.revocations import Revocations
from app.realtime import Address, EventHub
from app.realtime.backplane import Backplane, MemoryBackplane
from tests.conftest import settings_for
from tests.realtime import logged
from tests.realtime import probe as probes
from tests.realtime.probe import Probe, Said, logged_events
from tests.realtime.stage import Stage
from tests.server import RunningServer

NewHub = Callable[..., Awaitable[EventHub]]


@pytest.fixture
async def database(shared_url: str) -> AsyncIterator[SqlDatabase]:
    """The database, in the loop of the test."""
    opened = SqlDatabase(settings_for(shared_url).database)
    yield opened
    await opened.dispose()


@pytest.fixture
def room() -> Address[Said]:
    """A durable topic of this test's own."""
    return logged_events.at(room=uuid4().hex)


@pytest.fixture
async def new_hub(database: SqlDatabase) -> AsyncIterator[NewHub]:
    """Makes hubs over the database that run; their sweeps and beats are the test's to call."""
    async with AsyncExitStack() as stack:

        async def make(backplane: Backplane | None = None) -> EventHub:
            revocations = Revocations(database, OpenConnections(), keep=timedelta(hours=1))
            hub = EventHub(database, backplane or MemoryBackplane(), revocations)
            stack.push_async_callback(hub.stop)
            for each in await hub.start():
                if each.name == "catch up":
                    stack.callback(asyncio.create_task(each.run()).cancel)
            return hub

        yield make


@pytest.fixture
async def hub(new_hub: NewHub) -> EventHub:
    """The hub of a process that is the only one."""
    return await new_hub()


@pytest.fixture
def probe() -> Probe:
    """What this test and the channel tell each other."""
    return Probe()


@pytest.fixture(scope="module")
def serve_module(new_sqlite: Callable[[], str]) -> Iterator[Callable[..., RunningServer]]:
    """Starts a server with routers of a module's own, for all the module's tests."""
    with ExitStack() as stack:

        def start(*routers: APIRouter) -> RunningServer:
            return stack.enter_context(RunningServer(settings_for(new_sqlite()), *routers))

        yield start


@pytest.fixture(scope="module")
def shared_server(serve_module: Callable[..., RunningServer]) -> RunningServer:
    """One server with the probe's routes and its table, for the tests that change no setting."""
    running = serve_module(probes.router, logged.router)
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
        running = serve(probes.router, logged.router, **changed)
        running.app.state.probe = probe
        return running

    return start


@pytest.fixture
async def stage(database: SqlDatabase, room: Address[Said]) -> AsyncIterator[Stage]:
    """A feed of this test's own topic."""
    made = Stage(database, room)
    yield made
    for subscription in tuple(made.feed.subscriptions):
        subscription.cancel()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
