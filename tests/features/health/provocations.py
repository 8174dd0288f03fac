"""What provokes the error of the health checks."""

from sqlalchemy import text

from app.features.health.errors import MigrationsMissing, NotReady
from app.main import create_app
from tests.provoking import Problem, Provocation, answered
from tests.server import RunningServer


async def not_ready(server: RunningServer) -> Problem:
    """The answer of a service whose database cannot be opened."""
    away = "sqlite+aiosqlite:////no/such/directory/x.db"
    with server.database_at(away):
        async with server.client() as client:
            return answered(await client.get("/health/ready"))


async def migrations_missing(server: RunningServer) -> Problem:
    """The answer of a service whose database has lost a migration."""
    database = create_app(server.settings).state.database
    async with database.unit_of_work() as uow:
        await uow.execute(text("DELETE FROM alembic_version WHERE version_num LIKE 'core_%'"))
    await database.dispose()
    server.app.state.readiness.forget()
    async with server.client() as client:
        return answered(await client.get("/health/ready"))


PROVOCATIONS = [
    Provocation(
        NotReady,
        rest=not_ready,
        alone="Whatever asks for health asks over HTTP.",
    ),
    Provocation(
        MigrationsMissing,
        rest=migrations_missing,
        alone="Whatever asks for health asks over HTTP.",
    ),
]
