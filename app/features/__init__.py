"""The features, each a folder here: this is the map of the service."""

from fastapi import APIRouter

from app.features import (
    accounts,
    health,
    rooms,  # example
)

router = APIRouter()
router.include_router(health.router)
router.include_router(accounts.router, prefix="/api/v1")
router.include_router(rooms.router, prefix="/api/v1")  # example

#: Command groups, as `python -m app user`.
commands = {"user": accounts.commands}
