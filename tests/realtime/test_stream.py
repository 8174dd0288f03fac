"""Events over HTTP, streamed: `GET …/events/stream`, as EventSource reads it, behind its guard."""

import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from app.core.errors import Forbidden
from app.core.schemas import MAX_ID
from app.realtime import Address
from app.realtime.log import PAGE, EventLog
from app.realtime.pull import MAX_WAITING, Puller
from tests.realtime.listening import readings
from tests.realtime.probe import Probe, settle
from tests.realtime.pulling import Room, room_of
from tests.server import RunningServer

ELSEWHERE = "0" * 32


@pytest.fixture
async def room(probe_server: RunningServer) -> AsyncIterator[Room]:
    """A room of this test's own."""
    async with room_of(probe_server) as made:
        yield made


async def test_the_first_event_is_welcome(room: Room) -> None:
    """With where the stream begins, as its id too."""
    await room.write(times=2)
    async with room.stream() as stream:
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        assert stream.response.headers["Cache-Control"] == "no-cache"
        welcome = await stream.event()
    epoch = (await room.position())["epoch"]
    assert welcome == {
        "event": "welcome",
        "id": f"{epoch}:2",
        "data": {"epoch": epoch, "offset": 2, "recovered": None},
    }


async def test_events_come_as_they_happen(room: Room) -> None:
    """Each with its type as name and its position as id, and in its topic's order."""
    async with room.stream() as stream:
        epoch = (await stream.event())["data"]["epoch"]
        for number in (1, 2):
            await room.write(f"line\n{number}\r")
            assert await stream.event() == {
                "event": "said",
                "id": f"{epoch}:{number}",
                "data": {"text": f"line\n{number}\r", "by": ""},
            }


async def test_the_last_event_id_resumes(room: Room) -> None:
    """What came after it comes, whatever the query says that one began with."""
    await room.write(times=2)
    async with room.stream(epoch="", after=0) as stream:
        assert (await stream.event())["data"]["recovered"] is True
        last = [event["id"] for event in await stream.events(2)][-1]
    await room.write("missed")
    async with room.stream(last_event_id=last, epoch="", after=0) as stream:
        welcome, missed = await stream.events(2)
        assert (welcome["data"]["recovered"], welcome["id"]) == (True, last)
        assert missed["data"]["text"] == "missed"
        await room.write("live")
        assert (await stream.event())["data"]["text"] == "live"


async def test_even_the_id_of_a_welcome_resumes(room: Room) -> None:
    """Who was cut off before the first event misses nothing either."""
    async with room.stream() as stream:
        welcome = await stream.event()
    await room.write("missed")
    async with room.stream(last_event_id=welcome["id"]) as stream:
        assert (await stream.events(2))[1]["data"]["text"] == "missed"


async def test_what_is_not_kept_is_not_recovered(room: Room) -> None:
    """It begins at the head, and goes on from there."""
    await room.write(times=2)
    async with room.stream(last_event_id=f"{ELSEWHERE}:1") as stream:
        welcome = await stream.event()
        assert (welcome["data"]["offset"], welcome["data"]["recovered"]) == (2, False)
        await room.write("live")
        assert (await stream.event())["data"]["text"] == "live"


@pytest.mark.parametrize("sent", ["1", f"{ELSEWHERE}:", f"{ELSEWHERE}:{MAX_ID + 1}"])
async def test_what_is_no_event_id_is_refused(room: Room, sent: str) -> None:
    """Before the stream begins, with a real status."""
    async with room.stream(last_event_id=sent) as stream:
        await stream.response.aread()
    assert stream.response.status_code == 422
    assert stream.response.json()["code"] == "invalid_parameter"
    await room.until(subscribers=0)


async def test_only_those_are_told_whom_the_guard_lets_in(room: Room, probe: Probe) -> None:
    """With a real status and the error of any other route."""
    probe.refused.add("1")
    for token, expected in (("x", "authentication_failed"), (None, "forbidden")):
        async with room.stream(token) as stream:
            await stream.response.aread()
        assert stream.response.json()["code"] == expected
        assert stream.response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("missed", [PAGE + 1, MAX_WAITING + PAGE + 1])
async def test_however_many_were_missed_all_come(room: Room, missed: int) -> None:
    """Page by page, with what happens meanwhile behind it, each once."""
    await room.write(times=missed)
    async with room.stream(epoch="", after=0) as stream:
        epoch = (await stream.event())["data"]["epoch"]
        events = await stream.events(10)
        await room.write(times=5)
        events += await stream.events(missed - 5)
    assert [event["id"] for event in events] == [f"{epoch}:{at}" for at in range(1, missed + 6)]


async def test_what_was_missed_waits_for_its_reader(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is too slow for what happened while they were away, and it fills no memory."""
    monkeypatch.setattr(sys.modules[Puller.__module__], "MAX_WAITING", 3)
    await room.write("x" * 50_000, times=100)
    async with room.stream(epoch="", after=0) as stream:
        events = await stream.events(101)
    assert [event["event"] for event in events] == ["welcome"] + ["said"] * 100


async def test_a_stream_holds_no_database_connection(room: Room) -> None:
    """However many are open."""
    pool = room.server.app.state.database.engine.pool
    async with room.stream() as one, room.stream() as two:
        for stream in (one, two):
            await stream.event()
        assert pool.checkedout() == 0


async def test_who_goes_leaves_nothing(room: Room) -> None:
    """Neither a subscriber nor an open connection nor a task."""
    connections = room.server.app.state.connections

    async def none_is_open() -> bool:
        return len(connections) == 0

    await settle(none_is_open)  # those of the tests before this one are going
    async with room.stream() as stream:
        await stream.event()
        assert await room.subscribers() == 1
        assert len(connections) == 1
    await room.until(subscribers=0)
    await settle(none_is_open)


async def test_who_goes_while_events_come_is_no_error(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is told of it, and it is in no log."""
    await room.write("x" * 50_000, times=100)
    for _ in range(3):
        async with room.stream(epoch="", after=0) as stream:
            await stream.events(2)
    await room.until(subscribers=0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_is_put_out_is_told_and_the_stream_ends(room: Room) -> None:
    """The last event is the problem, in the form that every door has."""
    async with room.stream() as stream:
        await stream.event()
        await room.write("a")
        await room.http.post(f"/probe/{room.number}/revoke/1")
        event, problem = await stream.ending()
    assert event["data"]["text"] == "a"
    assert problem["event"] == "problem"
    assert "id" not in problem  # what resumes is the last event
    assert problem["data"]["code"] == "forbidden"
    assert problem["data"]["detail"] == "You were put out."
    assert problem["data"]["instance"] == f"/probe/{room.number}/events/stream"
    assert problem["data"]["request_id"] == stream.response.headers["X-Request-ID"]
    await room.until(subscribers=0)


async def test_who_is_put_out_on_their_way_in_is_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the guard and the subscription, too."""
    hub = room.server.app.state.hub
    subscribe = hub.subscribe

    def late(address: Address[Any], subscriber: Any) -> Any:
        hub._end_subscriptions(address.name, "1", Forbidden("You were put out."))
        return subscribe(address, subscriber)

    monkeypatch.setattr(hub, "subscribe", late)
    async with room.stream() as stream:
        await stream.response.aread()
    assert (stream.response.status_code, stream.response.json()["code"]) == (403, "forbidden")
    await room.until(subscribers=0)


async def test_a_session_that_ends_ends_the_stream(room: Room) -> None:
    """At once, wherever it was signed in."""
    token = room.server.token(str(room.number))
    async with room.stream(token) as stream, room.stream() as other:
        await stream.event()
        await other.event()
        await room.http.post(f"/probe/end/session-{room.number}")
        assert [event["data"]["code"] for event in await stream.ending()] == ["session_revoked"]
        await room.write("a")
        assert (await other.event())["data"]["text"] == "a"


async def test_a_token_that_expires_ends_the_stream(room: Room) -> None:
    """At its time, and no sooner."""
    began = time.time()
    token = room.server.token(lifetime=timedelta(seconds=3))
    async with room.stream(token) as stream:
        await stream.event()
        assert [event["data"]["code"] for event in await stream.ending()] == ["token_expired"]
    assert int(began) + 3 <= time.time() < began + 6


async def test_a_log_that_cannot_be_read_ends_the_stream(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before was told, and the client resumes after it."""
    await room.write(times=PAGE + 1)
    monkeypatch.setattr(EventLog, "since", readings(1))
    async with room.stream(epoch="", after=0) as stream:
        *told, problem = await stream.ending()
    assert len(told) == 1 + PAGE
    assert (problem["event"], problem["data"]["code"]) == ("problem", "unavailable")
