"""The table of jobs: how one gets in, is claimed by a worker, and goes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, cast

from fastapi import Depends
from pydantic import ValidationError
from sqlalchemy import (
    Delete,
    Index,
    String,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection

from app.core.db import Base, BigId, SqlDatabase, UnitOfWork, upsert
from app.core.errors import AppError
from app.core.jobs.routes import Job, JobRoute, JobRoutes
from app.core.metrics import count_job
from app.core.observability import log
from app.core.schemas import UNSTORABLE
from app.core.tracing import current_traceparent

MAX_REASON = 500
MAX_COUNTED = 10_000
WORKER_LOST = "WorkerLost: the last try neither succeeded nor failed."


class JobRow(Base):
    """A job that waits, runs or was given up; one that is done is deleted."""

    __tablename__ = "jobs"
    __table_args__ = (
        # Of those that may run: any number that are parked cost nothing.
        Index(
            None,
            "run_at",
            "id",
            sqlite_where=text("parked_at IS NULL"),
            postgresql_where=text("parked_at IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BigId]
    name: Mapped[str] = mapped_column(String(100))
    payload: Mapped[str] = mapped_column(Text)  # JSON
    # What recurs is there once, however many processes ask for it.
    recurring: Mapped[str | None] = mapped_column(String(100), unique=True)
    run_at: Mapped[datetime]  # the next try; of one that runs, when its lease ends
    attempts: Mapped[int] = mapped_column(default=0)
    parked_at: Mapped[datetime | None]  # given up
    error: Mapped[str | None] = mapped_column(Text)  # of the last try
    created_at: Mapped[datetime]
    trace: Mapped[str | None] = mapped_column(String(64))  # of whoever wanted it: a `traceparent`


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process has until `lease_ends`, and the number of this try."""

    id: int
    route: JobRoute
    payload: str
    attempt: int
    lease_ends: datetime
    trace: str | None

    @property
    def row(self) -> dict[str, Any]:
        """What IS_HELD compares the row with."""
        return {"job": self.id, "attempt": self.attempt, "lease_ends": self.lease_ends}


# Built once: that takes longer than to run them.
TABLE = cast(Table, JobRow.__table__)
JOB = TABLE.c
IS_DUE = and_(
    JOB.parked_at.is_(None),
    JOB.run_at <= bindparam("now"),
    JOB.name.in_(bindparam("names", expanding=True)),
)
# As it was claimed: nobody has claimed, moved or parked it. The number of the try alone would not
# do, since what recurs begins to count again.
IS_HELD = and_(
    JOB.id == bindparam("job"),
    JOB.attempts == bindparam("attempt"),
    JOB.run_at == bindparam("lease_ends"),
)
ANY_DUE = select(exists().where(IS_DUE))
DUE = (
    select(JOB.id, JOB.name, JOB.payload, JOB.attempts, JOB.trace)
    .where(IS_DUE)
    .order_by(JOB.run_at, JOB.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
LEASE = (
    update(TABLE)
    .where(JOB.id == bindparam("job"))
    .values(attempts=bindparam("attempt"), run_at=bindparam("lease_ends"))
)
PARK = (
    update(TABLE)
    .where(JOB.id == bindparam("job"))
    .values(parked_at=bindparam("now"), error=bindparam("reason"))
)
REMOVE = delete(TABLE).where(IS_HELD)
RUN_AGAIN = (
    update(TABLE).where(IS_HELD).values(run_at=bindparam("next_run"), attempts=0, error=None)
)


class LeaseLost(Exception):
    """The lease ran out while the job was worked on: whoever claimed it next has it now."""


class JobQueue:
    """The jobs of a database.

    Args:
        db: where they are.
        routes: what is done by this code; other jobs are left to whom they belong.
        clock: tells the time, which has to be about the same on every machine.
    """

    def __init__(
        self,
        db: SqlDatabase,
        routes: JobRoutes,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.routes = routes
        #: Called when a job has come that is due; by the runner of this process, if it has one.
        self.on_due: Callable[[], None] = lambda: None
        self._db = db
        self._clock = clock
        self._busy = False  # there were as many jobs at least as were asked for

    # What a service calls

    def enqueue(self, uow: UnitOfWork, job: Job, *, at: datetime | None = None) -> None:
        """Have `job` done once `uow` has committed; never if it does not.

        Args:
            uow: the unit of work that wants it.
            job: what is to be done.
            at: not before this moment; as soon as possible where it is left out.

        Raises TypeError where no handler of the job is listed in app/features/__init__.py.
        """
        route = self.routes.get(job.name)
        if route is None or route.payload is not type(job):
            raise TypeError(f"{type(job).__name__} has no handler: include the routes with it")
        now = self._clock()
        run_at = at or now
        row = JobRow(name=job.name, payload=job.model_dump_json(), run_at=run_at, created_at=now)
        row.trace = current_traceparent()
        uow.add(row)
        if run_at <= now:
            uow.after_commit(self._tell)

    def _tell(self) -> None:
        self.on_due()

    # What a worker calls

    async def add_recurring(self) -> None:
        """See that all that recurs has its row, and is due when its interval is over at latest."""
        now = self._clock()
        due = {route.name: now + route.every for route in self.routes if route.every}
        async with self._db.reading() as session:
            rows = await session.execute(
                select(JobRow.name, JobRow.run_at, JobRow.attempts).where(JobRow.recurring.in_(due))
            )
            planned = {row.name: row for row in rows}
        missing = [
            {"name": name, "recurring": name, "payload": "null", "run_at": at, "created_at": now}
            for name, at in due.items()
            if name not in planned
        ]
        async with self._db.unit_of_work() as uow:
            if missing:
                added = upsert(uow.get_bind().dialect, JobRow).on_conflict_do_nothing()
                await uow.execute(added, missing)
            for name, row in planned.items():
                if row.attempts == 0 and row.run_at > due[name]:  # the interval was made shorter
                    sooner = update(JobRow).where(JobRow.recurring == name, JobRow.attempts == 0)
                    await uow.execute(sooner.values(run_at=due[name]))

    async def claim(self, limit: int, start: Callable[[Claim], None]) -> None:
        """Claim up to `limit` jobs that are due; each is passed to `start` once that is committed.

        A job that has been tried often enough, the last time by a worker that was killed or hung,
        is parked instead.
        """
        now = self._clock()
        routes = {route.name: route for route in self.routes}
        due = {"now": now, "names": list(routes)}
        if not self._busy:  # most of the time that is all, and locks nothing
            async with self._db.reading() as session:
                if not await session.scalar(ANY_DUE, due):
                    return
        claims, lost = [], []
        async with self._db.unit_of_work() as uow:
            connection = await uow.connection()
            rows = (await connection.execute(DUE, due | {"limit": limit})).all()
            for id_, name, payload, attempts, trace in rows:
                route = routes[name]
                if attempts < route.tries or route.every:
                    claim = Claim(id_, route, payload, attempts + 1, now + route.lease, trace)
                    claims.append(claim.row)
                    uow.after_commit(partial(start, claim))
                else:
                    lost.append({"job": id_, "now": now, "reason": WORKER_LOST})
                    line = {"job": name, "job_id": id_, "reason": WORKER_LOST}
                    uow.after_commit(partial(log.error, "job parked", **line))
                    uow.after_commit(partial(count_job, name, "parked"))
            if claims:
                await connection.execute(LEASE, claims)
            if lost:
                await connection.execute(PARK, lost)
        self._busy = len(rows) == limit

    async def finish(self, uow: UnitOfWork, claim: Claim) -> None:
        """Note, as the last thing in `uow`, that the job is done. Raises LeaseLost."""
        connection = await uow.connection()
        if claim.route.every:
            following = {"next_run": self._clock() + claim.route.every}
            done = await connection.execute(RUN_AGAIN, claim.row | following)
        else:
            done = await connection.execute(REMOVE, claim.row)
        if done.rowcount != 1:
            raise LeaseLost

    async def fail(self, claim: Claim, exc: Exception) -> datetime | None:
        """Note that a try has failed; returns when the next one is, None for a job that is parked.

        Raises LeaseLost.
        """
        now, route = self._clock(), claim.route
        values: dict[str, Any] = {"error": reason(exc)}
        again: datetime | None = None
        if route.every or claim.attempt < route.tries:
            again = values["run_at"] = now + route.wait(claim.attempt)
        else:
            values["parked_at"] = now
        async with self._db.unit_of_work() as uow:
            connection = await uow.connection()
            noted = update(TABLE).where(IS_HELD).values(values)
            if (await connection.execute(noted, claim.row)).rowcount != 1:
                raise LeaseLost
        return again

    async def release(self, claims: Iterable[Claim]) -> None:
        """Give jobs back that were not worked on to the end; these tries do not count."""
        now = self._clock()
        async with self._db.unit_of_work() as uow:
            connection = await uow.connection()
            for claim in claims:
                released = update(TABLE).where(IS_HELD)
                values = {"run_at": now, "attempts": claim.attempt - 1}
                await connection.execute(released.values(values), claim.row)

    # What a person calls

    async def waiting(self, limit: int) -> Sequence[JobRow]:
        """The jobs there are, at most `limit`: those that are parked, then those that come next."""
        order = (JobRow.parked_at.is_(None), JobRow.run_at, JobRow.id)
        async with self._db.reading() as session:
            return (await session.scalars(select(JobRow).order_by(*order).limit(limit))).all()

    async def backlog(self) -> tuple[int, int]:
        """How many jobs are due and wait, and how many are parked; of each MAX_COUNTED at most."""
        waits = and_(JOB.parked_at.is_(None), JOB.run_at <= self._clock())
        counted = (
            select(func.count()).select_from(
                select(JOB.id).where(which).limit(MAX_COUNTED).subquery()
            )
            for which in (waits, JOB.parked_at.is_not(None))
        )
        async with self._db.reading() as session:
            ready, parked = [await session.scalar(each) or 0 for each in counted]
        return ready, parked

    async def retry(self, job_id: int) -> bool:
        """Make a job due now, with all its tries before it. Returns whether there is one."""
        values = {"run_at": self._clock(), "attempts": 0, "parked_at": None}
        return await self._change(update(TABLE).where(JOB.id == job_id).values(values))

    async def drop(self, job_id: int) -> bool:
        """Forget a job. Returns whether there was one."""
        return await self._change(delete(TABLE).where(JOB.id == job_id))

    async def _change(self, statement: Update | Delete) -> bool:
        async with self._db.unit_of_work() as uow:
            return (await (await uow.connection()).execute(statement)).rowcount == 1


def reason(exc: Exception) -> str:
    """Why a try failed, for a person to read; without the values that an error may carry."""
    if isinstance(exc, AppError):
        said = f"{exc.code}: {exc}"
    elif isinstance(exc, ValidationError):
        fields = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        said = f"{exc.title}: {'; '.join(fields)}"
    else:
        said = f"{type(exc).__name__}: {exc}".partition("\nDETAIL:")[0]
    return UNSTORABLE.sub("?", said[:MAX_REASON])


async def _jobs(connection: HTTPConnection) -> JobQueue:
    queue: JobQueue = connection.app.state.jobs
    return queue


Jobs = Annotated[JobQueue, Depends(_jobs)]
"""The queue of jobs, injected: `jobs.enqueue(uow, Reminder(...))`."""
