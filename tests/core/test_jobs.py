"""Jobs: committed with their cause, done once, tried again, on each database."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import MetaData, String, func, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.datastructures import State

from app.core.db import BigId, SqlDatabase
from app.core.errors import NotFound
from app.core.jobs import Job, JobQueue, JobRoutes, JobRow, JobRun, JobRunner, runner
from app.core.jobs.queue import Claim, LeaseLost, reason
from app.core.jobs.routes import FIRST_WAIT, LONGEST_WAIT
from app.core.schemas import Schema
from app.core.settings import Settings
from tests.server import DEADLINE

FOREVER = timedelta(days=1)


class Base(DeclarativeBase):
    """Tables of this file, apart from those that are migrated."""

    metadata = MetaData()


class Effect(Base):
    """What a handler has written."""

    __tablename__ = "test_effects"

    id: Mapped[BigId]
    text: Mapped[str] = mapped_column(String(40), unique=True)


class Note(Job):
    """A text to write down."""

    name = "test.note"
    text: str


class Clock:
    """Tells the time that a test wants it to be."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, time: timedelta) -> None:
        self.now += time


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """A database on each engine, with a table for effects."""
    database = SqlDatabase(settings.database, timeout=20)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.dispose()


@pytest.fixture
def routes() -> JobRoutes:
    """Handlers of the test."""
    return JobRoutes()


@pytest.fixture
def queue(db: SqlDatabase, routes: JobRoutes, clock: Clock) -> JobQueue:
    """The queue, which goes by the clock of the test."""
    return JobQueue(db, routes, clock)


Workers = Callable[..., JobRunner]


@pytest.fixture
def worker(db: SqlDatabase, routes: JobRoutes, clock: Clock) -> Workers:
    """Makes a worker as another process has it: with a queue of its own."""

    def make(*, at_once: int = 4, shutdown_seconds: float = 20, **more: object) -> JobRunner:
        own: JobQueue = more.pop("queue", None) or JobQueue(db, routes, clock)  # type: ignore[assignment]
        return JobRunner(
            own,
            db,
            State(),
            at_once=at_once,
            shutdown_seconds=shutdown_seconds,
            **more,  # type: ignore[arg-type]
        )

    return make


async def work(worker: JobRunner) -> None:
    """Let a worker do all that is due now, and what follows from it."""
    async with asyncio.timeout(DEADLINE):
        while True:
            await worker.turn()
            if not worker._running:
                return
            await asyncio.wait(list(worker._running))


async def enqueue(
    db: SqlDatabase, queue: JobQueue, *texts: str, at: datetime | None = None
) -> None:
    """Have texts written down."""
    async with db.unit_of_work() as uow:
        for each in texts:
            queue.enqueue(uow, Note(text=each), at=at)


async def rows(db: SqlDatabase) -> list[JobRow]:
    """The jobs there are."""
    async with db.reading() as session:
        return list(await session.scalars(select(JobRow).order_by(JobRow.id)))


async def effects(db: SqlDatabase) -> list[str]:
    """What was written, in its order."""
    async with db.reading() as session:
        return list(await session.scalars(select(Effect.text).order_by(Effect.id)))


async def write(note: Note, run: JobRun) -> None:
    """The handler that most tests have."""
    run.uow.add(Effect(text=note.text))


async def test_a_job_commits_with_its_cause(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """What rolls back leaves none; what commits leaves one, which is done and gone."""
    routes.on(Note)(write)

    async def roll_back() -> None:
        async with db.unit_of_work() as uow:
            queue.enqueue(uow, Note(text="never"))
            await uow.flush()
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        await roll_back()
    assert await rows(db) == []
    await enqueue(db, queue, "once")
    await work(worker())
    assert await effects(db) == ["once"]
    assert await rows(db) == []


async def test_a_job_waits_for_its_time(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """It is not done before, and in the order of time."""
    routes.on(Note)(write)
    await enqueue(db, queue, "third", at=clock.now + timedelta(seconds=60))
    await enqueue(db, queue, "second", at=clock.now + timedelta(seconds=50))
    await enqueue(db, queue, "first")
    one = worker(at_once=1)
    await work(one)
    assert await effects(db) == ["first"]
    clock.forward(timedelta(seconds=60))
    await work(one)
    assert await effects(db) == ["first", "second", "third"]


async def test_a_failed_try_leaves_nothing_in_the_database(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """What a handler wrote before it failed is undone; the try after it writes once."""

    @routes.on(Note)
    async def fail_first(note: Note, run: JobRun) -> None:
        run.uow.add(Effect(text=f"{note.text} {run.attempt}"))
        await run.uow.flush()
        if run.attempt == 1:
            raise RuntimeError("not yet")

    await enqueue(db, queue, "try")
    await work(worker())
    assert await effects(db) == []
    clock.forward(FIRST_WAIT)
    await work(worker())
    assert await effects(db) == ["try 2"]


async def test_of_many_workers_one_does_a_job(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """Forty jobs and four workers at once: each is run once, at its first try."""
    begun: Counter[str] = Counter()

    @routes.on(Note)
    async def count(note: Note, run: JobRun) -> None:
        begun[f"{note.text} {run.attempt}"] += 1
        await write(note, run)

    texts = [str(number) for number in range(40)]
    await enqueue(db, queue, *texts)
    await asyncio.gather(*(work(worker(at_once=2)) for _ in range(4)))
    assert begun == {f"{each} 1": 1 for each in texts}
    assert sorted(await effects(db)) == sorted(texts)


async def test_whose_lease_ran_out_commits_nothing(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """A worker that hangs is overtaken after the lease and not before, and then is too late."""
    hanging, resume = asyncio.Event(), asyncio.Event()

    @routes.on(Note, time_limit=timedelta(seconds=30))
    async def hang_first(note: Note, run: JobRun) -> None:
        if run.attempt == 1:
            hanging.set()
            await resume.wait()
        run.uow.add(Effect(text=f"{note.text} {run.attempt}"))

    await enqueue(db, queue, "by try")
    slow, other = worker(), worker()
    await slow.turn()
    await hanging.wait()
    clock.forward(timedelta(seconds=59))
    await work(other)
    assert await effects(db) == []
    clock.forward(timedelta(seconds=1))
    await work(other)
    assert await effects(db) == ["by try 2"]
    resume.set()
    await work(slow)
    assert await effects(db) == ["by try 2"]


async def test_a_lease_of_an_earlier_round_is_no_lease(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, clock: Clock
) -> None:
    """What recurs counts its tries anew: a worker of a round long ago is still too late."""
    claims: list[Claim] = []
    routes.every(timedelta(hours=1), name="test.again")(_nothing)
    await queue.add_recurring()
    for _ in range(3):
        clock.forward(timedelta(hours=1))
        await queue.claim(1, claims.append)
        if len(claims) == 2:  # the first try never came to its end
            async with db.unit_of_work() as uow:
                await queue.finish(uow, claims[1])
    assert [claim.attempt for claim in claims] == [1, 2, 1]
    async with db.unit_of_work() as uow:  # and one that is made due in the same moment is another
        await uow.execute(update(JobRow).values(run_at=clock.now))
    await queue.claim(1, claims.append)
    assert claims[2].lease_ends == claims[3].lease_ends
    for late in (claims[0], claims[2]):
        with pytest.raises(LeaseLost):
            async with db.unit_of_work() as uow:
                await queue.finish(uow, late)
        with pytest.raises(LeaseLost):
            await queue.fail(late, ValueError())


async def _nothing(run: JobRun) -> None:
    """A handler with nothing to do."""


async def test_a_failing_job_waits_longer_each_time_and_is_parked(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """The waits double, up to a limit and less a random part; after the last try it is parked."""
    attempts: list[int] = []

    @routes.on(Note, tries=14)
    async def fail(note: Note, run: JobRun) -> None:
        attempts.append(run.attempt)
        raise NotFound(f"No {run.attempt}.")

    await enqueue(db, queue, "x")
    one = worker()
    for number in range(13):
        await work(one)
        (row,) = await rows(db)
        longest = min(FIRST_WAIT * 2**number, LONGEST_WAIT)
        assert longest / 2 <= row.run_at - clock.now <= longest
        assert (row.attempts, row.parked_at) == (number + 1, None)
        assert row.error == f"not_found: No {number + 1}."
        clock.now = row.run_at
    await work(one)
    (row,) = await rows(db)
    assert (row.parked_at, row.error) == (clock.now, "not_found: No 14.")
    assert attempts == list(range(1, 15))
    clock.forward(FOREVER)
    await work(one)
    assert len(attempts) == 14
    assert (await rows(db))[0].error == "not_found: No 14."


async def test_a_job_that_kills_its_workers_is_parked(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, clock: Clock
) -> None:
    """A try that never ended counts; who looks at the job reads that."""
    routes.on(Note, tries=2)(write)
    await enqueue(db, queue, "x")
    claims: list[Claim] = []
    for _ in range(4):
        await queue.claim(1, claims.append)
        clock.forward(FOREVER)
    assert [claim.attempt for claim in claims] == [1, 2]
    (row,) = await rows(db)
    assert row.parked_at is not None
    assert row.error == "WorkerLost: the last try neither succeeded nor failed."


async def test_a_parked_job_can_be_tried_again_or_dropped(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """Whoever mended the cause has it tried; what nobody wants is forgotten."""
    routes.on(Note, tries=1)(_fail)
    await enqueue(db, queue, "mended", "unwanted")
    await work(worker())
    mended, unwanted = await queue.waiting(10)
    assert mended.parked_at
    assert unwanted.parked_at
    assert await queue.retry(mended.id)
    assert await queue.drop(unwanted.id)
    assert not await queue.retry(unwanted.id)
    assert not await queue.drop(unwanted.id)
    routes._routes.clear()
    routes.on(Note)(write)
    await work(worker())
    assert await effects(db) == ["mended"]


async def _fail(note: Note, run: JobRun) -> None:
    raise RuntimeError("as always")


async def test_parked_jobs_are_listed_first(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """Then those that wait, by their time; and no more than are asked for."""
    routes.on(Note, tries=1)(_fail)
    await enqueue(db, queue, "later", at=clock.now + FOREVER)
    await enqueue(db, queue, "soon", at=clock.now + timedelta(seconds=1))
    await enqueue(db, queue, "now")
    await work(worker())
    listed = [Note.model_validate_json(row.payload).text for row in await queue.waiting(3)]
    assert listed == ["now", "soon", "later"]
    assert len(await queue.waiting(2)) == 2


async def test_a_reason_quotes_no_value(db: SqlDatabase) -> None:
    """Neither what a database quotes, nor what a model refuses; and it can be stored."""

    class Strict(Schema):
        number: int

    errors: list[Exception] = []
    try:
        async with db.unit_of_work() as uow:
            uow.add(Effect(text="hunter2"))
            uow.add(Effect(text="hunter2"))
            await uow.flush()
    except Exception as error:
        errors.append(error)
    try:
        Strict.model_validate_json('{"number": "hunter2"}')
    except ValueError as error:
        errors.append(error)
    said = [reason(error) for error in errors]
    assert said[0].startswith("IntegrityError: ")
    assert said[1] == (
        "Strict: number: Input should be a valid integer, unable to parse string as an integer"
    )
    assert "hunter2" not in str(said)
    assert reason(ValueError("a\0b\ud800" + 1000 * "x"))[:18] == "ValueError: a?b?xx"
    assert len(reason(ValueError(1000 * "x"))) == 500
    assert reason(ValueError("a\nDETAIL:  Key (text)=(hunter2)")) == "ValueError: a"


async def test_a_handler_that_takes_too_long_has_failed(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """It is cancelled at its limit; a timeout of its own is told as what it is."""

    @routes.on(Note, time_limit=timedelta(milliseconds=10))
    async def wait(note: Note, run: JobRun) -> None:
        if note.text == "its own":
            raise TimeoutError("the printer is away")
        await asyncio.Event().wait()

    await enqueue(db, queue, "for ever", "its own")
    await work(worker())
    assert [row.error for row in await rows(db)] == [
        "TimeLimitExceeded: It took longer than 0.01 seconds.",
        "TimeoutError: the printer is away",
    ]


async def test_a_payload_that_is_not_valid_any_more_has_failed(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """A job of an older shape is tried, and parked in the end, like any that fails."""
    routes.on(Note)(write)
    await enqueue(db, queue, "x")
    async with db.unit_of_work() as uow:
        await uow.execute(update(JobRow).values(payload='{"txt": "x"}'))
    await work(worker())
    (row,) = await rows(db)
    assert row.error == "Note: text: Field required; txt: Extra inputs are not permitted"


async def test_what_recurs_runs_once_for_all_workers(
    db: SqlDatabase, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """Each time its interval is over, in one of them, an interval after the last run's end."""
    ran: list[datetime] = []

    @routes.every(timedelta(hours=1), name="test.again")
    async def again(run: JobRun) -> None:
        ran.append(clock.now)

    workers = [worker(), worker()]
    begun = clock.now
    for minutes in (0, 59, 60, 60, 119, 130, 189, 190):
        clock.now = begun + timedelta(minutes=minutes)
        await asyncio.gather(*map(work, workers))
    assert [(at - begun) / timedelta(minutes=1) for at in ran] == [60, 130, 190]
    assert len(await rows(db)) == 1


async def test_what_recurs_goes_on_after_a_failure(
    db: SqlDatabase, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """It is tried sooner than its interval, told as failing, and never parked."""
    failing = True

    @routes.every(timedelta(minutes=2), name="test.again")
    async def again(run: JobRun) -> None:
        if failing:
            raise RuntimeError("not today")

    one = worker()
    await work(one)
    for number in range(20):
        (row,) = await rows(db)
        assert (row.attempts, row.parked_at) == (number, None)
        clock.now = row.run_at
        await work(one)
        (row,) = await rows(db)
        assert row.run_at - clock.now <= min(FIRST_WAIT * 2**number, timedelta(minutes=2))
        assert row.error == "RuntimeError: not today"
    failing = False
    clock.forward(timedelta(minutes=2))
    await work(one)
    (row,) = await rows(db)
    assert (row.attempts, row.error) == (0, None)
    assert row.run_at == clock.now + timedelta(minutes=2)


async def test_a_shorter_interval_counts_from_the_start(db: SqlDatabase, clock: Clock) -> None:
    """What was due tomorrow is due in an hour where that is the interval now."""
    for interval, due in (
        (FOREVER, FOREVER),
        (timedelta(hours=1),) * 2,
        (FOREVER, timedelta(hours=1)),
    ):
        routes = JobRoutes()
        routes.every(interval, name="test.again")(_nothing)
        await JobQueue(db, routes, clock).add_recurring()
        (row,) = await rows(db)
        assert row.run_at - clock.now == due


async def test_a_job_of_an_unknown_name_is_left_alone(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """A worker of older code does not fail what it cannot know, nor do others wait behind it."""
    routes.on(Note)(write)
    await enqueue(db, queue, *map(str, range(5)))
    async with db.unit_of_work() as uow:
        first = select(func.min(JobRow.id)).scalar_subquery()
        await uow.execute(update(JobRow).where(JobRow.id > first).values(name="test.newer"))
        await uow.execute(update(JobRow).where(JobRow.id == first).values(run_at=clock.now))
    await work(worker(at_once=1))
    assert await effects(db) == ["0"]
    assert [(row.name, row.attempts, row.error) for row in await rows(db)] == [
        ("test.newer", 0, None)
    ] * 4


async def test_a_commit_wakes_the_worker_of_its_process(
    db: SqlDatabase,
    queue: JobQueue,
    routes: JobRoutes,
    worker: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job is done though the next look at the table is an hour away; and the next one too."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 3600)
    done: asyncio.Queue[str] = asyncio.Queue()

    @routes.on(Note)
    async def tell(note: Note, run: JobRun) -> None:
        run.uow.after_commit(lambda: done.put_nowait(note.text))

    running = asyncio.create_task(worker(queue=queue, at_once=1).run())
    try:
        for texts in (["a"], ["b", "c"]):
            await enqueue(db, queue, *texts)
            for each in texts:
                assert await asyncio.wait_for(done.get(), DEADLINE) == each
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_worker_looks_for_jobs_of_other_processes(
    db: SqlDatabase,
    queue: JobQueue,
    routes: JobRoutes,
    worker: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody wakes it: it finds the job at its next look."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    done = asyncio.Event()

    @routes.on(Note)
    async def tell(note: Note, run: JobRun) -> None:
        done.set()

    running = asyncio.create_task(worker().run())
    try:
        await enqueue(db, queue, "x")
        await asyncio.wait_for(done.wait(), DEADLINE)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_so_many_run_at_once_and_no_more(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """The third of three waits until one of two places is free."""
    begun: list[str] = []
    resume = asyncio.Event()

    @routes.on(Note)
    async def wait(note: Note, run: JobRun) -> None:
        begun.append(note.text)
        await resume.wait()

    await enqueue(db, queue, "a", "b", "c")
    one = worker(at_once=2)
    for _ in range(3):
        await one.turn()
        await asyncio.sleep(0)
    assert begun == ["a", "b"]
    resume.set()
    await work(one)
    assert begun == ["a", "b", "c"]


async def test_at_the_end_running_jobs_finish(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """A worker that is ended does what it has begun, and begins nothing more."""
    begun, resume = asyncio.Event(), asyncio.Event()

    @routes.on(Note)
    async def wait(note: Note, run: JobRun) -> None:
        begun.set()
        await resume.wait()
        await write(note, run)

    await enqueue(db, queue, "begun", "not begun")
    running = asyncio.create_task(worker(at_once=1).run())
    await asyncio.wait_for(begun.wait(), DEADLINE)
    running.cancel()
    await asyncio.sleep(0)
    assert not running.done()
    resume.set()
    await asyncio.wait([running])
    assert running.cancelled()
    assert await effects(db) == ["begun"]
    assert len(await rows(db)) == 1


async def test_at_the_end_a_job_that_hangs_is_given_back(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """It is cancelled, has written nothing, and another worker has it at once as if never tried."""
    begun = asyncio.Event()
    attempts: list[int] = []

    @routes.on(Note)
    async def hang_first(note: Note, run: JobRun) -> None:
        attempts.append(run.attempt)
        await write(note, run)
        if len(attempts) == 1:
            begun.set()
            await asyncio.Event().wait()

    await enqueue(db, queue, "x")
    running = asyncio.create_task(worker(shutdown_seconds=1).run())
    await asyncio.wait_for(begun.wait(), DEADLINE)
    running.cancel()
    await asyncio.wait([running], timeout=DEADLINE)
    assert running.cancelled()
    (row,) = await rows(db)
    assert (row.run_at, row.attempts, row.error) == (clock.now, 0, None)
    await work(worker())
    assert attempts == [1, 1]
    assert await effects(db) == ["x"]


async def test_a_process_that_is_about_to_end_claims_nothing(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers
) -> None:
    """While its sockets are drained, others do the jobs."""
    routes.on(Note)(write)
    await enqueue(db, queue, "x")
    await work(worker(ending=lambda: True))
    assert await effects(db) == []


async def test_a_database_that_is_away_costs_no_job(
    db: SqlDatabase, queue: JobQueue, routes: JobRoutes, worker: Workers, clock: Clock
) -> None:
    """A worker that cannot say how a try went goes on; the job comes back after its lease."""

    @routes.on(Note)
    async def break_first(note: Note, run: JobRun) -> None:
        await write(note, run)
        if run.attempt == 1:
            async with db.engine.begin() as connection:
                await connection.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))

    await enqueue(db, queue, "x")
    one = worker()
    await one.turn()
    await asyncio.wait(list(one._running))
    assert await effects(db) == []
    async with db.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO jobs"))
    clock.forward(FOREVER)
    await work(one)
    assert await effects(db) == ["x"]


def test_a_name_has_one_handler(routes: JobRoutes) -> None:
    """A second one fails when it is declared, or when its part is included."""
    routes.on(Note)(write)
    with pytest.raises(TypeError, match=r"'test\.note' has two handlers"):
        routes.on(Note)(write)
    other = JobRoutes()
    other.every(FOREVER, name="test.note")(_nothing)
    with pytest.raises(TypeError, match=r"'test\.note' has two handlers"):
        routes.include(other)


def test_a_job_needs_a_name() -> None:
    """One that can be told apart from those of other features."""
    with pytest.raises(TypeError, match="Nameless: None is not a name of a job"):

        class Nameless(Job):
            text: str

    with pytest.raises(TypeError, match="Unnamed: 'reminder' is not a name"):

        class Unnamed(Job):
            name = "reminder"

    with pytest.raises(TypeError, match="is not a name of a job"):
        JobRoutes().every(FOREVER, name="x." + "y" * 100)


async def test_a_job_without_a_handler_is_a_mistake(db: SqlDatabase, queue: JobQueue) -> None:
    """It would wait for ever: whoever wants it done is told so."""
    async with db.unit_of_work() as uow:
        with pytest.raises(TypeError, match="Note has no handler"):
            queue.enqueue(uow, Note(text="x"))
