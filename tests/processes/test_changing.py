"""docs/changing.md: its steps leave the code that still runs at work, and its headers are told."""

import re
import shutil
import sqlite3
import types
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import APIRouter, WebSocket
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser
from app.core.errors import Forbidden
from app.core.settings import Settings
from tests.process import ROOT, command
from tests.server import RunningServer

GUIDE = (ROOT / "docs" / "changing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
HEAD = '''
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, BigId


class Lamp(Base):
    """A lamp."""

    __tablename__ = "lamps"

    id: Mapped[BigId]
'''
OLD = "INSERT INTO lamps (name) VALUES ('old')"
BOTH = "INSERT INTO lamps (name, label) VALUES ('both', 'both')"
NEW = "INSERT INTO lamps (label) VALUES ('new')"

router = APIRouter(prefix="/old")


@router.get("/refused")
async def refused() -> None:
    """Refuse."""
    raise Forbidden


@router.websocket("/ws")
async def opened(websocket: WebSocket, user: CurrentUser) -> None:
    """Accept who is signed in."""
    await websocket.accept()


def block(beginning: str) -> str:
    """The code of the guide that begins so."""
    (found,) = (each for each in BLOCKS if each.startswith(beginning))
    return str(found)


def fields(*names: str) -> str:
    """The fields of a step of the guide, as the body of the model."""
    lines = block(f"# {names[0]}").splitlines()[1:]
    return HEAD + "".join(f"    {line}\n" for line in lines)


def test_old_code_works_on_each_next_schema(tree: Path, migrated_sqlite: Path) -> None:
    """What the last release writes is taken after each migration, and nothing gets lost."""
    file = tree / "lamps.db"
    lamps = tree / "app" / "features" / "lamps"
    lamps.mkdir()
    (lamps / "__init__.py").touch()
    shutil.copy(migrated_sqlite, file)
    features = tree / "app" / "features" / "__init__.py"
    features.write_text(features.read_text() + "\nfrom app.features.lamps import models as lamps\n")

    def run(*arguments: str) -> None:
        done = command("db", *arguments, root=tree, DATABASE_URL=f"sqlite:///{file}")
        assert done.returncode == 0, done.stderr

    def release(models: str, message: str) -> None:
        (lamps / "models.py").write_text(models)
        run("revision", "lamps", message)
        run("upgrade")

    def execute(*statements: str) -> None:
        with sqlite3.connect(file) as connection:
            for statement in statements:
                connection.execute(statement)

    release(HEAD + "    name: Mapped[str] = mapped_column(String(20))\n", "first")
    execute(OLD)
    release(fields("expand"), "expand")
    execute(OLD, BOTH, "UPDATE lamps SET label = name WHERE label IS NULL")
    release(fields("expand").replace("name: Mapped[str]", "name: Mapped[str | None]"), "let go")
    execute(BOTH, NEW)
    release(fields("contract"), "contract")
    execute(NEW)
    run("check")
    with sqlite3.connect(file) as connection:
        labels = [label for (label,) in connection.execute("SELECT label FROM lamps ORDER BY id")]
    assert labels == ["old", "old", "both", "both", "new", "new"]


async def test_clients_are_told_what_goes_away(settings: Settings) -> None:
    """At both doors, accepted or refused, on errors too; what is below another path is not."""
    module = types.ModuleType("deprecation")
    exec(block('"""Tells clients'), module.__dict__)  # noqa: S102 - the guide's own code
    server = RunningServer(settings, router)
    server.app.add_middleware(
        module.Deprecated,
        prefix="/old",
        since=datetime(2027, 1, 1, tzinfo=UTC),
        sunset=datetime(2027, 7, 1, tzinfo=UTC),
        link="https://example.com/new",
    )
    with server:
        async with server.client() as client:
            paths = ("/old/refused", "/old/nothing")
            told: list[Mapping[str, str]] = [(await client.get(path)).headers for path in paths]
            not_told = (await client.get("/older")).headers
        async with server.socket("/old/ws", server.token()) as socket:
            assert socket.connection.response
            told.append(socket.connection.response.headers)
        with pytest.raises(InvalidStatus) as denied:
            async with server.socket("/old/ws"):
                pass
        told.append(denied.value.response.headers)
    for headers in told:
        assert headers["Deprecation"] == "@1798761600"
        assert headers["Sunset"] == "Thu, 01 Jul 2027 00:00:00 GMT"
        assert headers["Link"] == '<https://example.com/new>; rel="deprecation"; type="text/html"'
    assert "Deprecation" not in not_told
