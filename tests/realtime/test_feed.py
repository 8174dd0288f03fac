"""One topic in one process: in order from what comes, and from the log where something did not."""

import asyncio
import random
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

from app.realtime import Position
from app.realtime.feed import GAP_SECONDS, Subscription
from app.realtime.log import TopicRow
from app.realtime.messages import Publication
from tests.realtime.listening import Listener, at_once
from tests.realtime.probe import Said
from tests.realtime.stage import ELSEWHERE, Stage, lost


class TestOrder:
    """What is told, in which order."""

    async def test_events_are_told_in_the_order_of_the_log(self, stage: Stage) -> None:
        """In whatever order they come, and each once, however often it comes."""
        listener, _ = await stage.listen()
        read = stage.log.readings
        events = await stage.record(*"abcdefgh")
        arriving = [*events, *events, *events]
        random.Random(7).shuffle(arriving)
        for publication in arriving:
            stage.feed.arrived(publication)
        assert listener.texts == list("abcdefgh")
        stage.feed.arrived(events[0])
        await stage.settled()
        assert listener.texts == list("abcdefgh")
        assert stage.log.readings == read  # an inversion is no gap

    async def test_a_gap_is_filled_from_the_log(self, stage: Stage) -> None:
        """What has not come within twenty milliseconds is read, once for all who listen."""
        listeners = [(await stage.listen())[0] for _ in range(3)]
        first, _, _, fourth = await stage.record(*"abcd")
        read = stage.log.readings
        stage.feed.arrived(first)
        began = asyncio.get_running_loop().time()
        stage.feed.arrived(fourth)
        assert stage.feed._gap
        assert 0.02 <= stage.feed._gap.when() - began < 0.04
        assert listeners[0].texts == ["a"]
        for listener in listeners:
            assert await listener.hears(4) == list("abcd")
        await stage.settled()
        assert stage.log.readings == read + 1
        assert [listener.texts for listener in listeners] == [list("abcd")] * 3

    async def test_what_comes_while_a_gap_is_read_is_told_once(self, stage: Stage) -> None:
        """The missing one may come late, and the next ones meanwhile."""
        listener, _ = await stage.listen()
        first, second, third = await stage.record(*"abc")
        stage.log.go_on.clear()
        stage.log.reading.clear()
        stage.feed.arrived(third)
        await stage.log.reading.wait()
        (fourth,) = await stage.record("d")
        for publication in (second, fourth, first):
            stage.feed.arrived(publication)
        assert listener.texts == list("abcd")
        stage.log.go_on.set()
        await stage.settled()
        assert listener.texts == list("abcd")

    async def test_a_gap_of_many_pages_is_filled(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Page by page, up to where the log is."""
        monkeypatch.setattr("app.realtime.feed.PAGE", 3)
        listener, _ = await stage.listen()
        events = await stage.record(*"abcdefghij")
        stage.feed.arrived(events[-1])
        assert await listener.hears(10) == list("abcdefghij")

    async def test_what_is_held_is_bounded(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one is missing only so many wait; the rest is read, and the missing one taken."""
        monkeypatch.setattr("app.realtime.feed.MAX_HELD", 5)
        listener, _ = await stage.listen()
        events = await stage.record(*(str(number) for number in range(20)))
        stage.log.go_on.clear()
        for publication in events[1:]:
            stage.feed.arrived(publication)
        assert len(stage.feed._held) == 5
        stage.log.go_on.set()
        assert await listener.hears(20) == [str(number) for number in range(20)]

    async def test_the_missing_one_is_taken_however_many_wait(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is what those that are held wait for."""
        monkeypatch.setattr("app.realtime.feed.MAX_HELD", 5)
        listener, _ = await stage.listen()
        events = await stage.record(*"abcdef")
        stage.log.failures = 100
        for publication in (*events[1:], events[0]):
            stage.feed.arrived(publication)
        assert listener.texts == list("abcdef")

    async def test_what_has_no_position_is_told_at_once(self, stage: Stage) -> None:
        """It waits for no gap."""
        listener, _ = await stage.listen()
        first, second = await stage.record(*"ab")
        stage.feed.arrived(second)
        stage.feed.arrived(Publication.of(stage.address.name, Said(text="typing")))
        assert listener.texts == ["typing"]
        stage.feed.arrived(first)
        assert listener.texts == ["typing", "a", "b"]


class TestLosing:
    """Where what follows cannot be told."""

    async def test_a_gap_that_the_log_cannot_fill_ends_those_who_wait(self, stage: Stage) -> None:
        """All who are live, once; who comes afterwards begins at the head."""
        listeners = [(await stage.listen())[0] for _ in range(2)]
        *_, third = await stage.record(*"abc")
        await stage.remove(1)
        stage.feed.arrived(third)
        for listener in listeners:
            await listener.until(lambda each: bool(each.endings))
            assert lost(listener)
            assert listener.told == []
        late, opening = await stage.listen()
        assert opening.position == third.position
        await stage.happen("d")
        assert (late.texts, late.endings) == (["d"], [])

    async def test_another_epoch_ends_everybody(self, stage: Stage) -> None:
        """An event of an epoch that the log confirms: offsets mean something else from here on."""
        listener, _ = await stage.listen()
        await stage.happen("a")
        await stage.begin_anew()
        await stage.remove(1)
        await stage.happen("b")
        await listener.until(lambda each: bool(each.endings))
        assert lost(listener)
        assert listener.texts == ["a"]
        late, opening = await stage.listen()
        assert opening.position == Position(ELSEWHERE, 1)
        await stage.happen("c")
        assert late.texts == ["c"]

    async def test_another_epoch_is_noticed_by_who_comes(self, stage: Stage) -> None:
        """Whoever reads the log next brings it to the feed."""
        listener, _ = await stage.listen()
        await stage.begin_anew()
        late, _ = await stage.listen()
        assert lost(listener)
        assert late.endings == []
        await stage.happen("a")
        assert late.texts == ["a"]

    async def test_an_epoch_that_the_log_does_not_know_is_not_believed(self, stage: Stage) -> None:
        """A message from before, or from a stranger, ends nobody."""
        listener, _ = await stage.listen()
        (event,) = await stage.record("a")
        stranger = Publication(event.topic, "said", event.data, Position(ELSEWHERE, 1))
        stage.feed.arrived(stranger)
        await stage.settled()
        assert (listener.offsets, listener.endings) == ([1], [])  # of the log, not of the stranger
        assert listener.told[0] is not stranger

    async def test_a_topic_that_is_gone_begins_anew(self, stage: Stage) -> None:
        """Where the database has been emptied there is another epoch, and everybody starts over."""
        listener, before = await stage.listen()
        await stage.happen("a")
        await stage.execute(delete(TopicRow).where(TopicRow.name == stage.address.name))
        await stage.remove(1)
        late, opening = await stage.listen(before.position)
        assert (opening.recovered, opening.position and opening.position.offset) == (False, 0)
        assert opening.position
        assert before.position
        assert opening.position.epoch != before.position.epoch
        assert lost(listener)
        await stage.happen("b")
        assert late.texts == ["b"]

    async def test_who_is_reading_finds_out_by_itself(self, stage: Stage) -> None:
        """What is lost for those who are live may be in what another one reads."""
        live, _ = await stage.listen()
        reading = Listener()
        subscription = stage.feed.join(reading)
        await subscription.open()
        stage.feed.lose()
        assert lost(live)
        assert reading.endings == []
        await subscription.catch_up(at_once)
        await stage.happen("a")
        assert (reading.texts, reading.endings) == (["a"], [])

    async def test_a_reading_that_fails_is_tried_again_with_the_next(self, stage: Stage) -> None:
        """A log that does not answer loses nothing."""
        listener, _ = await stage.listen()
        _, second, third = await stage.record(*"abc")
        stage.log.failures = 1
        stage.feed.arrived(second)
        await stage.settled()
        assert [type(task.exception()) for task in stage.tasks] == [OperationalError]
        assert (listener.told, listener.endings) == ([], [])
        stage.feed.arrived(third)
        assert await listener.hears(3) == list("abc")


class TestChecking:
    """The comparison with the log, of the sweep and of a confirmed subscription."""

    async def test_what_is_behind_is_filled(self, stage: Stage) -> None:
        """What nobody was told is read."""
        listener, _ = await stage.listen()
        before = stage.feed.position
        *_, second = await stage.record(*"ab")
        stage.feed.check(before, second.position)
        assert await listener.hears(2) == ["a", "b"]

    async def test_what_is_behind_by_pages_is_filled_at_once(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Up to where the log is, however far that is."""
        monkeypatch.setattr("app.realtime.feed.PAGE", 3)
        listener, _ = await stage.listen()
        before = stage.feed.position
        events = await stage.record(*"abcdefgh")
        stage.feed.check(before, events[0].position)
        assert await listener.hears(8) == list("abcdefgh")
        assert len(stage.tasks) == 1

    async def test_what_is_where_the_log_is_reads_nothing(self, stage: Stage) -> None:
        """Nor what has come farther since the log was asked."""
        listener, _ = await stage.listen()
        before = stage.feed.position
        await stage.happen("a")
        at = stage.feed.position
        await stage.happen("b")
        for compared in ((at, at), (before, at), (stage.feed.position, stage.feed.position)):
            stage.feed.check(*compared)
        assert (stage.tasks, listener.endings) == ([], [])

    async def test_a_log_that_went_back_ends_everybody(self, stage: Stage) -> None:
        """A restored database is another history, in the same epoch too."""
        for change in (0, None):
            listener, _ = await stage.listen()
            await stage.happen("a", "b")
            before = stage.feed.position
            assert before
            head = Position(before.epoch, 1) if change == 0 else Position(ELSEWHERE, 9)
            stage.feed.check(before, head)
            assert lost(listener)
            assert stage.feed.position == head
            stage.feed.offset, stage.feed.epoch = before.offset, before.epoch

    async def test_what_is_not_known_is_not_compared(self, stage: Stage) -> None:
        """Before the first has read the log, or where the log knows nothing of the topic."""
        listener = Listener()
        subscription = stage.feed.join(listener)
        stage.feed.check(Position("a", 1), Position("b", 2))
        await subscription.open()
        await subscription.catch_up(at_once)
        stage.feed.check(stage.feed.position, None)
        stage.feed.check(None, Position("b", 2))
        assert (stage.tasks, listener.endings) == ([], [])


class TestLeaving:
    """The end of a subscription, and of a feed."""

    async def test_with_the_last_the_feed_closes(self, stage: Stage) -> None:
        """Once; and nothing is left that would still read."""
        subscriptions = []
        for _ in range(2):
            subscription = stage.feed.join(Listener())
            await subscription.open()
            await subscription.catch_up(at_once)
            subscriptions.append(subscription)
        *_, third = await stage.record(*"abc")
        stage.feed.arrived(third)
        assert stage.feed._gap
        for subscription in subscriptions:
            assert stage.closed == 0
            subscription.cancel()
            subscription.cancel()
        assert stage.closed == 1
        assert stage.feed._gap is None
        await asyncio.sleep(2 * GAP_SECONDS)
        assert stage.tasks == []

    async def test_who_leaves_while_it_is_told_is_told_no_more(self, stage: Stage) -> None:
        """Of several that come at once, too."""
        subscriptions: list[Subscription] = []

        class Leaver(Listener):
            def deliver(self, broadcast: Any) -> None:
                super().deliver(broadcast)
                subscriptions[0].cancel()

        leaver = Leaver()
        subscriptions.append(stage.feed.join(leaver))
        await subscriptions[0].open()
        await subscriptions[0].catch_up(at_once)
        other, _ = await stage.listen()
        first, second, third = await stage.record(*"abc")
        for publication in (third, second, first):
            stage.feed.arrived(publication)
        assert (leaver.texts, other.texts) == (["a"], ["a", "b", "c"])

    async def test_a_filling_ends_with_the_last(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who has left while the log was read is told nothing, and no more is read."""
        monkeypatch.setattr("app.realtime.feed.PAGE", 1)
        listener = Listener()
        subscription = stage.feed.join(listener)
        await subscription.open()
        await subscription.catch_up(at_once)
        _, second = await stage.record(*"ab")
        stage.log.go_on.clear()
        stage.log.reading.clear()
        stage.feed.arrived(second)
        await stage.log.reading.wait()
        subscription.cancel()
        read = stage.log.readings
        stage.log.go_on.set()
        await stage.settled()
        assert (listener.told, stage.log.readings) == ([], read)
