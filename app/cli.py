"""The command line: `python -m app serve`, `worker`, `db upgrade`, `user promote`."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Never, TypeVar

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app import backups, features, migrations
from app.core import key_commands as keys
from app.core.jobs import commands as jobs
from app.core.metrics import REGISTRY
from app.core.metrics_door import SharedValues, metrics_door
from app.core.node_lock import ServedAlready, node_lock
from app.core.observability import configure_logging
from app.core.setting_commands import commands as setting_commands
from app.core.setting_commands import complaints, telemetry_of_file
from app.core.settings import Settings, sqlite_file
from app.server import DuplexServer, announce, listen
from app.workers import Supervisor, inherited

T = TypeVar("T")

AFTER_RESTORE = "Clients start over, and access tokens are refused: sessions refresh theirs."

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A FastAPI service in which REST and WebSockets are equals.",
)
db = typer.Typer(no_args_is_help=True, help="The database and its migrations.")
cli.add_typer(db, name="db")
cli.add_typer(setting_commands, name="settings")


def main() -> None:
    """Run the command line."""
    cli()


def stop(sentence: str) -> Never:
    """End with one sentence for a person, which names the remedy."""
    typer.echo(f"duplex: {sentence}", err=True)
    raise typer.Exit(1)


def load_settings() -> Settings:
    """The settings; ends with a line for each that is wrong."""
    try:
        settings = Settings()
    except ValidationError as error:
        stop(complaints(error))
    configure_logging(level=settings.log_level, json=settings.log_format == "json")
    os.environ.update(telemetry_of_file())
    return settings


def run(work: Coroutine[Any, Any, T], settings: Settings) -> T:
    """Run something on the database; ends with a sentence where that is not possible."""
    try:
        return asyncio.run(work)
    except (backups.BackupError, migrations.SchemaError, ServedAlready) as error:
        stop(str(error))
    except (OSError, SQLAlchemyError) as error:
        stop(unreachable(settings, error))


def needs_database() -> Settings:
    """The settings; ends with a sentence unless their database is there and up to date."""
    settings = load_settings()
    check_migrated(settings)
    return settings


def check_migrated(settings: Settings) -> None:
    """End with a sentence unless every migration has been run."""
    if run(migrations.pending(settings), settings):
        stop("The database is not up to date: run `python -m app db upgrade`, or serve --migrate.")


for name, commands in {"jobs": jobs.commands, "keys": keys.commands, **features.commands}.items():
    cli.add_typer(commands, name=name, callback=needs_database, help=commands.info.help)


def unreachable(settings: Settings, error: Exception) -> str:
    """What to do about a database that cannot be used; names no password."""
    if file := sqlite_file(settings.database):
        return (
            f"The database file {file} cannot be used ({_first_line(error)}): make its directory "
            "writable, or set DATABASE_URL to another place."
        )
    url = settings.database.render_as_string(hide_password=True)
    return (
        f"The database {url} cannot be reached ({_first_line(error)}): start it, or correct "
        "DATABASE_URL."
    )


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    text = getattr(cause, "strerror", None) or str(cause)
    return next(iter(text.strip().splitlines()), type(cause).__name__)


@cli.command()
def serve(
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring the database up to date first.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes serve.")] = 1,
) -> None:
    """Serve REST and WebSockets on HOST and PORT."""
    settings = load_settings()
    if post := inherited():
        post.end_with_parent()
        _serve(settings, post.listener, post.serves)
    if workers > 1:
        _need_redis(settings)
    try:
        # Bound before anything is migrated: a port that is taken must change nothing.
        sock = listen(settings.host, settings.port)
    except OSError as error:
        stop(_cannot_listen(settings.host, settings.port, error))
    with _metrics(settings, workers) as shared:
        if migrate:
            _upgrade(settings)
        else:
            check_migrated(settings)
        started = partial(announce, sock)
        if workers == 1:
            _serve(settings, sock, started)
        sys.exit(_supervise(settings, sock, workers, started, shared))


def _supervise(
    settings: Settings,
    sock: socket.socket,
    workers: int,
    started: Callable[[], None],
    shared: SharedValues | None,
) -> int:
    supervisor = Supervisor(
        sock, workers, shutdown_seconds=settings.shutdown_seconds, started=started
    )
    if shared:
        supervisor.environment, supervisor.ended = shared.environment, shared.ended
    return supervisor.run()


@contextlib.contextmanager
def _metrics(settings: Settings, workers: int = 1) -> Iterator[SharedValues | None]:
    """Serve metrics for this block where METRICS_PORT says so; several workers share theirs."""
    with contextlib.ExitStack() as stack:
        shared = None
        if settings.metrics_port and workers > 1:
            shared = stack.enter_context(SharedValues())
        try:
            stack.enter_context(metrics_door(settings, shared.registry if shared else REGISTRY))
        except OSError as error:
            stop(_cannot_listen(settings.metrics_host, settings.metrics_port, error, "METRICS_"))
        yield shared


def _serve(settings: Settings, sock: socket.socket, started: Callable[[], None]) -> Never:
    """Serve in this process, and end it."""
    from app.main import create_app  # noqa: PLC0415 - `db` commands need no web framework

    lock = node_lock(settings.database, shared=settings.redis_url is not None)
    server = DuplexServer(create_app(settings), settings, started=started, lock=lock)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[sock])
    except ServedAlready as error:
        stop(str(error))
    except (OSError, SQLAlchemyError) as error:
        if server.started:
            raise
        stop(unreachable(settings, error))
    sys.exit(server.exit_code if server.started else 3)


@cli.command()
def worker() -> None:
    """Run jobs, and serve nothing; there may be any number of workers."""
    settings = load_settings()
    if settings.in_production and sqlite_file(settings.database):
        stop(
            "SQLite is for one process in production: set DATABASE_URL to a postgresql:// address."
        )
    check_migrated(settings)
    with _metrics(settings):
        run(_work(settings), settings)


async def _work(settings: Settings) -> None:
    """Run the service without its server until a signal comes; a second one ends it at once."""
    from app.main import create_app  # noqa: PLC0415 - `db` commands need no web framework

    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(told.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    app = create_app(settings.model_copy(update={"jobs_in_process": True}))
    async with app.router.lifespan_context(app):
        typer.echo("Duplex works on jobs (Ctrl-C ends it)")
        await told.wait()


def _need_redis(settings: Settings) -> None:
    if os.name != "posix":
        stop("--workers needs a system with POSIX signals: serve without it.")
    if settings.redis_url is None:
        stop(
            "Several workers tell each other of events through Redis: set REDIS_URL, or serve "
            "without --workers."
        )


def _cannot_listen(host: str, port: int, error: OSError, prefix: str = "") -> str:
    """What to do about an address that cannot be had; its settings are PREFIX + HOST and PORT."""
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use: stop what listens there, or set {prefix}PORT to a free port."
    why = error.strerror or error
    return f"{where} cannot be listened on ({why}): correct {prefix}HOST or {prefix}PORT."


def _upgrade(settings: Settings) -> None:
    for feature in run(migrations.upgrade(settings), settings):
        typer.echo(f"The feature {feature} is gone: its tables stay, its migrations are forgotten.")


@db.command()
def upgrade() -> None:
    """Run the migrations that are missing."""
    _upgrade(load_settings())


@db.command()
def check() -> None:
    """Say whether the models and the migrated database agree."""
    settings = needs_database()
    if difference := run(migrations.differences(settings), settings):
        stop(f"{difference} Run `python -m app db revision FEATURE MESSAGE`.")
    typer.echo("Models and migrations agree.")


@db.command()
def revision(feature: str, message: str) -> None:
    """Write the migration that the models of FEATURE need."""
    settings = needs_database()
    typer.echo(run(migrations.revise(settings, feature, message), settings))


File = Annotated[Path, typer.Argument(dir_okay=False, help="The file of the backup.")]


@db.command()
def backup(file: File) -> None:
    """Write the database to a new FILE, while it is served."""
    try:
        backups.backup(load_settings(), file)
    except backups.BackupError as error:
        stop(str(error))
    typer.echo(f"{file} has the database: keep it as secret as the database, with its SECRET_KEY.")


@db.command()
def restore(file: File) -> None:
    """Fill an empty database from FILE, of the same engine, while nobody serves it."""
    settings = load_settings()
    run(backups.restore(settings, file), settings)
    typer.echo(f"The database is that of {file}. {AFTER_RESTORE}")


@db.command("after-restore")
def after_restore() -> None:
    """Make a database fit to be served that was restored without `db restore`."""
    settings = needs_database()
    run(backups.after_restore(settings), settings)
    typer.echo(AFTER_RESTORE)
