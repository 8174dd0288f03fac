"""What the tests of accounts share."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
import typer
from typer.testing import CliRunner

from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features import commands
from tests.conftest import settings_for
from tests.features.accounts.holders import CHEAP, Clock
from tests.features.accounts.providing import Forger, offer
from tests.server import RunningServer


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """The database of the server, over a connection of the test's own."""
    database = SqlDatabase(settings.database)
    yield database
    await database.dispose()


@pytest.fixture
def operate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `user COMMAND …` on the test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    app = typer.Typer()
    for name, group in commands.items():
        app.add_typer(group, name=name)
    return lambda *command, **kwargs: CliRunner().invoke(app, ["user", *command], **kwargs)


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """A server of the test's own, where passwords cost little."""
    server = serve()
    server.app.state.passwords._hash = CHEAP
    return server


@pytest.fixture(scope="module")
def common(
    request: pytest.FixtureRequest, shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server for a module's tests to share, on each engine, with the module's own `router`.

    Each test has people of its own there. Passwords cost little, and authenticators go by a Clock.
    """
    routers = [router] if (router := getattr(request.module, "router", None)) else []
    settings = settings_for(shared_url, mail_directory=tmp_path_factory.mktemp("mail"))
    with RunningServer(settings, *routers) as server:
        server.app.state.passwords._hash = CHEAP
        server.app.state.second_factors.clock = Clock()
        yield server


@pytest.fixture
async def stored(common: RunningServer) -> AsyncIterator[SqlDatabase]:
    """The database of the shared server, over a connection of the test's own."""
    database = SqlDatabase(common.settings.database)
    yield database
    await database.dispose()


@pytest.fixture
async def forger(common: RunningServer) -> AsyncIterator[Forger]:
    """A provider that says anything."""
    async with Forger() as forger:
        offer(common, "forged", forger.url)
        yield forger


@pytest.fixture
async def client(common: RunningServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that nobody is signed in with."""
    async with common.client() as client:
        yield client
