"""This service as it runs in production, with a channel of the benchmark's own."""

import argparse
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import StringConstraints

from app.core.auth import CurrentUser
from app.core.db import Database
from app.core.observability import configure_logging
from app.main import create_app
from app.realtime import Channel, Hub, Message, Topic, on
from app.server import DuplexServer
from bench.dialects import GROUP
from bench.servers import serve, settings_for


class Say(Message):
    """Tell everyone; nothing is recorded, as with the peers."""

    type = "say"
    text: Annotated[str, StringConstraints(max_length=10_000)]


class Record(Message):
    """Tell everyone, once it is committed to the log."""

    type = "record"
    text: Annotated[str, StringConstraints(max_length=10_000)]


class Said(Message):
    """Something that was said."""

    type = "said"
    text: str


told = Topic[Said]("bench:{group}")
recorded = Topic[Said]("bench_log:{group}", durable=True)

router = APIRouter(prefix="/bench")


async def admitted(group: str, user: CurrentUser) -> str:
    """Let in whoever is signed in."""
    return group


Admitted = Annotated[str, Depends(admitted)]


@router.websocket("/{group}/listen")
class Listener(Channel):
    """Hears what is said."""

    topic = told
    group: Admitted


@router.websocket("/{group}/follow")
class Follower(Channel):
    """Hears what is recorded."""

    topic = recorded
    group: Admitted


@router.websocket("/speak")
class Speaker(Channel):
    """Tells the listeners, or the followers."""

    user: CurrentUser
    hub: Hub
    db: Database

    @on
    async def say(self, message: Say) -> None:
        """Tell the listeners."""
        self.hub.emit(told.at(group=GROUP), Said(text=message.text))

    @on
    async def record(self, message: Record) -> None:
        """Commit it to the log, and tell the followers."""
        async with self.db.unit_of_work() as uow:
            self.hub.publish(uow, recorded.at(group=GROUP), Said(text=message.text))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("redis")
    given = parser.parse_args()
    settings = settings_for(given.database, given.redis)
    configure_logging(level=settings.log_level, json=True)
    app = create_app(settings)
    app.include_router(router)
    token = app.state.tokens.issue("1", name="Ann", session="bench")
    serve(DuplexServer(app, settings), {"Authorization": f"Bearer {token}"})


if __name__ == "__main__":
    main()
