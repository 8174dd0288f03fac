"""Migrations, on each database: they agree with the models, go up and down, and features leave."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import features, migrations
from app.core.db import Base
from app.core.settings import Settings
from tests.conftest import settings_for
from tests.databases import Databases
from tests.process import ROOT, command

MODELS = '''
from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, BigId


class Lamp(Base):
    """A lamp."""

    __tablename__ = "lamps"

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(String(20), unique=True)
'''


async def on(settings: Settings, work: Callable[[Any], Any]) -> Any:
    """What `work` returns for a connection of the database."""
    engine = create_async_engine(settings.database, poolclass=NullPool)
    async with engine.begin() as connection:
        result = await connection.run_sync(work)
    await engine.dispose()
    return result


async def tables(settings: Settings) -> set[str]:
    """The tables that there are."""
    return set(await on(settings, lambda connection: inspect(connection).get_table_names()))


def down(connection: Any) -> None:
    """Undo every migration."""
    alembic.downgrade(migrations._config(connection), "base")


async def test_models_and_migrations_agree(settings: Settings, engine: str) -> None:
    """A migrated database has what the models say, and nothing is pending."""
    assert await migrations.differences(settings) is None
    assert await migrations.pending(settings) is False
    assert await tables(settings) == {*Base.metadata.tables, "alembic_version"}


async def test_a_table_that_no_model_has_is_left_alone(settings: Settings, engine: str) -> None:
    """What a removed feature has left is no difference, and no migration would drop it."""
    await on(
        settings, lambda connection: connection.execute(text("CREATE TABLE left_over (id INT)"))
    )
    assert await migrations.differences(settings) is None


async def test_a_difference_is_seen(settings: Settings, engine: str) -> None:
    """A column that a migration forgot is told."""
    await on(settings, lambda connection: connection.execute(text("ALTER TABLE jobs DROP error")))
    difference = await migrations.differences(settings)
    assert difference
    assert "error" in difference


async def test_upgrading_twice_changes_nothing(settings: Settings, engine: str) -> None:
    """A second upgrade finds nothing to do and loses no row."""
    row = (
        "INSERT INTO jobs (name, payload, run_at, attempts, created_at)"
        " VALUES ('kept', '', '2030-01-01 00:00:00+00', 0, '2030-01-01 00:00:00+00')"
    )
    await on(settings, lambda connection: connection.execute(text(row)))
    before = await tables(settings)
    assert await migrations.upgrade(settings) == []
    assert await tables(settings) == before
    names = text("SELECT name FROM jobs")
    assert await on(settings, lambda connection: connection.scalar(names)) == "kept"


async def test_downgrading_to_nothing_and_up_again(settings: Settings, engine: str) -> None:
    """Each migration can be undone and done again."""
    await on(settings, down)
    assert await tables(settings) <= {"alembic_version"}
    assert await migrations.pending(settings) is True
    await migrations.upgrade(settings)
    assert await migrations.differences(settings) is None


def test_every_part_is_a_branch_of_its_own() -> None:
    """Its revisions are in its folder, named after it, and depend on no other part's.

    The parts are the features, and of the floors below them core and realtime.
    """
    script = ScriptDirectory.from_config(Config(toml_file=str(ROOT / "pyproject.toml")))
    revisions = list(script.walk_revisions())
    assert revisions
    for revision in revisions:
        part = Path(revision.path).parent.name
        assert revision.revision.startswith(f"{part}_")
        below = part in ("core", "realtime")
        assert below != (Path(features.__file__).parent / part / "models.py").is_file()
        assert not revision.dependencies
        assert revision.branch_labels == {part}
    heads = [head.rsplit("_", 1)[0] for head in script.get_heads()]
    assert sorted(heads) == sorted(set(heads))


async def test_an_upgrade_that_fails_leaves_nothing(settings: Settings, engine: str) -> None:
    """It is one transaction: where `tickets` is in the way, there is no `jobs` either."""
    await on(settings, down)
    in_the_way = text("CREATE TABLE tickets (id INT)")
    await on(settings, lambda connection: connection.execute(in_the_way))
    with pytest.raises(migrations.SchemaError, match=r"tickets.*Drop it"):
        await migrations.upgrade(settings)
    assert await tables(settings) <= {"alembic_version", "tickets"}
    await on(settings, lambda connection: connection.execute(text("DROP TABLE tickets")))
    await migrations.upgrade(settings)
    assert await migrations.differences(settings) is None


async def test_a_migration_does_not_hold_up_everybody(
    settings: Settings, postgresql: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a table is in use it gives up soon: whoever came after it would wait as well."""
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 1)
    with postgresql.one() as url:
        here = settings_for(url)
        holder = create_async_engine(here.database, poolclass=NullPool)
        async with holder.begin() as connection:
            await connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
            async with asyncio.timeout(30):
                with pytest.raises(migrations.SchemaError, match="in use for too long"):
                    await migrations.upgrade(here)
        await holder.dispose()
        assert await migrations.upgrade(here) == []


def test_a_database_newer_than_the_code_is_refused(settings: Settings) -> None:
    """A revision of a feature that is here, which its folder does not have, stops the upgrade."""
    with sqlite3.connect(str(settings.database.database)) as connection:
        connection.execute("INSERT INTO alembic_version VALUES ('core_9999')")
    with pytest.raises(migrations.SchemaError, match="newer than the code"):
        asyncio.run(migrations.upgrade(settings))


def test_a_feature_comes_and_goes(tmp_path: Path) -> None:
    """Its migration is written from its models; when its folder is gone, its tables stay."""
    root = tmp_path / "tree"
    for part in ("app", "alembic", "web"):
        ignored = shutil.ignore_patterns("__pycache__", "vendor")
        shutil.copytree(ROOT / part, root / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    url = f"sqlite:///{tmp_path}/x.db"

    def run(*arguments: str) -> str:
        done = command(*arguments, root=root, DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("db", "upgrade") == ""
    features_file = root / "app" / "features" / "__init__.py"
    without = features_file.read_text()
    lamps = root / "app" / "features" / "lamps"
    lamps.mkdir()
    (lamps / "__init__.py").touch()
    (lamps / "models.py").write_text(MODELS)
    features_file.write_text(without + "\nfrom app.features.lamps import models as lamps\n")

    different = command("db", "check", root=root, DATABASE_URL=url)
    assert different.returncode == 1
    assert "lamps" in different.stderr
    assert different.stderr.endswith("Run `python -m app db revision FEATURE MESSAGE`.\n")
    written = Path(run("db", "revision", "lamps", "first lamps").splitlines()[-1])
    assert written == root / "alembic" / "versions" / "lamps" / "lamps_0001_first_lamps.py"
    assert "jobs" not in written.read_text()
    run("db", "upgrade")
    assert run("db", "check").endswith("Models and migrations agree.\n")

    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("INSERT INTO lamps (name) VALUES ('kept')")
    shutil.rmtree(lamps)
    shutil.rmtree(written.parent)
    features_file.write_text(without)
    assert run("db", "upgrade") == (
        "The feature lamps is gone: its tables stay, its migrations are forgotten.\n"
    )
    assert run("db", "upgrade") == ""
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("SELECT name FROM lamps").fetchall() == [("kept",)]
        applied = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert not [revision for (revision,) in applied if revision.startswith("lamps")]
