"""The features, each a folder here: this is the map of the service."""

from collections.abc import Callable
from typing import Protocol

import typer
from fastapi import APIRouter
from starlette.datastructures import State

from app.core.auth import Credential
from app.core.jobs import JobRoutes
from app.features import (
    accounts,  # local
    audit,
    health,
    me,
    rooms,  # example
    tickets,
)

router = APIRouter()
router.include_router(health.router)
router.include_router(audit.router, prefix="/api/v1")
router.include_router(me.router, prefix="/api/v1")
router.include_router(rooms.router, prefix="/api/v1")  # example
router.include_router(tickets.router, prefix="/api/v1")

#: What is done later, or again and again.
jobs = JobRoutes()
jobs.include(audit.jobs)
jobs.include(rooms.jobs)  # example

#: Called once with the application's state: what a feature keeps as long as the process lives.
services: list[Callable[[State], None]] = []
services.append(health.provide)

#: What its requests may be authenticated by, beside access tokens.
credentials: list[Credential] = []

#: Command groups, as `python -m app user`.
commands: dict[str, typer.Typer] = {}
commands["user"] = accounts.commands  # local


class People(Protocol):
    """A feature that knows people by itself, with all that it is put on the map by."""

    router: APIRouter
    jobs: JobRoutes
    credentials: list[Credential]

    def provide(self, state: State) -> None:
        """Keep what the feature needs as long as the process lives."""


#: There with AUTH_MODE=local alone: elsewhere a provider knows who people are.
local: list[People] = []
local.append(accounts)  # local
