"""One subscription: from the log to what happens, without a gap and with nothing told twice."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.core.db import SqlDatabase
from app.realtime import Address, EventHub, Position
from app.realtime.feed import Opening
from app.realtime.messages import START, Publication
from tests.realtime.listening import Listener, at_once, listen
from tests.realtime.probe import Said, probe_events
from tests.realtime.stage import ELSEWHERE, Stage, lost
from tests.server import DEADLINE


def _taken(room: asyncio.Semaphore) -> Callable[[], Coroutine[Any, Any, None]]:
    async def ready() -> None:
        await room.acquire()

    return ready


async def test_who_asks_for_nothing_begins_at_the_head(stage: Stage) -> None:
    """Nothing of what was; all that comes."""
    await stage.record("a")
    listener, opening = await stage.listen()
    assert opening.position == (await stage.log.heads([stage.address.name]))[stage.address.name]
    assert opening.recovered is None
    await stage.happen("b")
    assert (listener.texts, listener.offsets) == (["b"], [2])


async def test_the_first_of_a_topic_are_told_its_epoch(stage: Stage) -> None:
    """Whether they ask for nothing or for what came after nothing; and all of them the same."""
    openings = [
        (await stage.listen(since))[1] for since in (None, START, START)
    ]  # none had an event
    positions = [opening.position for opening in openings]
    assert positions[0]
    assert positions == [Position(positions[0].epoch, 0)] * 3
    assert positions[0].epoch
    assert [opening.recovered for opening in openings] == [None, True, True]


async def test_who_was_away_is_told_what_they_missed(stage: Stage) -> None:
    """After their position, and then what comes."""
    first, *_ = await stage.record(*"abc")
    listener, opening = await stage.listen(first.position)
    assert opening == Opening(first.position, recovered=True)
    await stage.happen("d")
    assert (listener.texts, listener.offsets) == (["b", "c", "d"], [2, 3, 4])


async def test_what_happens_while_the_log_is_read_comes_once(stage: Stage) -> None:
    """What the reading has seen too, and what it has not; told in order at the end of it."""
    first, *_ = await stage.record("a")
    other, _ = await stage.listen()  # so that the feed is under way
    for already_there in (True, False):
        listener = Listener()
        subscription = stage.feed.join(listener)
        if already_there:
            await stage.happen("before")
        stage.log.go_on.clear()
        stage.log.reading.clear()
        opening = asyncio.create_task(subscription.open(first.position))
        await stage.log.reading.wait()
        await stage.happen("meanwhile")
        stage.log.go_on.set()
        await opening
        await stage.happen("after")
        assert listener.told == []
        await subscription.catch_up(at_once)
        await stage.happen("live")
        assert listener.offsets == list(range(2, 2 + len(listener.offsets)))
        assert listener.texts == other.texts


async def test_more_than_a_page_is_told_in_pages(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is told once there is room for it; what happens meanwhile waits its turn."""
    monkeypatch.setattr("app.realtime.feed.PAGE", 3)
    first, *_ = await stage.record(*"abcdefgh")
    listener, room = Listener(), asyncio.Semaphore(0)
    subscription = stage.feed.join(listener)
    await subscription.open(first.position)
    catching_up = asyncio.create_task(subscription.catch_up(_taken(room)))
    for number in range(1, 8):
        await stage.happen(f"live {number}")
        assert len(listener.told) == number - 1
        room.release()
        await listener.hears(number)
    for _ in range(7):
        room.release()
    await catching_up
    assert listener.texts == [*"bcdefgh", *(f"live {number}" for number in range(1, 8))]


async def test_what_is_kept_meanwhile_is_bounded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads while more happens than is kept reads again, and misses nothing."""
    monkeypatch.setattr("app.realtime.feed.MAX_HELD", 4)
    first, *_ = await stage.record("a")
    other, _ = await stage.listen()
    listener = Listener()
    subscription = stage.feed.join(listener)
    await subscription.open(first.position)
    await stage.happen(*(str(number) for number in range(20)))
    assert len(subscription._kept) == 4
    await subscription.catch_up(at_once)
    await stage.happen("live")
    assert listener.texts == other.texts == [*(str(number) for number in range(20)), "live"]


async def test_the_first_one_here_misses_nothing_either(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has told the feed yet how far the topic is."""
    monkeypatch.setattr("app.realtime.feed.MAX_HELD", 4)
    listener = Listener()
    subscription = stage.feed.join(listener)
    await subscription.open(START)
    await stage.happen(*(str(number) for number in range(10)))
    await subscription.catch_up(at_once)
    await stage.happen("live")
    assert await listener.hears(11) == [*(str(number) for number in range(10)), "live"]
    assert listener.endings == []


async def test_what_cannot_be_told_whole_is_not_told(stage: Stage) -> None:
    """Gone, of another epoch, or in the future: not recovered, at the head, and live."""
    events = await stage.record(*"abc")
    await stage.remove(2)
    (first, _, third) = (event.position for event in events)
    assert first
    listeners = []
    for since in (first, Position(ELSEWHERE, 2), Position(first.epoch, 4)):
        listener, opening = await stage.listen(since)
        assert opening == Opening(third, recovered=False)
        assert listener.told == []
        listeners.append(listener)
    await stage.happen("d")
    assert [(each.texts, each.endings) for each in listeners] == [(["d"], [])] * 3


async def test_who_is_too_slow_for_the_log_starts_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next page has been removed meanwhile it is said, and nothing told half."""
    monkeypatch.setattr("app.realtime.feed.PAGE", 2)
    await stage.record(*"abcdef")
    listener = Listener()
    subscription = stage.feed.join(listener)
    opening = await subscription.open(START)
    assert opening.recovered
    await stage.remove(3)
    await subscription.catch_up(at_once)
    assert listener.texts == ["a", "b"]
    assert lost(listener)


async def test_a_reading_that_fails_is_told_to_who_reads(stage: Stage) -> None:
    """And to nobody else; the next one begins as always."""
    other, _ = await stage.listen()
    stage.log.failures = 1
    with pytest.raises(OperationalError):
        await stage.listen(START)
    await stage.happen("a")
    listener, opening = await stage.listen(START)
    assert (listener.texts, opening.recovered) == (["a"], True)
    assert (other.texts, other.endings) == (["a"], [])


async def test_a_topic_without_a_log_reads_none(stage: Stage) -> None:
    """There is no position; who asks for what they missed is told that it is not known."""
    stage.feed.address = probe_events.at(room=1)
    for since, recovered in ((None, None), (START, False)):
        listener, opening = await stage.listen(since)
        assert opening == Opening(None, recovered)
        stage.feed.arrived(Publication.of("probe:1", Said(text="a")))
        assert listener.texts == ["a"]
    assert stage.log.readings == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_comes_whenever_hears_all_that_follows(
    hub: EventHub, database: SqlDatabase, room: Address[Said], seed: int
) -> None:
    """While twelve publish and some fail, each of twenty hears 1, 2, 3 … from its beginning."""
    chance, said = random.Random(seed), list[str]()

    async def publish(number: int) -> None:
        for turn in range(5):
            await asyncio.sleep(chance.uniform(0, 0.02))
            try:
                async with database.unit_of_work() as uow:
                    hub.publish(uow, room, Said(text=f"{number}:{turn}"))
                    if chance.random() < 0.2:
                        raise KeyError
            except KeyError:
                continue
            said.append(f"{number}:{turn}")

    async def subscribe() -> tuple[Listener, Opening]:
        await asyncio.sleep(chance.uniform(0, 0.1))
        listener = Listener()
        since = START if chance.random() < 0.5 else None
        return listener, (await listen(hub, room, listener, since))[1]

    subscribing = [asyncio.create_task(subscribe()) for _ in range(20)]
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*map(publish, range(12)))
        listening = await asyncio.gather(*subscribing)
    everything = await hub.log.since(room, START, limit=100)
    assert everything.head.offset == len(said)
    texts = [Said.model_validate_json(each.data).text for each in everything.events]
    assert sorted(texts) == sorted(said)
    for listener, opening in listening:
        assert opening.position
        begun = opening.position.offset
        assert listener.offsets == list(range(begun + 1, len(said) + 1))
        assert listener.texts == texts[begun:]
        assert listener.endings == []
