"""The worker: claims jobs, runs their handlers, a few at a time, and ends without losing any."""

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import State
from structlog.contextvars import bound_contextvars

from app.core.background import Periodic
from app.core.db import SqlDatabase
from app.core.errors import InternalError, to_app_error
from app.core.jobs.queue import Claim, JobQueue, LeaseLost, reason
from app.core.jobs.routes import JobRun
from app.core.metrics import count_job
from app.core.observability import log, report
from app.core.tracing import Tracing

POLL_SECONDS = 1.0
CANCEL_SECONDS = 0.5


class TimeLimitExceeded(Exception):
    """A handler took longer than its route allows."""


class JobRunner:
    """Runs the jobs of a queue beside whatever else this process does.

    Args:
        queue: where they come from.
        db: where handlers have their units of work.
        state: what handlers find as `run.state`.
        at_once: how many run at the same time.
        shutdown_seconds: how long the process may take to end, from when it is told to.
        ending: whether it has been told: then no job is claimed any more.
        tracing: where each try has a span.
    """

    name = "jobs"

    def __init__(
        self,
        queue: JobQueue,
        db: SqlDatabase,
        state: State,
        *,
        at_once: int,
        shutdown_seconds: float,
        ending: Callable[[], bool] = lambda: False,
        tracing: Tracing | None = None,
    ) -> None:
        self._queue = queue
        self._db = db
        self._state = state
        self._at_once = at_once
        self._shutdown_seconds = shutdown_seconds
        self._ending = ending
        self._tracing = tracing or Tracing({})
        self._told_at: float | None = None
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._knows_recurring = False
        self._turns = Periodic(self.name, self.turn, seconds=POLL_SECONDS)
        queue.on_due = self._turns.wake

    async def run(self) -> None:
        """Work on jobs until cancelled; then let those that run finish, and give back the rest."""
        try:
            await self._turns.run()
        finally:
            await self._end()

    async def turn(self) -> None:
        """Start as many of the jobs that are due as there are places for."""
        if self._ending():
            self._told_at = self._told_at or time.monotonic()
            return
        if not self._knows_recurring:
            await self._queue.add_recurring()
            self._knows_recurring = True
        free = self._at_once - len(self._running)
        if free > 0:
            await self._queue.claim(free, self._start)

    def _start(self, claim: Claim) -> None:
        task = asyncio.create_task(self._work(claim), name=f"job {claim.route.name} {claim.id}")
        self._running[task] = claim
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._turns.wake()  # there is a place free

    async def _work(self, claim: Claim) -> None:
        started = time.perf_counter()
        with bound_contextvars(job=claim.route.name, job_id=claim.id, attempt=claim.attempt):
            outcome = "done"
            try:
                with self._tracing.job(claim.route.name, claim.id, claim.attempt, claim.trace):
                    await self._try(claim)
                log.info("job", ms=round((time.perf_counter() - started) * 1000, 1))
            except LeaseLost:
                outcome = "lost"
                log.warning("lease lost")
            except Exception as exc:
                outcome = await self._failed(claim, exc)
            count_job(claim.route.name, outcome, time.perf_counter() - started)

    async def _try(self, claim: Claim) -> None:
        route = claim.route
        limit = route.time_limit.total_seconds()
        timer = asyncio.timeout(limit)
        payload = route.payload.model_validate_json(claim.payload) if route.payload else None
        async with self._db.unit_of_work() as uow:
            run = JobRun(uow, self._state, claim.id, claim.attempt)
            try:
                async with timer:
                    await route.handler(payload, run)
            except TimeoutError:
                if timer.expired():
                    raise TimeLimitExceeded(f"It took longer than {limit:g} seconds.") from None
                raise
            await self._queue.finish(uow, claim)

    async def _failed(self, claim: Claim, exc: Exception) -> str:
        """Note a try that failed; returns what it is counted as."""
        try:
            again = await self._queue.fail(claim, exc)
        except LeaseLost:
            log.warning("lease lost")
            return "lost"
        except Exception as away:
            report(away)  # the job comes back when its lease is over
            return "failed"
        unexpected = exc if isinstance(to_app_error(exc), InternalError) else None
        if again:
            line = {"reason": reason(exc), "retry_at": again.isoformat()}
            log.warning("job failed", **line, exc_info=unexpected)
        else:
            log.error("job parked", reason=reason(exc), exc_info=unexpected)
        return "failed" if again else "parked"

    async def _end(self) -> None:
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=self._time_left())
        finally:
            left = dict(self._running)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=CANCEL_SECONDS)
                await self._give_back([claim for task, claim in left.items() if task.cancelled()])

    def _time_left(self) -> float:
        told_at = (self._told_at or time.monotonic()) - POLL_SECONDS  # it may be as long ago
        return max(0.0, told_at + self._shutdown_seconds - time.monotonic())

    async def _give_back(self, claims: list[Claim]) -> None:
        if not claims:
            return
        try:
            await self._queue.release(claims)
            for claim in claims:
                log.info("job given back", job=claim.route.name, job_id=claim.id)
                count_job(claim.route.name, "given_back")
        except Exception as away:
            report(away)  # they come back when their leases are over
