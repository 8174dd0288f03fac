"""What can be done later: payloads, and the handlers that a feature declares for them."""

import random
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from starlette.datastructures import State

from app.core.db import UnitOfWork
from app.core.schemas import Schema

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
MAX_NAME = 100
TRIES = 12  # with the waits between them about two and a half hours
TIME_LIMIT = timedelta(seconds=30)
COMMIT_TIME = timedelta(seconds=30)
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(hours=1)

J = TypeVar("J", bound="Job")


class Job(Schema):
    """What has to be done later, with all that this takes; stored as JSON, so no secrets in it.

    class Reminder(Job):
        name = "rooms.reminder"
        room_id: int
        text: str
    """

    name: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _check_name(getattr(cls, "name", None), cls.__name__)


@dataclass(frozen=True, slots=True)
class JobRun:
    """One try of a job.

    `uow` commits when the handler returns, and with it the end of the job; what the handler does
    outside the database comes before its first statement, since SQLite has one writer at a time.
    `state` is `app.state`. `job_id` is the same in every try: a key for services that take one.
    """

    uow: UnitOfWork
    state: State
    job_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class JobRoute:
    """A handler, the jobs that it is for, and how often and how long it is tried."""

    name: str
    handler: Callable[[Any, JobRun], Awaitable[None]]
    payload: type[Job] | None  # none where it recurs
    every: timedelta | None
    tries: int
    time_limit: timedelta

    @property
    def lease(self) -> timedelta:
        """How long a claimed job is nobody else's: enough for the handler, and then to commit."""
        return self.time_limit + COMMIT_TIME

    def wait(self, attempt: int) -> timedelta:
        """How long to wait after a try that failed: doubled each time, less a random part of it."""
        longest = min(self.every, LONGEST_WAIT) if self.every else LONGEST_WAIT
        doubled = FIRST_WAIT * 2.0 ** min(attempt - 1, 20)
        return min(doubled, longest) * random.uniform(0.5, 1)  # noqa: S311 - no secret


class JobRoutes:
    """The handlers of a part of the service, as an APIRouter has its endpoints.

    jobs = JobRoutes()

    @jobs.on(Reminder)
    async def remind(reminder: Reminder, run: JobRun) -> None: ...

    @jobs.every(timedelta(hours=1), name="accounts.forget_sessions")
    async def forget_sessions(run: JobRun) -> None: ...
    """

    def __init__(self) -> None:
        self._routes: dict[str, JobRoute] = {}

    def __iter__(self) -> Iterator[JobRoute]:
        return iter(self._routes.values())

    def get(self, name: str) -> JobRoute | None:
        """The route of this name."""
        return self._routes.get(name)

    def on(
        self, payload: type[J], *, tries: int = TRIES, time_limit: timedelta = TIME_LIMIT
    ) -> Callable[[Callable[[J, JobRun], Awaitable[None]]], Callable[[J, JobRun], Awaitable[None]]]:
        """Declare the handler of a job. Raises TypeError where the name has one.

        Args:
            payload: the class of the jobs.
            tries: after so many that failed the job is parked, until a person looks at it.
            time_limit: a try that takes longer has failed.
        """

        def declare(
            handler: Callable[[J, JobRun], Awaitable[None]],
        ) -> Callable[[J, JobRun], Awaitable[None]]:
            self._add(JobRoute(payload.name, handler, payload, None, tries, time_limit))
            return handler

        return declare

    def every(
        self, interval: timedelta, *, name: str, time_limit: timedelta = TIME_LIMIT
    ) -> Callable[[Callable[[JobRun], Awaitable[None]]], Callable[[JobRun], Awaitable[None]]]:
        """Declare what is done again and again, once however many processes there are.

        Args:
            interval: from the end of one run to the next; after a try that failed it may be less.
            name: under which it is stored, as `accounts.forget_sessions`; keep it when you rename
                the function.
            time_limit: a try that takes longer has failed.
        """
        _check_name(name, "every()")

        def declare(
            handler: Callable[[JobRun], Awaitable[None]],
        ) -> Callable[[JobRun], Awaitable[None]]:
            async def recur(_: None, run: JobRun) -> None:
                await handler(run)

            self._add(JobRoute(name, recur, None, interval, TRIES, time_limit))
            return handler

        return declare

    def include(self, routes: "JobRoutes") -> None:
        """Take over the routes of a part. Raises TypeError where a name is taken."""
        for route in routes:
            self._add(route)

    def _add(self, route: JobRoute) -> None:
        if route.name in self._routes:
            raise TypeError(f"The job {route.name!r} has two handlers")
        self._routes[route.name] = route


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name) or len(name) > MAX_NAME:
        raise TypeError(f"{where}: {name!r} is not a name of a job such as 'rooms.reminder'")
