"""Sessions with an end, on each database."""

import asyncio
import sqlite3
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends
from sqlalchemy import ForeignKey, MetaData, String, select, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.core.db import BigId, Database, SqlDatabase, UtcDateTime
from app.core.errors import InternalError, InvalidParameter, Unavailable, to_app_error
from app.core.schemas import Schema
from app.core.settings import Settings
from app.realtime import Channel, Message, Topic
from tests.server import RunningServer


class Base(DeclarativeBase):
    """Tables of this file, apart from those that are migrated."""

    metadata = MetaData()
    type_annotation_map = {datetime: UtcDateTime}


class Counter(Base):
    """Something to change."""

    __tablename__ = "test_counters"

    id: Mapped[BigId]
    value: Mapped[int] = mapped_column(default=0)
    name: Mapped[str | None] = mapped_column(String(20), unique=True)
    changed_at: Mapped[datetime | None]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("test_counters.id"))


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """A database with one counter, on each engine."""
    database = SqlDatabase(settings.database, pool_size=5, timeout=20)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with database.unit_of_work() as uow:
        uow.add(Counter(id=1))
    yield database
    await database.dispose()


async def value(db: SqlDatabase) -> int:
    async with db.reading() as session:
        return (await session.get_one(Counter, 1)).value


def held(engine: AsyncEngine) -> int:
    """How many connections are in use."""
    return int(engine.pool.checkedout())  # type: ignore[attr-defined]


async def test_reading_does_not_write(db: SqlDatabase) -> None:
    """A change within `reading()` is a mistake and says so."""
    async with db.reading() as session:
        (await session.get_one(Counter, 1)).value = 5
        with pytest.raises(RuntimeError, match="open unit_of_work"):
            await session.flush()
    async with db.reading() as session:
        session.add(Counter(id=2))
        with pytest.raises(RuntimeError, match="open unit_of_work"):
            await session.commit()
    assert await value(db) == 0


async def test_reading_keeps_nothing_that_is_executed(db: SqlDatabase) -> None:
    """A statement that writes in `reading()` is refused, or rolled back at its end."""
    try:
        async with db.reading() as session:
            await session.execute(text("UPDATE test_counters SET value = 5"))
    except sa_exc.DBAPIError as refused:
        assert "read-only" in str(refused)  # noqa: PT017 - which engine refuses is its own affair
    assert await value(db) == 0


async def test_a_unit_of_work_commits_at_its_end(db: SqlDatabase) -> None:
    """What was changed is there for the next one, and the objects can be read on."""
    async with db.unit_of_work() as uow:
        counter = await uow.get_one(Counter, 1)
        counter.value = 5
    assert counter.value == await value(db) == 5


async def test_an_error_rolls_back(db: SqlDatabase) -> None:
    """An exception in a unit of work undoes it, passes on, and runs nothing after commit."""
    ran: list[int] = []

    async def work() -> None:
        async with db.unit_of_work() as uow:
            uow.after_commit(lambda: ran.append(1))
            (await uow.get_one(Counter, 1)).value = 5
            await uow.flush()
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        await work()
    assert (await value(db), ran, held(db.engine)) == (0, [], 0)


async def test_a_failed_commit_runs_nothing_after_it(db: SqlDatabase) -> None:
    """What waits for the commit waits for its success."""
    ran: list[int] = []

    async def work() -> None:
        async with db.unit_of_work() as uow:
            uow.after_commit(lambda: ran.append(1))
            uow.add(Counter(id=1))

    with pytest.raises(sa_exc.IntegrityError):
        await work()
    assert ran == []


async def test_after_commit_runs_in_order_once_it_is_visible(db: SqlDatabase) -> None:
    """The actions run as they were given, and others can see the change by then."""
    ran: list[str] = []
    async with db.unit_of_work() as uow:
        uow.after_commit(lambda: ran.append("first"))
        uow.after_commit(lambda: ran.append("second"))
        uow.after_commit(lambda: ran.append(f"in transaction: {uow.in_transaction()}"))
        (await uow.get_one(Counter, 1)).value = 5
        assert ran == []
    assert ran == ["first", "second", "in transaction: False"]


async def test_no_update_is_lost(db: SqlDatabase) -> None:
    """Of 200 that read and write at once, each counts."""

    async def increment() -> None:
        async with db.unit_of_work() as uow:
            counter = await uow.get_one(Counter, 1, with_for_update=True)
            await asyncio.sleep(0)
            counter.value += 1

    await asyncio.gather(*(increment() for _ in range(200)))
    assert await value(db) == 200


async def test_cancelled_before_the_commit_it_rolls_back(db: SqlDatabase) -> None:
    """A client that leaves while a unit of work is under way has changed nothing."""
    inside = asyncio.Event()

    async def work() -> None:
        async with db.unit_of_work() as uow:
            (await uow.get_one(Counter, 1)).value = 5
            await uow.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await value(db), held(db.engine)) == (0, 0)


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelled_during_the_commit_it_finishes(
    db: SqlDatabase, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """From the commit on it goes to the end of what comes after it, and then is cancelled."""
    committing, released = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    async def work() -> None:
        async with db.unit_of_work() as uow:
            commit = uow.commit

            async def slow_commit() -> None:
                committing.set()
                await released.wait()
                await commit()

            monkeypatch.setattr(uow, "commit", slow_commit)
            uow.after_commit(lambda: ran.append(1))
            (await uow.get_one(Counter, 1)).value = 5

    task = asyncio.create_task(work())
    await committing.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await value(db), ran, held(db.engine)) == (5, [1], 0)


async def test_an_exhausted_pool_is_unavailable_in_time(settings: Settings, engine: str) -> None:
    """Who gets no connection is told so when the time is over, and later gets one."""
    database = SqlDatabase(settings.database, pool_size=1, timeout=0.3)
    async with database.reading() as session:
        await session.execute(select(1))
        started = time.monotonic()
        with pytest.raises(sa_exc.TimeoutError) as raised:
            await database.ping()
        assert 0.2 < time.monotonic() - started < 2
    error = to_app_error(raised.value)
    assert type(error) is Unavailable
    assert error.headers == {"Retry-After": "1"}
    await database.ping()
    await database.dispose()


class Here(Schema):
    """What a guard read."""

    users: int


async def here(db: Database) -> Here:
    """A guard that reads."""
    async with db.reading() as session:
        return Here(users=await session.scalar(text("SELECT count(*) FROM jobs")) or 0)


router = APIRouter()


@router.websocket("/probe/here")
class HereChannel(Channel):
    """Open to whoever comes."""

    topic = Topic[Message]("here")
    here: Annotated[Here, Depends(here)]


async def test_an_idle_socket_holds_no_connection(
    serve: Callable[..., RunningServer], engine: str
) -> None:
    """Twenty sockets whose guard reads are open on a pool of two, and do not have it."""
    server = serve(router, database_pool_size=2)
    async with AsyncExitStack() as stack:
        for _ in range(20):
            socket = await stack.enter_async_context(server.socket("/probe/here"))
            assert (await socket.frame())["type"] == "welcome"
        # What runs beside the requests may have one for a moment.
        assert held(server.app.state.database.engine) < 2
        async with server.client() as client:
            assert (await client.get("/health/ready")).status_code == 200


async def test_a_locked_sqlite_is_unavailable_in_time(settings: Settings) -> None:
    """A writer that another process keeps waiting is told so; readers are not kept."""
    database = SqlDatabase(settings.database, timeout=0.2)
    await database.ping()
    other = sqlite3.connect(str(settings.database.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(sa_exc.OperationalError) as raised:
        async with database.unit_of_work() as uow:
            await uow.execute(select(1))
    assert time.monotonic() - started < 2
    assert type(to_app_error(raised.value)) is Unavailable
    async with database.reading() as session:
        await session.execute(text("SELECT count(*) FROM jobs"))
    other.close()
    async with database.unit_of_work() as uow:
        await uow.execute(select(1))
    await database.dispose()


async def _count(database: SqlDatabase) -> None:
    async with database.unit_of_work() as uow:
        await uow.execute(text("SELECT 1"))


async def test_writers_of_one_process_wait_for_their_turn_in_time(settings: Settings) -> None:
    """From the first statement on, on SQLite: who waits too long for it is told in time."""
    database = SqlDatabase(settings.database, timeout=0.2)
    try:
        async with database.unit_of_work() as first:
            await first.execute(text("SELECT 1"))
            with pytest.raises(Unavailable):
                await asyncio.create_task(_count(database))
        async with database.unit_of_work() as again:
            await again.execute(text("SELECT 1"))
            await again.commit()
            await again.execute(text("SELECT 1"))
    finally:
        await database.dispose()


async def test_a_database_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """Neither a server that does not answer nor a file that cannot be opened is a crash."""
    for url in ("postgresql+psycopg://a@127.0.0.1:1/x", f"sqlite+aiosqlite:///{tmp_path}/no/x.db"):
        database = SqlDatabase(make_url(url), timeout=1)
        with pytest.raises(sa_exc.OperationalError) as raised:
            await database.ping()
        assert type(to_app_error(raised.value)) is Unavailable
        await database.dispose()
    for thread in threading.enumerate():  # the driver's has something left to say to this loop
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 5)


async def test_a_mistake_in_a_statement_is_no_passing_matter(settings: Settings) -> None:
    """A table that is not there is a crash, which no retry mends."""
    database = SqlDatabase(settings.database)
    async with database.reading() as session:
        with pytest.raises(sa_exc.OperationalError) as raised:
            await session.execute(text("SELECT * FROM nowhere"))
    assert type(to_app_error(raised.value)) is InternalError
    await database.dispose()


def test_a_value_that_cannot_be_stored_is_the_clients() -> None:
    """What the database refuses to store is an invalid parameter."""
    assert type(to_app_error(sa_exc.DataError("", {}, ValueError()))) is InvalidParameter


async def test_sqlite_is_set_up(settings: Settings) -> None:
    """WAL lets readers read while one writes; foreign keys are checked."""
    database = SqlDatabase(settings.database)
    async with database.engine.connect() as connection:
        for pragma, expected in (("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)):
            assert await connection.scalar(text(f"PRAGMA {pragma}")) == expected
    await database.dispose()


async def test_a_foreign_key_is_checked(db: SqlDatabase) -> None:
    """A reference to nothing is refused on each engine."""
    with pytest.raises(sa_exc.IntegrityError):
        async with db.unit_of_work() as uow:
            uow.add(Counter(id=2, parent_id=99))


async def test_an_error_of_the_database_names_no_value(db: SqlDatabase) -> None:
    """The text of an error has the statement and not its parameters."""
    async with db.unit_of_work() as uow:
        uow.add(Counter(id=2, name="hunter2"))
    with pytest.raises(sa_exc.IntegrityError) as raised:
        async with db.unit_of_work() as uow:
            uow.add(Counter(id=3, name="hunter2"))
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    assert "test_counters" in str(raised.value)


async def test_moments_are_aware_and_in_utc(db: SqlDatabase) -> None:
    """Whatever its zone was, a moment comes back the same and in UTC."""
    moment = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    async with db.unit_of_work() as uow:
        (await uow.get_one(Counter, 1)).changed_at = moment
    async with db.reading() as session:
        found = (await session.get_one(Counter, 1)).changed_at
    assert found == moment
    assert found is not None
    assert found.tzinfo is UTC


async def test_a_naive_moment_is_refused(db: SqlDatabase) -> None:
    """A datetime without a zone names no moment."""
    with pytest.raises(sa_exc.StatementError, match="naive datetime"):
        async with db.unit_of_work() as uow:
            (await uow.get_one(Counter, 1)).changed_at = datetime(2030, 1, 2)  # noqa: DTZ001
