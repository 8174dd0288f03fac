"""Who is where, as several processes tell each other: joined by hand, with a clock of the test's.

What is sent is handed on at once, unless the test loses it.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from app.realtime import Member
from app.realtime.messages import Broadcast
from app.realtime.presence import CHUNK, MAX_TOLD, Presence, PresenceChanged
from tests.server import DEADLINE

ROOM = "room:1"
SILENT, BEAT = Presence.SILENT_SECONDS, Presence.BEAT_SECONDS


class Net:
    """Processes that hear one another."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: list[Node] = []

    def node(self) -> "Node":
        """Another process."""
        made = Node(self)
        self.nodes.append(made)
        return made

    async def beat(self, times: int = 1) -> None:
        """Let seconds pass, in each of which everybody who lives says so."""
        for _ in range(times):
            self.now += BEAT
            for node in self.nodes:
                if node.lives:
                    await node.presence.beat()


class Node:
    """A process: its presence, and what its clients were told."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.lives = True
        self.connected = True
        self.losing = False  # what it sends
        self.sent: list[dict[str, Any]] = []
        self.told: list[tuple[str, PresenceChanged]] = []
        self._news = asyncio.Event()
        self.presence = Presence(self._tell, self._send, self, clock=lambda: net.now)

    def _tell(self, topic: str, broadcast: Broadcast) -> None:
        assert isinstance(broadcast, PresenceChanged)
        self.told.append((topic, broadcast))
        self._news.set()

    def _send(self, payload: bytes) -> None:
        self.sent.append(json.loads(payload))
        for other in self.net.nodes:
            if other is not self and other.lives and self.hears(other) and not self.losing:
                other.presence.received(payload)

    def hears(self, other: "Node") -> bool:
        """Whether there is a way from this one to the other."""
        return self.connected and other.connected

    def enter(self, name: str, topic: str = ROOM) -> Callable[[], None]:
        """Somebody comes."""
        return self.presence.enter(topic, member(name))

    def there(self, topic: str = ROOM) -> list[str]:
        """Who is there, as this process knows."""
        return sorted(each.connection for each in self.presence.members(topic))

    async def change(self) -> dict[str, Any]:
        """The next change that its clients are told."""
        async with asyncio.timeout(DEADLINE):
            while not self.told:
                self._news.clear()
                await self._news.wait()
        topic, broadcast = self.told.pop(0)
        frame: dict[str, Any] = json.loads(broadcast.frame.payload)
        assert (frame["type"], frame["topic"]) == ("presence.changed", topic)
        data: dict[str, Any] = frame["data"]
        return data

    @property
    def questions(self) -> int:
        """How often it has asked for a list."""
        return sum("ask" in news for news in self.sent)


def member(name: str) -> Member:
    """Somebody."""
    return Member(connection=name, subject=f"user {name}", info={"name": name})


@pytest.fixture
def net() -> Net:
    """The net of this test."""
    return Net()


async def joined(net: Net, count: int = 2) -> list[Node]:
    """Processes that know each other."""
    nodes = [net.node() for _ in range(count)]
    for node in nodes:
        node.presence.ask()
    await net.beat()
    return nodes


class TestKnowing:
    """Who is known to be where."""

    async def test_who_comes_and_goes_is_seen_everywhere(self, net: Net) -> None:
        """At once, in each process, by topic; and once for each connection."""
        nodes = await joined(net, 3)
        leave = nodes[0].enter("ann")
        nodes[0].enter("ann elsewhere", "room:2")
        nodes[1].enter("bob")
        for node in nodes:
            assert node.there() == ["ann", "bob"]
            assert node.there("room:2") == ["ann elsewhere"]
            assert member("ann") in node.presence.members(ROOM)
        leave()
        sent = len(nodes[0].sent)
        leave()
        assert len(nodes[0].sent) == sent
        assert [node.there() for node in nodes] == [["bob"]] * 3

    async def test_nobody_is_nowhere(self, net: Net) -> None:
        """To ask about a topic leaves nothing of it."""
        (node,) = await joined(net, 1)
        assert node.there() == []
        node.enter("ann")()
        assert node.there() == []
        assert dict(node.presence._mine.members) == {}

    async def test_a_process_that_comes_later_knows_who_is_there(self, net: Net) -> None:
        """It asks everybody, and the others hear of it what it has."""
        first, second = await joined(net)
        first.enter("ann")
        second.enter("bob")
        third = net.node()
        third.enter("cleo")
        third.presence.ask()
        assert [node.there() for node in net.nodes] == [["ann", "bob", "cleo"]] * 3

    async def test_a_process_that_leaves_takes_everybody_with_it(self, net: Net) -> None:
        """It says so, and nobody waits for its silence."""
        first, second = await joined(net)
        first.enter("ann")
        second.enter("bob")
        first.presence.leave()
        first.lives = False
        assert second.there() == ["bob"]
        assert second.presence._others == {}
        await net.beat(2 * int(SILENT))
        assert second.there() == ["bob"]

    async def test_who_says_nothing_is_gone_after_some_seconds(self, net: Net) -> None:
        """And with it everybody who was there; not sooner."""
        first, second = await joined(net)
        first.enter("ann")
        second.enter("bob")
        await net.beat()
        first.lives = False
        await net.beat(int(SILENT / BEAT))
        assert second.there() == ["ann", "bob"]
        await net.beat()
        assert second.there() == ["bob"]

    async def test_who_comes_back_is_there_again(self, net: Net) -> None:
        """A process that only hung is asked for its list when it is heard again."""
        first, second = await joined(net)
        first.enter("ann")
        first.lives = False
        await net.beat(2 * int(SILENT))
        assert second.there() == []
        first.lives = True
        await net.beat()
        assert second.there() == ["ann"]

    async def test_while_it_hears_nobody_a_process_gives_nobody_up(self, net: Net) -> None:
        """Nor right after: the others get the time to say that they live."""
        first, second = await joined(net)
        first.enter("ann")
        second.connected = False
        await net.beat(3 * int(SILENT))
        assert second.there() == ["ann"]
        second.connected = True
        first.lives = False
        await net.beat(int(SILENT / BEAT))
        assert second.there() == ["ann"]
        await net.beat(2)
        assert second.there() == []

    async def test_who_lived_all_the_while_is_never_gone(self, net: Net) -> None:
        """A break between two processes is seen by no client."""
        first, second = await joined(net)
        first.enter("ann")
        assert (await second.change())["count"] == 1
        second.connected = False
        await net.beat(3 * int(SILENT))
        second.connected = True
        await net.beat(3 * int(SILENT))
        assert second.there() == ["ann"]
        assert (second.told, second.presence._untold) == ([], {})


class TestMissing:
    """What a process has not heard."""

    async def test_a_missed_change_is_found_by_the_next(self, net: Net) -> None:
        """The number does not fit, so it asks, and has the whole list."""
        first, second = await joined(net)
        leave = first.enter("ann")
        first.losing = True
        leave()
        first.enter("bob")
        first.losing = False
        assert second.there() == ["ann"]
        first.enter("cleo")
        assert second.there() == ["bob", "cleo"]

    async def test_a_missed_change_is_found_by_the_beat(self, net: Net) -> None:
        """Where nothing else happens."""
        first, second = await joined(net)
        first.losing = True
        first.enter("ann")
        first.losing = False
        assert second.there() == []
        await net.beat()
        assert second.there() == ["ann"]

    async def test_a_lost_answer_is_asked_for_again(self, net: Net) -> None:
        """Until the number fits."""
        first, second = await joined(net)
        first.losing = True
        first.enter("ann")
        second.presence.ask()
        await net.beat()
        assert second.there() == []
        first.losing = False
        await net.beat()
        assert second.there() == ["ann"]

    async def test_who_knows_everything_asks_nothing(self, net: Net) -> None:
        """Neither of processes with nobody nor of others, however long it takes."""
        first, second, third = await joined(net, 3)
        first.enter("ann")()
        second.enter("bob")
        asked = [node.questions for node in net.nodes]
        await net.beat(5)
        assert [node.questions for node in net.nodes] == asked
        assert third.there() == ["bob"]

    async def test_what_is_heard_twice_happens_once(self, net: Net) -> None:
        """A repeated message, or a late one, changes nothing."""
        first, second = await joined(net)
        leave = first.enter("ann")
        came = json.dumps(first.sent[-1]).encode()
        leave()
        for _ in range(2):
            second.presence.received(came)
        assert second.there() == []

    async def test_a_long_list_comes_in_messages_of_a_bearable_size(self, net: Net) -> None:
        """However many there are, each message has so many of them."""
        count = 2 * CHUNK + 7
        (first,) = await joined(net, 1)
        for number in range(count):
            first.enter(f"{number:05}", f"room:{number % 3}")
        first.sent.clear()
        second = net.node()
        second.presence.ask()
        assert sum(len(second.there(f"room:{number}")) for number in range(3)) == count
        parts = [len(news["joined"]) for news in first.sent if "joined" in news]
        assert parts == [CHUNK, CHUNK, 7]
        await net.beat()
        assert second.questions == 1  # nothing was missing

    async def test_a_lost_part_of_a_long_list_is_noticed(
        self, net: Net, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rest fits no more, and the list is asked for anew."""
        (first,) = await joined(net, 1)
        for number in range(2 * CHUNK):
            first.enter(f"{number:05}")
        second = net.node()
        receive, parts = second.presence.received, []

        def losing_the_second_part(payload: bytes) -> None:
            if b"joined" in payload:
                parts.append(payload)
            if len(parts) != 2:
                receive(payload)

        monkeypatch.setattr(second.presence, "received", losing_the_second_part)
        second.presence.ask()
        assert len(second.there()) == CHUNK
        parts.append(b"")
        await net.beat()
        assert len(second.there()) == 2 * CHUNK

    async def test_a_whole_list_replaces_what_was_known(self, net: Net) -> None:
        """Whoever is not in it is gone; who is in both never went."""
        first, second = await joined(net)
        leave = first.enter("ann")
        first.enter("bob")
        assert (await second.change())["count"] == 2
        first.losing = True
        leave()
        first.enter("cleo")
        first.losing = False
        second.presence.ask()
        change = await second.change()
        assert [each["connection"] for each in change["joined"]] == ["cleo"]
        assert (change["left"], change["count"]) == (["ann"], 2)

    @pytest.mark.parametrize(
        "payload", [b"", b"{}", b"[]", b"\xff", b'{"node":"a"}', b'{"node":"a","version":1,"x":1}']
    )
    async def test_what_is_no_news_is_ignored(self, net: Net, payload: bytes) -> None:
        """As from a process of another release."""
        (node,) = await joined(net, 1)
        node.enter("ann")
        node.presence.received(payload)
        assert node.there() == ["ann"]


class TestTelling:
    """What the subscribers of a topic are told."""

    async def test_a_change_is_told_with_who_and_how_many(self, net: Net) -> None:
        """In every process, to the topic alone."""
        first, second = await joined(net)
        leave = first.enter("ann")
        expected = {"joined": [member("ann").model_dump()], "left": [], "count": 1}
        assert [await node.change() for node in net.nodes] == [expected] * 2
        leave()
        expected = {"joined": [], "left": ["ann"], "count": 0}
        assert [await node.change() for node in net.nodes] == [expected] * 2
        assert (first.told, second.told) == ([], [])

    async def test_what_changes_at_once_is_told_at_once(self, net: Net) -> None:
        """Many changes are one frame for each topic."""
        (node,) = await joined(net, 1)
        for name in "abc":
            node.enter(name)
        node.enter("d", "room:2")
        changes = [await node.change(), await node.change()]
        assert [len(change["joined"]) for change in changes] == [3, 1]
        assert node.told == []

    async def test_who_came_and_went_at_once_is_not_told(self, net: Net) -> None:
        """A page that is loaded anew is no news; nor is a frame with nothing in it."""
        (node,) = await joined(net, 1)
        node.enter("ann")()
        node.enter("bob", "room:2")
        assert (await node.change())["count"] == 1
        assert (node.told, node.presence._untold) == ([], {})

    async def test_a_crowd_is_told_the_number_alone(self, net: Net) -> None:
        """Where too many change at once, who wants to know them asks for the list."""
        (node,) = await joined(net, 1)
        for number in range(MAX_TOLD + 1):
            node.enter(f"{number}")
        assert await node.change() == {"count": MAX_TOLD + 1}

    async def test_as_many_as_can_be_told_are_told(self, net: Net) -> None:
        """The limit is of changes, not of who is there."""
        (node,) = await joined(net, 1)
        for number in range(MAX_TOLD):
            node.enter(f"{number}")
        change = await node.change()
        assert (len(change["joined"]), change["count"]) == (MAX_TOLD, MAX_TOLD)

    async def test_a_crowd_is_told_less_often(
        self, net: Net, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In a room that is full its changes are gathered for longer."""
        monkeypatch.setattr("app.realtime.presence.CROWD_SECONDS", 1.0)
        (node,) = await joined(net, 1)
        for number in range(MAX_TOLD + 1):
            node.enter(f"{number}")
        assert (await node.change())["count"] == MAX_TOLD + 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        node.enter("late")
        assert (await node.change())["count"] == MAX_TOLD + 2
        assert loop.time() - began >= 0.99
        began = loop.time()
        node.enter("alone", "room:2")
        assert (await node.change())["count"] == 1
        assert loop.time() - began < 0.99

    async def test_a_process_that_is_given_up_is_told_as_its_members(self, net: Net) -> None:
        """Each of them has left."""
        first, second = await joined(net)
        first.enter("ann")
        first.enter("bob")
        second.enter("cleo")
        assert (await second.change())["count"] == 3
        first.lives = False
        await net.beat(int(SILENT / BEAT) + 1)
        change = await second.change()
        assert (sorted(change["left"]), change["count"]) == (["ann", "bob"], 1)
