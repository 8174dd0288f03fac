"""What rooms have done later."""

from contextlib import suppress

from app.core.jobs import JobRoutes, JobRun
from app.features.rooms.errors import NotAMember, RoomNotFound, RoomReadOnly
from app.features.rooms.schemas import Reminder
from app.features.rooms.service import RoomsService

jobs = JobRoutes()


@jobs.on(Reminder)
async def remind(reminder: Reminder, run: JobRun) -> None:
    """Post the reminder, unless its author may not post any more."""
    state = run.state
    rooms = RoomsService(state.database, state.hub, state.idempotency, state.jobs)
    with suppress(RoomNotFound, NotAMember, RoomReadOnly):
        await rooms.post_reminder(run.uow, reminder)
