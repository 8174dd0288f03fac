"""`python -m app jobs …`: what an operator sees of the jobs, and does with those given up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from app.core.db import SqlDatabase
from app.core.jobs.queue import JobQueue, JobRow
from app.core.jobs.routes import JobRoutes
from app.core.settings import Settings

LISTED = 100

T = TypeVar("T")

commands = typer.Typer(no_args_is_help=True, help="Jobs that wait or were given up.")

JobId = Annotated[int, typer.Argument(metavar="ID", help="The number in `jobs list`.")]


@commands.command("list")
def list_jobs() -> None:
    """List the jobs: those that are parked, with the reason, then those that come next."""
    rows = _on_queue(lambda queue: queue.waiting(LISTED + 1))
    for row in rows[:LISTED]:
        typer.echo(_line(row))
    if len(rows) > LISTED:
        typer.echo("… and more.")


@commands.command()
def retry(job_id: JobId) -> None:
    """Have a job tried now, as often as at first."""
    _needs(_on_queue(lambda queue: queue.retry(job_id)), job_id)
    typer.echo(f"Job {job_id} is due now.")


@commands.command()
def drop(job_id: JobId) -> None:
    """Forget a job; one that recurs comes back when the service starts."""
    _needs(_on_queue(lambda queue: queue.drop(job_id)), job_id)
    typer.echo(f"Job {job_id} is forgotten.")


def _line(row: JobRow) -> str:
    state, when = ("parked", row.parked_at) if row.parked_at else ("waits", row.run_at)
    line = f"{row.id:>8}  {row.name}  {state} {when:%Y-%m-%d %H:%M:%S}Z  tries: {row.attempts}"
    return f"{line}  {' '.join(row.error.split())}" if row.error else line


def _needs(found: bool, job_id: int) -> None:
    if not found:
        typer.echo(
            f"duplex: There is no job {job_id}: `jobs list` shows those there are.", err=True
        )
        raise typer.Exit(1)


def _on_queue(work: Callable[[JobQueue], Awaitable[T]]) -> T:
    async def connected() -> T:
        database = SqlDatabase(Settings().database)
        try:
            return await work(JobQueue(database, JobRoutes()))
        finally:
            await database.dispose()

    return asyncio.run(connected())
