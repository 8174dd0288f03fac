"""Whether the process is ready, found out once a second however many ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from starlette.datastructures import State

from app.core.oidc import OpenIdProvider
from app.core.revisions import revisions
from app.features.health import schemas
from app.features.health.errors import MigrationsMissing, NotReady
from app.features.health.schemas import Checks, Ready

KEPT_SECONDS = 1.0
DATABASE_SECONDS = 2.0
MIGRATIONS_SECONDS = 2.0

#: What is said of a check that is not ok. It names nothing: anybody may ask.
SAID = {
    "accepting": {"failed": "The process is about to end."},
    "database": {"failed": "The database does not answer."},
    "migrations": {"failed": "The database lacks a migration that is needed here."},
    "provider": {
        "failed": "The identity provider has not answered yet.",
        "degraded": "The identity provider does not answer: its newest keys may not be known.",
    },
    "backplane": {"degraded": "Redis does not answer: events of other processes come late."},
}


class Readiness:
    """Checks all that requests need, at once and each within its time; knows it for a second.

    Args:
        state: the application's, read anew for each check.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._revisions = revisions()
        self._checking = asyncio.Lock()
        self._found: tuple[schemas.State, schemas.State] = ("failed", "failed")
        self._until = 0.0

    async def ask(self) -> Ready:
        """How it is. Raises NotReady or MigrationsMissing where no request should come."""
        async with self._checking:  # who comes meanwhile takes what the first has found
            if time.monotonic() >= self._until:
                self._found = await asyncio.gather(
                    _within(DATABASE_SECONDS, self._database),
                    _within(MIGRATIONS_SECONDS, self._migrations),
                )
                self._until = time.monotonic() + KEPT_SECONDS
        database, migrations = self._found
        checks = Checks(
            accepting="failed" if self._state.connections.draining else "ok",
            database=database,
            migrations=migrations,
            backplane="ok" if self._state.backplane.connected else "degraded",
            provider=self._provider(),
        )
        return _judged(checks)

    def forget(self) -> None:
        """Check anew when somebody asks next."""
        self._until = 0.0

    async def _database(self) -> schemas.State:
        await self._state.database.ping()
        return "ok"

    async def _migrations(self) -> schemas.State:
        async with self._state.database.reading() as session:
            applied = await session.scalars(text("SELECT version_num FROM alembic_version"))
            return "failed" if self._revisions.missing(applied.all()) else "ok"

    def _provider(self) -> schemas.State:
        """How the provider was of late: it is not asked, as whoever verifies tokens asks it."""
        verifier = self._state.verifier
        if not isinstance(verifier, OpenIdProvider) or verifier.keys.answers:
            return "ok"
        return "degraded" if verifier.keys.known else "failed"


async def _within(seconds: float, check: Callable[[], Awaitable[schemas.State]]) -> schemas.State:
    try:
        async with asyncio.timeout(seconds):
            return await check()
    except Exception:
        return "failed"


def _judged(checks: Checks) -> Ready:
    found = checks.model_dump()
    said = {name: SAID[name][found[name]] for name in SAID if found[name] != "ok"}
    for name, sentence in said.items():
        if found[name] == "failed":
            error = MigrationsMissing if name == "migrations" else NotReady
            raise error(sentence, found)
    # Every process would say what is left, and a load balancer must not take all of them out.
    return Ready(status="degraded" if said else "ok", checks=checks, detail=" ".join(said.values()))


def provide(state: State) -> None:
    """Keep what is known of readiness."""
    state.readiness = Readiness(state)
