"""What a test of a setting is written with: `@sets("port")` on a function that takes `serve`.

tests/processes/test_each_setting.py collects them, also from `setting_checks.py` of the folders
beside it.
"""

from collections.abc import Awaitable, Callable

from app.core.db import SqlDatabase
from app.main import create_app
from tests.server import RunningServer

Serve = Callable[..., RunningServer]
Check = Callable[[Serve], Awaitable[None]]

CHECKS: dict[str, Check] = {}


def sets(name: str) -> Callable[[Check], Check]:
    """Register the test of a setting."""

    def register(check: Check) -> Check:
        assert name not in CHECKS
        CHECKS[name] = check
        return check

    return register


def database_of(server: RunningServer) -> SqlDatabase:
    """A database as the server has it, in this event loop."""
    database: SqlDatabase = create_app(server.settings).state.database
    return database
