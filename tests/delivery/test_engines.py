"""What every engine has to do: the same statements on each, with real server processes."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.delivery.cluster import Cluster, Node, token
from tests.server import DEADLINE, Socket

#: Seconds until an event is there that only the sweep can find: one turn, with margin.
SWEPT = 3


@pytest.fixture
def room() -> str:
    """A room of this test's own."""
    return uuid4().hex


async def say(node: Node, room: str, text: str, **more: Any) -> dict[str, Any]:
    """Say something over REST; where it is in the log."""
    async with node.client(token()) as client:
        answer = await client.post(f"/delivery/{room}/say", json={"text": text, **more})
        answer.raise_for_status()
        place: dict[str, Any] = answer.json()
        return place


@asynccontextmanager
async def listening(
    node: Node, room: str, *, since: dict[str, Any] | None = None, kind: str = "ws"
) -> AsyncIterator[tuple[Socket, dict[str, Any]]]:
    """A socket in the room, and its welcome."""
    query = f"?epoch={since['epoch']}&after={since['offset']}" if since else ""
    async with node.socket(f"/delivery/{room}/{kind}{query}", token()) as socket:
        welcome = await socket.frame()
        assert welcome["type"] == "welcome", welcome
        yield socket, welcome["data"]


async def said(socket: Socket, count: int) -> list[tuple[int, str]]:
    """The next things that were said: offset and text."""
    heard: list[tuple[int, str]] = []
    async with asyncio.timeout(DEADLINE):
        while len(heard) < count:
            frame = json.loads(await socket.connection.recv())
            if frame["type"] == "said" and "topic" in frame:  # and is no reply
                heard.append((frame["offset"], frame["data"]["text"]))
    return heard


def execute(cluster: Cluster, statement: str, *values: object) -> None:
    """Change the database behind the service's back."""
    url = cluster.database_url
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as db:
            db.execute(statement, values)
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.replace("?", "%s"), values)


async def test_everyone_hears_everything_once_and_in_one_order(cluster: Cluster, room: str) -> None:
    """Publishers at both doors of every node, subscribers on every node: one sequence for all."""
    count = 12
    async with listening(cluster.first, room) as (a, _), listening(cluster.last, room) as (b, _):
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                node = cluster.nodes[number % len(cluster.nodes)]
                group.create_task(say(node, room, f"rest {number}"))
                await a.send("say", {"text": f"socket {number}"})
        heard = await said(a, 2 * count)
        assert await said(b, 2 * count) == heard
    assert [offset for offset, _ in heard] == list(range(1, 2 * count + 1))
    assert len({text for _, text in heard}) == 2 * count


async def test_who_was_away_is_given_what_it_missed(cluster: Cluster, room: str) -> None:
    """On whichever node it comes back, and then what is live, with nothing twice."""
    async with listening(cluster.first, room) as (socket, welcome):
        await say(cluster.last, room, "seen")
        assert await said(socket, 1) == [(1, "seen")]
    for text in ("missed", "missed too"):
        await say(cluster.first, room, text)
    position = {"epoch": welcome["epoch"], "offset": 1}
    async with listening(cluster.last, room, since=position) as (socket, welcome):
        assert welcome == welcome | position | {"recovered": True}
        await say(cluster.first, room, "live")
        assert await said(socket, 3) == [(2, "missed"), (3, "missed too"), (4, "live")]


async def test_who_comes_back_amid_a_stream_misses_nothing(cluster: Cluster, room: str) -> None:
    """Reading the log and hearing what happens meanwhile are merged, whenever one subscribes."""
    total = 150
    start = await place(cluster, room)

    async def publish(node: Node, count: int) -> None:
        async with node.client(token()) as client:
            for number in range(count):
                answer = await client.post(f"/delivery/{room}/say", json={"text": str(number)})
                answer.raise_for_status()

    async def join(node: Node) -> list[int]:
        async with listening(node, room, since=start) as (socket, welcome):
            assert welcome["recovered"]
            return [offset for offset, _ in await said(socket, total)]

    async with asyncio.TaskGroup() as group:
        listeners = []
        share = total // 3
        publishers = [
            group.create_task(publish(cluster.nodes[n % len(cluster.nodes)], share))
            for n in range(3)
        ]
        for number in range(12):
            listeners.append(group.create_task(join(cluster.nodes[number % len(cluster.nodes)])))
            await asyncio.wait(publishers, timeout=0.03)
    for listener in listeners:
        assert listener.result() == list(range(1, total + 1))


async def place(cluster: Cluster, room: str) -> dict[str, Any]:
    """Where the room's topic is, as a list over REST tells it."""
    async with cluster.last.client(token()) as client:
        told: dict[str, Any] = (await client.get(f"/delivery/{room}/place")).json()
        return told


async def test_the_order_of_offsets_is_the_order_of_commits(cluster: Cluster, room: str) -> None:
    """Who began first and commits last comes last: its offset is taken as it commits."""
    async with listening(cluster.first, room) as (socket, _):
        slow = asyncio.create_task(say(cluster.first, room, "began first", hold=0.5))
        await asyncio.sleep(0.1)  # so that it has begun; were it later, the test would be weaker
        if cluster.database_url.startswith("sqlite"):
            first, second = await slow, await say(cluster.last, room, "second")
        else:
            second, first = await say(cluster.last, room, "second"), await slow
            first, second = second, first
        assert (first["offset"], second["offset"]) == (1, 2)
        assert [offset for offset, _ in await said(socket, 2)] == [1, 2]


async def test_opposite_orders_of_topics_do_not_lock_each_other_out(
    cluster: Cluster, room: str
) -> None:
    """Units of work that publish to two topics, named one way and the other, all commit."""
    other = uuid4().hex
    pairs = [(room, other), (other, room)] * 10
    async with asyncio.TaskGroup() as group:
        for number, (one, two) in enumerate(pairs):
            node = cluster.nodes[number // 2 % len(cluster.nodes)]
            group.create_task(say(node, one, str(number), also=two, hold=0.005))
    assert (await place(cluster, room))["offset"] == len(pairs)
    assert (await place(cluster, other))["offset"] == len(pairs)


class TestRecovery:
    """What a client is told that says where it had come to."""

    async def _resumed(
        self, cluster: Cluster, room: str, since: dict[str, Any], kind: str = "ws"
    ) -> tuple[dict[str, Any], Sequence[tuple[int, str]]]:
        """The welcome, and what it recovers: all until something that is said then."""
        async with listening(cluster.last, room, since=since, kind=kind) as (socket, welcome):
            last = await say(cluster.first, room, "now")
            heard: list[tuple[int, str]] = []
            while not heard or heard[-1][0] < last["offset"]:
                heard += await said(socket, 1)
            return welcome, heard[:-1]

    async def test_exactly_at_the_top_nothing_is_missed(self, cluster: Cluster, room: str) -> None:
        """Recovered, with nothing."""
        at = await say(cluster.first, room, "one")
        welcome, missed = await self._resumed(cluster, room, at)
        assert (welcome["recovered"], welcome["offset"], missed) == (True, 1, [])

    async def test_an_empty_topic_has_nothing_to_miss(self, cluster: Cluster, room: str) -> None:
        """Before the first event ever, and again with the epoch that was told then."""
        start = await place(cluster, room)
        assert start == {"epoch": "", "offset": 0}
        async with listening(cluster.first, room, since=start) as (_, welcome):
            assert (welcome["recovered"], welcome["offset"]) == (True, 0)
        welcome, missed = await self._resumed(cluster, room, welcome)
        assert (welcome["recovered"], missed) == (True, [])

    async def test_what_was_missed_comes(self, cluster: Cluster, room: str) -> None:
        """From any place that is kept."""
        at = await say(cluster.first, room, "one")
        await say(cluster.last, room, "two")
        welcome, missed = await self._resumed(cluster, room, at)
        assert (welcome["recovered"], welcome["offset"], missed) == (True, 1, [(2, "two")])

    async def test_the_future_is_not_recovered(self, cluster: Cluster, room: str) -> None:
        """A position ahead of the topic is of another history."""
        at = await say(cluster.first, room, "one")
        welcome, missed = await self._resumed(cluster, room, at | {"offset": 2})
        assert (welcome["recovered"], welcome["offset"], missed) == (False, 1, [])

    async def test_another_epoch_is_not_recovered(self, cluster: Cluster, room: str) -> None:
        """Its offsets mean nothing here."""
        at = await say(cluster.first, room, "one")
        welcome, missed = await self._resumed(cluster, room, at | {"epoch": "0" * 32})
        assert (welcome["recovered"], welcome["epoch"], missed) == (False, at["epoch"], [])

    async def test_what_has_expired_is_not_recovered(self, cluster: Cluster, room: str) -> None:
        """Removed by age: never a part of what was missed."""
        at = await say(cluster.first, room, "one")
        await say(cluster.first, room, "two")
        await say(cluster.first, room, "three")
        execute(
            cluster,
            "UPDATE event_log SET expires_at = '2020-01-01 00:00:00' "
            'WHERE topic = ? AND "offset" < 3',
            f"said:{room}",
        )
        async with cluster.first.client(token()) as client:
            (await client.post("/delivery/trim")).raise_for_status()
        welcome, missed = await self._resumed(cluster, room, at)
        assert (welcome["recovered"], welcome["offset"], missed) == (False, 3, [])

    async def test_what_expired_whole_is_not_recovered(self, cluster: Cluster, room: str) -> None:
        """With no event left the topic still knows where it is."""
        at = await say(cluster.first, room, "one")
        await say(cluster.first, room, "two")
        execute(cluster, "DELETE FROM event_log WHERE topic = ?", f"said:{room}")
        welcome, missed = await self._resumed(cluster, room, at)
        assert (welcome["recovered"], welcome["offset"], missed) == (False, 2, [])

    async def test_more_than_is_kept_is_not_recovered(self, cluster: Cluster, room: str) -> None:
        """Limited: one more than the topic keeps, though the rows may still be there."""
        first = await say(cluster.first, room, "1")
        at = {"epoch": await self._epoch(cluster, room), "offset": first["offset"]}
        for number in range(2, 7):
            await say(cluster.first, room, str(number))
        welcome, missed = await self._resumed(cluster, room, at, "brief")
        assert welcome["recovered"] is True
        assert [text for _, text in missed] == ["2", "3", "4", "5", "6"]
        welcome, missed = await self._resumed(cluster, room, at, "brief")
        assert (welcome["recovered"], missed) == (False, [])

    async def test_what_is_trimmed_is_gone(self, cluster: Cluster, room: str) -> None:
        """Removed by count: what is within reach comes, what is beyond does not."""
        for number in range(1, 9):
            await say(cluster.first, room, str(number))
        async with cluster.first.client(token()) as client:
            (await client.post("/delivery/trim")).raise_for_status()
        epoch = await self._epoch(cluster, room)
        welcome, missed = await self._resumed(cluster, room, {"epoch": epoch, "offset": 3}, "brief")
        assert [text for _, text in missed] == ["4", "5", "6", "7", "8"]
        welcome, missed = await self._resumed(cluster, room, {"epoch": epoch, "offset": 1}, "brief")
        assert (welcome["recovered"], missed) == (False, [])

    async def _epoch(self, cluster: Cluster, room: str) -> str:
        async with listening(cluster.first, room, kind="brief") as (_, welcome):
            epoch: str = welcome["epoch"]
            return epoch


async def test_a_topic_that_begins_anew_is_told_to_whoever_listens(
    cluster: Cluster, room: str
) -> None:
    """A restored database is another history: nobody goes on in it as if nothing had been."""
    async with listening(cluster.last, room) as (socket, _):
        await say(cluster.first, room, "one")
        await said(socket, 1)
        execute(
            cluster, "UPDATE event_topics SET epoch = ? WHERE name = ?", "e" * 32, f"said:{room}"
        )
        code, reason, _ = await socket.ending()
    assert (code, reason) == (4409, "realtime.position_lost")


async def test_what_nobody_was_told_is_found_in_the_log(cluster: Cluster, room: str) -> None:
    """An event that another program recorded, or whose message was lost, comes with the sweep."""
    at = await say(cluster.first, room, "one")
    async with listening(cluster.last, room) as (socket, _):
        execute(
            cluster,
            'INSERT INTO event_log (topic, "offset", type, version, data, expires_at) '
            "VALUES (?, 2, 'said', 1, '{\"text\": \"two\"}', '2099-01-01 00:00:00')",
            f"said:{room}",
        )
        execute(cluster, "UPDATE event_topics SET head = 2 WHERE name = ?", f"said:{room}")
        assert at["offset"] == 1
        assert await asyncio.wait_for(said(socket, 1), SWEPT) == [(2, "two")]


async def test_a_key_is_done_once_wherever_it_is_sent(cluster: Cluster, room: str) -> None:
    """Sent again at another door of another node, it gets the first answer, offset and all."""
    message, headers = {"text": "once"}, {"Idempotency-Key": room}
    async with listening(cluster.first, room) as (socket, _):
        await socket.raw(
            json.dumps({"type": "say", "ref": 1, "key": room, "data": message | {"hold": 0}})
        )
        reply = await socket.until("said")
        while reply.get("ref") != 1:
            reply = await socket.until("said")
        async with cluster.last.client(token()) as client:
            again = await client.post(f"/delivery/{room}/say", json=message, headers=headers)
        assert (again.json()["offset"], reply["offset"]) == (1, 1)
    assert (await place(cluster, room))["offset"] == 1


async def test_presence_is_the_same_on_every_node(cluster: Cluster, room: str) -> None:
    """Who comes and who goes is told, and listed, wherever one asks."""
    async with listening(cluster.first, room) as (watcher, _):
        async with cluster.last.socket(f"/delivery/{room}/ws", token("2", "Bob")) as socket:
            welcome = await socket.frame()
            joined: list[dict[str, Any]] = []
            change: dict[str, Any] = {}
            while not any(member["subject"] == "2" for member in joined):
                change = (await watcher.until("presence.changed"))["data"]
                joined += change["joined"]
            assert change["count"] == 2
            assert {"connection": welcome["data"]["connection"], "subject": "2",
                    "info": {"name": "Bob"}} in joined  # fmt: skip
            for node in cluster.nodes:
                async with node.client(token()) as client:
                    listed = (await client.get(f"/delivery/{room}/presence")).json()
                assert {member["info"]["name"] for member in listed} == {"Ann", "Bob"}
        left: list[str] = []
        while welcome["data"]["connection"] not in left:
            left += (await watcher.until("presence.changed"))["data"]["left"]
        answer = await watcher.ask("presence")
        assert answer["data"]["count"] == 1


async def test_a_long_poll_hears_the_other_nodes(cluster: Cluster, room: str) -> None:
    """Without a socket the same events come, from a position, as soon as they are there."""
    start = await place(cluster, room)
    query = {"epoch": start["epoch"], "after": start["offset"], "wait": 20}
    async with cluster.first.client(token()) as client:
        waiting = asyncio.create_task(client.get(f"/delivery/{room}/events", params=query))
        await say(cluster.last, room, "hello")
        pulled = (await asyncio.wait_for(waiting, DEADLINE)).json()
    assert [event["data"]["text"] for event in pulled["events"]] == ["hello"]
    assert (pulled["recovered"], pulled["offset"]) == (True, 1)


async def test_a_restart_is_survived(cluster: Cluster, room: str) -> None:
    """A node that is killed loses nobody anything: its clients go on where they were."""
    async with listening(cluster.last, room) as (socket, welcome):
        await say(cluster.first, room, "one")
        await said(socket, 1)
        cluster.last.kill()
        assert (await socket.ending())[0] == 1006
    cluster.last.start()
    await cluster.ready()
    await say(cluster.first, room, "two")
    position = {"epoch": welcome["epoch"], "offset": 1}
    async with listening(cluster.last, room, since=position) as (socket, welcome):
        assert welcome["recovered"]
        assert await said(socket, 1) == [(2, "two")]
