"""Events over HTTP, pulled: the long poll `GET …/events?epoch=&after=&wait=`, behind its guard."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from starlette.requests import Request

from app.core.errors import Forbidden
from app.core.schemas import MAX_ID
from app.realtime import Address
from app.realtime.log import PAGE, EventLog
from app.realtime.messages import Position, Publication
from app.realtime.pull import MAX_WAITING, Puller
from tests.realtime.listening import readings
from tests.realtime.probe import Probe, Said, settle
from tests.realtime.pulling import Room, room_of
from tests.server import DEADLINE, RunningServer

ELSEWHERE = "0" * 32


@pytest.fixture
async def room(probe_server: RunningServer) -> AsyncIterator[Room]:
    """A room of this test's own."""
    async with room_of(probe_server) as made:
        yield made


def texts(told: dict[str, Any]) -> list[str]:
    """What was said."""
    return [event["data"]["text"] for event in told["events"]]


async def test_without_a_position_it_says_where_to_begin(room: Room) -> None:
    """At once, however long one would wait; with an epoch before the first event already."""
    began = time.monotonic()
    first = await room.pull(wait=20)
    assert (first["events"], first["offset"], first["recovered"]) == ([], 0, None)
    assert len(first["epoch"]) == 32
    await room.write(times=3)
    assert await room.pull(wait=20) == first | {"offset": 3}
    assert time.monotonic() - began < 10


async def test_what_there_is_comes_at_once(room: Room) -> None:
    """The oldest first, each with its type and place, and the position to ask from next."""
    start = await room.position()
    await room.write("a")
    await room.write("b")
    told = await room.pull(**start, wait=20)
    data = {"type": "said", "offset": 1, "data": {"text": "a", "by": ""}}
    assert told["events"] == [data, data | {"offset": 2, "data": {"text": "b", "by": ""}}]
    assert (told["epoch"], told["offset"]) == (start["epoch"], 2)
    assert told["recovered"] is True


async def test_it_waits_for_what_comes(room: Room) -> None:
    """And answers as soon as it is there."""
    start = await room.position()
    waiting = asyncio.create_task(room.pull(**start, wait=20))
    await room.until(subscribers=1)
    assert not waiting.done()
    await room.write("at last")
    async with asyncio.timeout(DEADLINE):
        told = await waiting
    assert (texts(told), told["offset"]) == (["at last"], 1)
    await room.until(subscribers=0)


async def test_it_waits_no_longer_than_it_is_asked_to(room: Room) -> None:
    """And says then that there is nothing, from the same position on."""
    start = await room.position()
    began = time.monotonic()
    told = await room.pull(**start, wait=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert (told["events"], told["offset"], told["recovered"]) == ([], 0, True)
    assert told["epoch"] == start["epoch"]
    await room.until(subscribers=0)


async def test_before_the_first_event_one_may_begin_without_an_epoch(room: Room) -> None:
    """As a list over REST says that is empty."""
    assert texts(await room.pull(epoch="", after=0)) == []
    await room.write("a")
    assert texts(await room.pull(epoch="", after=0)) == ["a"]


@pytest.mark.parametrize("limit", [7, 100, 150, 1000])
async def test_however_many_were_missed_all_come(room: Room, limit: int) -> None:
    """So many at once, each once, from one position to the next."""
    missed = 5 * PAGE + 23
    position = await room.position()
    if limit == 7:
        missed = 3 * 7 + 2
    await room.write(times=missed)
    offsets: list[int] = []
    while True:
        told = await room.pull(**position, limit=limit)
        assert told["recovered"] is True
        if not told["events"]:
            break
        assert len(told["events"]) <= limit
        offsets += (event["offset"] for event in told["events"])
        position = {"epoch": told["epoch"], "after": told["offset"]}
    assert offsets == list(range(1, missed + 1))


async def test_no_more_comes_than_is_asked_for(room: Room) -> None:
    """Of what happens while it waits, too; the rest comes with the next."""
    start = await room.position()
    waiting = asyncio.create_task(room.pull(**start, wait=20, limit=2))
    await room.until(subscribers=1)
    await room.write(times=5)
    told = await asyncio.wait_for(waiting, DEADLINE)
    assert ([event["offset"] for event in told["events"]], told["offset"]) == ([1, 2], 2)
    told = await room.pull(epoch=told["epoch"], after=2)
    assert [event["offset"] for event in told["events"]] == [3, 4, 5]


async def test_what_is_not_kept_is_not_recovered(room: Room) -> None:
    """Of another epoch, or ahead of the topic: it says so at once, and where to go on."""
    start = await room.position()
    await room.write(times=2)
    for nowhere in ({"epoch": ELSEWHERE, "after": 1}, start | {"after": 3}):
        async with asyncio.timeout(DEADLINE):
            told = await room.pull(**nowhere, wait=20)
        assert (told["events"], told["offset"], told["recovered"]) == ([], 2, False)
        assert told["epoch"] == start["epoch"]


async def test_many_that_wait_hold_no_database_connection(room: Room) -> None:
    """Fifty wait, more than the pool has connections, and each hears the one event."""
    pool = room.server.app.state.database.engine.pool
    start = await room.position()
    async with room.server.client(limits=httpx2.Limits(max_connections=60)) as http:
        mine = Room(room.server, http, room.number)
        waiting = [asyncio.create_task(mine.pull(**start, wait=20)) for _ in range(50)]
        await room.until(subscribers=50)

        async def nobody_reads() -> bool:
            return bool(pool.checkedout() == 0)

        await settle(nobody_reads)
        assert await room.subscribers() == 50
        await room.write("a")
        assert [texts(told) for told in await asyncio.gather(*waiting)] == [["a"]] * 50


async def test_only_those_are_told_whom_the_guard_lets_in(room: Room, probe: Probe) -> None:
    """With the error of any other route."""
    answer = await room.http.get(f"/probe/{room.number}/events")
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")
    probe.refused.add("1")
    answer = await room.ask()
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_who_is_put_out_while_waiting_is_told(room: Room) -> None:
    """The subscription ended with an error, and the answer is that."""
    start = await room.position()
    waiting = asyncio.create_task(room.ask(**start, wait=20))
    await room.until(subscribers=1)
    await room.http.post(f"/probe/{room.number}/revoke/1")
    answer = await asyncio.wait_for(waiting, DEADLINE)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert answer.json()["detail"] == "You were put out."


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
    answer = await room.ask(wait=20)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    await room.until(subscribers=0)


async def test_a_session_that_ends_ends_the_wait(room: Room) -> None:
    """As it ends a socket."""
    start = await room.position()
    token = room.server.token(str(room.number))
    waiting = asyncio.create_task(room.ask(token, **start, wait=20))
    await room.until(subscribers=1)
    await room.http.post(f"/probe/end/session-{room.number}")
    answer = await asyncio.wait_for(waiting, DEADLINE)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_revoked")
    await room.until(subscribers=0)


async def test_a_token_that_expires_ends_the_wait(room: Room) -> None:
    """At its time, and no sooner."""
    start = await room.position()
    began = time.time()
    token = room.server.token(lifetime=timedelta(seconds=3))
    answer = await asyncio.wait_for(room.ask(token, **start, wait=20), DEADLINE)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
    assert int(began) + 3 <= time.time() < began + 6


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"wait": "-1"}, "wait"),
        ({"wait": "30.1"}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"wait": "inf"}, "wait"),
        ({"wait": "x"}, "wait"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"after": "-1"}, "after"),
        ({"after": str(MAX_ID + 1)}, "after"),
        ({"after": "1", "epoch": "0" * 33}, "epoch"),
    ],
)
async def test_what_cannot_be_asked_is_an_invalid_parameter(
    room: Room, query: dict[str, str], name: str
) -> None:
    """Nobody subscribes for it."""
    answer = await room.ask(**query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
    assert answer.json()["errors"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("epoch", ["\0", "\U0001f600" * 32, "'; DROP TABLE event_log; --", "é"])
async def test_a_strange_epoch_is_another_epoch(room: Room, epoch: str) -> None:
    """It is compared, and reaches no database."""
    await room.write()
    told = await room.pull(epoch=epoch, after=0)
    assert (told["events"], told["recovered"]) == ([], False)
    assert (await room.pull(epoch="0" * 32, after=MAX_ID))["recovered"] is False


async def test_a_log_that_cannot_be_read_is_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a database that does not answer is by any route."""
    start = await room.position()
    monkeypatch.setattr(EventLog, "since", readings(0))
    answer = await room.ask(**start, wait=20)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    await room.until(subscribers=0)


class TestPuller:
    """A subscriber over HTTP, by itself."""

    @pytest.fixture
    def puller(self) -> Puller:
        """Of somebody who is not signed in."""
        return Puller(Request({"type": "http", "state": {}}))

    def _event(self, offset: int) -> Publication:
        return Publication("a", "said", b"{}", Position("e", offset))

    def test_it_keeps_so_many_events(self, puller: Puller) -> None:
        """Who does not fetch them is ended as a slow consumer, after those that were kept."""
        for offset in range(MAX_WAITING + 10):
            puller.deliver(self._event(offset))
        assert len(puller.waiting) == MAX_WAITING
        assert puller.error
        assert puller.error.code == "realtime.slow_consumer"

    def test_what_is_of_no_log_is_not_kept(self, puller: Puller) -> None:
        """It could not be asked for again."""
        puller.deliver(Publication.of("a", Said(text="typing")))
        assert puller.fetch() is None

    async def test_the_first_error_counts(self, puller: Puller) -> None:
        """And wakes whoever waits, for good."""
        puller.end(Forbidden("one"))
        puller.end(Forbidden("two"))
        assert puller.error
        assert puller.error.detail == "one"
        for _ in range(2):
            async with asyncio.timeout(DEADLINE):
                await puller.told()
            assert puller.fetch() is None

    async def test_who_has_fetched_everything_waits(self, puller: Puller) -> None:
        """Until there is something again."""
        puller.deliver(self._event(1))
        async with asyncio.timeout(DEADLINE):
            await puller.told()
            assert puller.fetch()
            await puller.emptied()
            assert puller.fetch() is None
            waiting = asyncio.create_task(puller.told())
            await asyncio.sleep(0)
            assert not waiting.done()
            puller.deliver(self._event(2))
            await waiting
