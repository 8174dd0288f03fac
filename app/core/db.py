"""Database sessions with an end: `reading()` and `unit_of_work()`.

No dependency yields or returns a session. A guard opens `reading()`, closes it and returns frozen
values; a service's write opens one `unit_of_work()` and decides in it. So a socket that waits
holds no connection.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    MetaData,
    delete,
    event,
    select,
    text,
    tuple_,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, ExceptionContext
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session, mapped_column
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeDecorator
from sqlalchemy.util import await_only
from starlette.requests import HTTPConnection

from app.core.errors import AppError, InvalidParameter, Unavailable, to_app_error

T = TypeVar("T")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on every engine; SQLite would return it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime names no moment: give it a timezone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The base of every model. Constraints have names, so that a migration can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime}


# SQLite counts on its own only what is exactly INTEGER, and that is 64 bits wide there.
BigId = Annotated[
    int, mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
]


class ReadOnly(Session):
    """The session of `reading()`: a flush in it is a mistake in the code, and says so."""

    def flush(self, objects: Any = None) -> None:
        if self.new or self.dirty or self.deleted:
            raise RuntimeError("reading() does not write: open unit_of_work() instead")
        super().flush(objects)


class UnitOfWork(AsyncSession):
    """A session that commits as its block ends, and then does what was left for after that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._before_commit: list[Callable[[], Awaitable[None]]] = []
        self._after_commit: list[Callable[[], None]] = []

    def before_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Await `action` right before the commit, when all else has been written.

        The actions run in the order given here; what they lock is held for a moment only.
        """
        self._before_commit.append(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call `action` once the commit has succeeded, in the order given here."""
        self._after_commit.append(action)

    async def finish(self) -> None:
        """Commit, with what was left for right before and after it."""
        try:
            if self._before_commit:
                await self.flush()
                for prepare in self._before_commit:
                    await prepare()
            await self.commit()
        except Exception:
            # The driver may leave its transaction open, locks and all, and the pool hand that on.
            await self.invalidate()
            raise
        for action in self._after_commit:
            action()


class Turns:
    """Lets the writers of this process queue for SQLite, which would have them sleep and look.

    A unit of work has its turn from its first statement on, and not while it does something else.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._mine: ContextVar[list[bool]] = ContextVar("turn")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Give the turn back at the end of this block, if it was had."""
        had: list[bool] = []
        token = self._mine.set(had)
        try:
            yield
        finally:
            self._mine.reset(token)
            if had:
                self._lock.release()

    def wait(self, connection: Connection) -> None:
        """Wait for the turn as a transaction begins that writes. Raises Unavailable."""
        mine = self._mine.get(None)
        writes = connection.get_execution_options().get("immediate")
        if writes and mine == []:
            try:
                await_only(self._turn())
            except TimeoutError:
                raise Unavailable("The database does not answer in time.") from None
            mine.append(True)

    async def _turn(self) -> None:
        async with asyncio.timeout(self._timeout):
            await self._lock.acquire()


class SqlDatabase:
    """The engine and its two kinds of session.

    Args:
        url: an address with an async driver (sqlite+aiosqlite, postgresql+psycopg).
        pool_size: connections that may be open at once.
        timeout: seconds to wait for a connection, or for SQLite's lock, before Unavailable.
    """

    def __init__(self, url: URL, *, pool_size: int = 10, timeout: float = 5) -> None:
        sqlite = url.drivername.startswith("sqlite")
        arguments: dict[str, Any] = (
            {"timeout": timeout} if sqlite else {"connect_timeout": max(1, round(timeout))}
        )
        self._turns = Turns(timeout)
        self.engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout,
            pool_pre_ping=not sqlite,
            hide_parameters=True,  # an error's text carries no value into the log
            connect_args=arguments,
        )
        event.listen(self.engine.sync_engine, "handle_error", _leave_out_detail)
        if sqlite:  # before it begins
            event.listen(self.engine.sync_engine, "begin", self._turns.wait)
        begin_explicitly(self.engine)
        if sqlite:
            event.listen(self.engine.sync_engine, "connect", _set_up_sqlite)
        # One moment for all its statements, as SQLite gives it without being asked.
        reading = {} if sqlite else {"isolation_level": "REPEATABLE READ"}
        reader = self.engine.execution_options(postgresql_readonly=True, **reading)
        writer = self.engine.execution_options(immediate=True)
        self._reading = async_sessionmaker(
            reader, sync_session_class=ReadOnly, expire_on_commit=False
        )
        self._writing = async_sessionmaker(writer, class_=UnitOfWork, expire_on_commit=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that only reads, and sees the data of one moment."""
        async with self._reading() as session:
            yield session

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """A session whose changes are committed together at the end, or not at all.

        On SQLite it begins IMMEDIATE, so that what it reads cannot change before it writes.
        A cancellation before the commit rolls back; from the commit on it waits for the end.
        """
        with self._turns.one():
            async with self._writing() as session:
                yield session
                await _uncancelled(session.finish())

    @property
    def connections_used(self) -> int:
        """How many connections somebody has right now."""
        return cast(QueuePool, self.engine.pool).checkedout()

    @property
    def pool_size(self) -> int:
        """How many there may be."""
        return cast(QueuePool, self.engine.pool).size()

    async def ping(self) -> None:
        """Ask the database for nothing; raises what its driver raises when it is not there."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def dispose(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


async def _uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if this task is cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:  # noqa: S110 - told by result() below
            pass
    result = task.result()
    if cancelled:
        raise cancelled
    return result


def upsert(dialect: Dialect, model: type[Base]) -> postgresql.Insert:
    """An INSERT that can say `on_conflict_do_…`, which both dialects spell alike."""
    if dialect.name == "postgresql":
        return postgresql.insert(model)
    return cast(postgresql.Insert, sqlite.insert(model))


async def delete_some(
    uow: UnitOfWork,
    key: Sequence[InstrumentedAttribute[Any]],
    *where: ColumnElement[bool],
    at_most: int,
    first: InstrumentedAttribute[Any] | None = None,
) -> None:
    """Delete rows that are over, many at most, so that nobody waits for it.

    Rows that somebody has locked, who may be about to use one, are left for the next time.

    Args:
        key: the columns of the primary key.
        where: which rows.
        at_most: how many of them.
        first: the column whose lowest values go first.
    """
    over = select(*key).where(*where).limit(at_most).with_for_update(skip_locked=True)
    if first is not None:
        over = over.order_by(first)
    await uow.execute(delete(key[0].class_).where(tuple_(*key).in_(over)))


def begin_explicitly(engine: AsyncEngine) -> None:
    """Begin SQLite's transactions where SQLAlchemy's begin.

    The driver would begin on its own: never IMMEDIATE, and not before a CREATE TABLE.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _leave_begin_to_us)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)


def _leave_begin_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _set_up_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _leave_out_detail(context: ExceptionContext) -> None:
    # PostgreSQL's DETAIL quotes the row, which `hide_parameters` does not know of.
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\nDETAIL:")[0], *error.args[1:])


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@to_app_error.register(sa_exc.TimeoutError)
@to_app_error.register(sa_exc.OperationalError)
@to_app_error.register(sa_exc.InterfaceError)
def _unavailable(exc: Exception) -> AppError:
    cause = getattr(exc, "orig", None)
    if isinstance(cause, sqlite3.OperationalError) and not _is_passing(cause):
        return to_app_error(RuntimeError())
    return Unavailable("The database does not answer in time.")


def _is_passing(error: sqlite3.OperationalError) -> bool:
    # "no such table" is an OperationalError of SQLite's too, and no retry mends that.
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")) or (
        name in ("SQLITE_FULL", "SQLITE_READONLY")
    )


@to_app_error.register(sa_exc.DataError)
def _unstorable(exc: sa_exc.DataError) -> AppError:
    return InvalidParameter("The database cannot store a value of the request.")


async def _database(connection: HTTPConnection) -> SqlDatabase:
    database: SqlDatabase = connection.app.state.database
    return database


Database = Annotated[SqlDatabase, Depends(_database)]
"""The database, injected: `async with db.reading() as session`."""
