"""What is counted of frames and of delivery, and how few series clients can make of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.core.db import SqlDatabase
from app.realtime import Address, EventHub
from app.realtime import hub as hub_module
from app.realtime.messages import Position, Publication
from tests.counting import Added, all_series, value
from tests.realtime.listening import Listener, at_once
from tests.realtime.probe import Said, settle, welcomed
from tests.realtime.pulling import room_of
from tests.realtime.stage import Stage
from tests.server import RunningServer

CHANNEL = "/probe/{room}/ws"


def frames(kind: str, outcome: str) -> Added:
    """The frames of the probe's channel that count so."""
    return Added("duplex_frames_total", channel=CHANNEL, type=kind, outcome=outcome)


async def test_frames_count_by_type_and_outcome(probe_server: RunningServer) -> None:
    """What the client did wrong is refused, what we did failed; and how long each took."""
    sent: list[tuple[str, Any, Added]] = [
        ("say", {"text": "a"}, frames("say", "ok")),
        ("ping", None, frames("ping", "ok")),
        ("say", {}, frames("say", "refused")),
        ("fail", {"how": "forbidden"}, frames("fail", "refused")),
        ("fail", {"how": "unavailable"}, frames("fail", "failed")),
        ("unheard", None, frames("unknown", "refused")),
    ]
    invalid, closed = (
        frames("invalid", "refused"),
        Added("duplex_connections_closed_total", route=CHANNEL, code="1000"),
    )
    accepted = Added("duplex_handshakes_total", route=CHANNEL, status="101")
    timed = Added("duplex_frame_seconds_count", channel=CHANNEL, type="say")
    async with probe_server.socket("/probe/61/ws", probe_server.token()) as socket:
        await welcomed(socket)
        for kind, data, _ in sent:
            await socket.ask(kind, data)
        await socket.raw("{")
        await socket.until("error")
        await invalid.reaches(1)
    for _, _, added in sent:
        await added.reaches(1)
    await timed.reaches(2)
    await accepted.reaches(1)
    await closed.reaches(1)


async def test_a_crash_of_a_handler_is_a_frame_that_failed(probe_server: RunningServer) -> None:
    """The error counts by its code, and the socket by the code that it is closed with."""
    failed = frames("fail", "failed")
    told = Added("duplex_errors_total", code="internal", door="ws")
    closed = Added("duplex_connections_closed_total", route=CHANNEL, code="1011")
    async with probe_server.socket("/probe/62/ws", probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("fail", {"how": "crash"})
        assert (await socket.ending())[0] == 1011
    await failed.reaches(1)
    await told.reaches(1)
    await closed.reaches(1)


async def test_types_that_clients_invent_make_no_series(serve_probe: Any) -> None:
    """A thousand of them are one series."""
    server = serve_probe(ws_max_strikes=10_000)
    unknown = frames("unknown", "refused")
    before = set(all_series())
    async with server.socket("/probe/63/ws", server.token()) as socket:
        await welcomed(socket)
        for number in range(1000):
            await socket.ask(f"nonsense.t{number}", ref=number)
    await unknown.reaches(1000)
    assert len(set(all_series()) - before) < 40
    assert "nonsense" not in str(all_series())


async def test_an_event_counts_once_published_and_once_for_each_subscriber(
    probe_server: RunningServer,
) -> None:
    """Its way takes next to no time; a log-in is no event."""
    published, delivered = Added("duplex_published_total"), Added("duplex_deliveries_total")
    measured = Added("duplex_delivery_seconds_count")
    took = Added("duplex_delivery_seconds_sum")
    async with (
        probe_server.socket("/probe/64/log", probe_server.token("1")) as ann,
        probe_server.socket("/probe/64/log", probe_server.token("2")) as bob,
        probe_server.client() as http,
    ):
        for socket in (ann, bob):
            await welcomed(socket)
        for number in range(3):
            await http.post("/probe/64/log", json={"text": f"{number}"})
        for socket in (ann, bob):
            for number in range(3):
                assert (await socket.until("said"))["data"]["text"] == f"{number}"
    assert (published(), delivered(), measured()) == (3, 6, 3)
    assert 0 <= took() < 3


async def test_a_client_that_reads_too_slowly_is_an_eviction(
    serve_probe: Callable[..., RunningServer],
) -> None:
    """Counted once, as the close code that it gets."""
    server = serve_probe(ws_outbox_bytes=1024)
    evicted = Added("duplex_evictions_total", reason="outbox")
    closed = Added("duplex_connections_closed_total", route=CHANNEL, code="1013")
    async with server.socket("/probe/65/ws", server.token()) as socket:
        await welcomed(socket)
        await socket.send("say", {"text": "x" * 2000})
        assert (await socket.ending())[0] == 1013
    await closed.reaches(1)
    assert evicted() == 1


async def test_a_long_poll_is_not_slow(probe_server: RunningServer) -> None:
    """What it waits for events is no part of the time until its answer."""
    route = "/probe/{room}/events"
    answered = Added("duplex_request_seconds_count", method="GET", route=route)
    took = Added("duplex_request_seconds_sum", method="GET", route=route)
    async with room_of(probe_server) as room:
        position = await room.position()
        await room.pull(**position, wait=2.5)
    await answered.reaches(2)
    assert took() < 2.2


async def test_the_hub_knows_what_there_is(
    hub: EventHub, room: Address[Said], probe_server: RunningServer
) -> None:
    """Subscriptions of all topics; bytes that wait, as long as their connection lives."""
    first, second = hub.subscribe(room, Listener()), hub.subscribe(room, Listener())
    assert hub.subscriptions() == 2
    first.cancel()
    second.cancel()
    assert hub.subscriptions() == 0
    server_hub: EventHub = probe_server.app.state.hub
    async with probe_server.socket("/probe/66/ws", probe_server.token()) as socket:
        await welcomed(socket)
        [outbox] = server_hub.outboxes
        outbox._size += 5000  # as if so much waited
        assert server_hub.unread() == 5000

    async def is_forgotten() -> bool:
        return server_hub.unread() == 0

    await settle(is_forgotten)


async def test_a_feed_that_is_behind_says_since_when(stage: Stage) -> None:
    """As long as what the log has does not come; it is level again once that has come."""
    listener, _ = await stage.listen()
    feed = stage.feed
    stage.log.failures = 1000
    before = feed.position
    await stage.record("a", "b")
    assert before is not None
    head = Position(before.epoch, before.offset + 2)
    feed.check(before, head)
    await stage.settled()
    await asyncio.sleep(0.05)
    feed.check(before, head)
    await stage.settled()
    seconds, events = feed.lag()
    assert (seconds >= 0.05, events) == (True, 2)
    stage.log.failures = 0
    feed.check(before, head)
    await stage.settled()
    assert listener.texts == ["a", "b"]
    assert feed.lag() == (0.0, 0)
    feed.check(feed.position, head)
    assert feed._behind is None


async def test_a_log_that_does_not_answer_is_a_lag(
    hub: EventHub, room: Address[Said], database: SqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nobody can look into it, nobody knows that there is nothing."""
    monkeypatch.setattr(hub_module, "SWEEP_SECONDS", 0.0)
    subscription = hub.subscribe(room, Listener())
    await subscription.open()
    await subscription.catch_up(at_once)
    await hub.sweep()
    assert hub.lag()[0] < 1

    async def fails(names: Any) -> Any:
        raise OSError("away")

    monkeypatch.setattr(hub.log, "heads", fails)
    await asyncio.sleep(0.1)
    with pytest.raises(OSError, match="away"):
        await hub.sweep()
    assert hub.lag()[0] >= 0.1
    assert hub.lag()[1] == 0
    subscription.cancel()


def test_the_time_of_an_event_goes_with_it() -> None:
    """To other processes too; one that tells none, or tells more, is understood."""
    said = Publication.of("x", Said(text="a"))
    packed = said.pack()
    assert Publication.unpack("x", packed).at == said.at
    head, _, data = packed.partition(b"\n")
    longer = head[:-1] + b',"more"]\n' + data
    assert Publication.unpack("x", longer).at == said.at
    shorter = b'["said",null,0,null]\n' + data
    assert Publication.unpack("x", shorter).frame == said.frame


async def test_an_event_that_is_read_from_the_log_has_its_time(stage: Stage) -> None:
    """To the millisecond at least: what comes late is measured from when it was recorded."""
    [told] = await stage.record("a")
    assert told.position is not None
    [read] = (
        await stage.log.since(stage.address, Position(told.position.epoch, 0), limit=1)
    ).events
    assert abs(read.at - told.at) < 0.001
    assert value("duplex_delivery_seconds_count") >= 0
