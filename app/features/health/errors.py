"""Errors of the health checks."""

from collections.abc import Mapping
from typing import Any

from app.core.errors import Unavailable


class NotReady(Unavailable):
    """The process lives, and something that it needs does not answer."""

    code = "health.not_ready"
    title = "Not ready for requests."

    def __init__(self, detail: str, checks: Mapping[str, str]) -> None:
        super().__init__(detail)
        self.checks = checks

    def problem(self, *, instance: str | None, request_id: str | None) -> dict[str, Any]:
        """The error, with how each check has come out."""
        return super().problem(instance=instance, request_id=request_id) | {"checks": self.checks}


class MigrationsMissing(NotReady):
    """The database lacks a migration that this code needs; a newer database is no reason."""

    code = "health.migrations_missing"
    title = "The database lacks migrations that this code needs."
