"""What the tests of accounts share."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features import commands


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """The database of the server, over a connection of the test's own."""
    database = SqlDatabase(settings.database)
    yield database
    await database.dispose()


@pytest.fixture
def promote(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Runs `user promote EMAIL` on the test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url.get_secret_value())
    app = typer.Typer()
    for name, group in commands.items():
        app.add_typer(group, name=name)
    return lambda email: CliRunner().invoke(app, ["user", "promote", email])
