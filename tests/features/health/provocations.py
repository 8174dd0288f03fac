"""What provokes the error of the health checks."""

from app.features.health.errors import NotReady
from tests.provoking import Problem, Provocation, answered
from tests.server import RunningServer


async def not_ready(server: RunningServer) -> Problem:
    """The answer of a service whose database cannot be opened."""
    away = "sqlite+aiosqlite:////no/such/directory/x.db"
    with server.database_at(away):
        async with server.client() as client:
            return answered(await client.get("/health/ready"))


PROVOCATIONS = [
    Provocation(
        NotReady,
        rest=not_ready,
        alone="Whatever asks for health asks over HTTP.",
    ),
]
