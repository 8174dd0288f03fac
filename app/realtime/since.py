"""Where a client says that it has come to: the same parameters at every door."""

import re
from typing import Annotated

from fastapi import Depends, Header, Query

from app.core.errors import InvalidParameter
from app.core.schemas import MAX_ID
from app.realtime.messages import Position

EVENT_ID = re.compile(r"([0-9a-f]{0,32}):(0|[1-9][0-9]{0,18})")


async def _since(
    epoch: Annotated[str, Query(max_length=32, description="the epoch of `after`")] = "",
    after: Annotated[
        int | None, Query(ge=0, le=MAX_ID, description="the offset of the last event seen")
    ] = None,
) -> Position | None:
    return None if after is None else Position(epoch, after)


Since = Annotated[Position | None, Depends(_since)]
"""The position that a client resumes after, `?epoch=&after=`; None where it begins."""


async def _since_event(
    since: Since,
    last_event_id: Annotated[
        str | None, Header(description="the id of the last event seen, as EventSource sends it")
    ] = None,
) -> Position | None:
    if not last_event_id:
        return since
    found = EVENT_ID.fullmatch(last_event_id)
    if found is None or int(found[2]) > MAX_ID:
        raise InvalidParameter("Last-Event-ID is no id of an event here.")
    return Position(found[1], int(found[2]))


SinceEvent = Annotated[Position | None, Depends(_since_event)]
"""The same for a stream of server-sent events: `Last-Event-ID` goes before the query."""


def event_id(position: Position) -> str:
    """A position as the id of a server-sent event."""
    return f"{position.epoch}:{position.offset}"
