"""The delivery ledger: what was acknowledged, held against what every subscriber was sent.

Publishers and subscribers work on two server processes over a PostgreSQL and a Redis of their own,
while processes are killed, Redis is killed, hung, slow and restarted, PostgreSQL is restarted and
clients are cut off. A post that is not acknowledged is tried again, with its key, at any node. A
subscriber notes each frame as it arrives; it removes no duplicate and reads nothing over REST.

`make ledger` (ARGS="--rounds 10 --seed 7"); it exits with 1 where anything is wrong, and
`make mutations` where one of mutations.py is not noticed.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException

from app import migrations
from tests.conftest import settings_for
from tests.delivery.cluster import Cluster, Node, cluster, token
from tests.delivery.mutations import MUTATIONS
from tests.delivery.proxy import SlowProxy
from tests.postgresql import OwnPostgresql
from tests.redis import OwnRedis

ROOMS = ("red", "green", "blue")
SUBSCRIBERS, PUBLISHERS = 9, 6
SWEEP_SECONDS = 5  # rare, so that what came by itself can be told from what the sweep has found
PROMPT_SECONDS = 2.5  # without a fault nothing takes as long
SETTLE_SECONDS = 15
TRY_SECONDS = 3
RETRIED = (httpx2.TransportError, WebSocketException, InvalidHandshake, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Post:
    """An acknowledged post."""

    room: str
    offset: int
    text: str
    fault: str
    acknowledged: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame as it arrived; `connected` is when the socket that it came on was welcomed."""

    offset: int
    text: str
    at: float
    connected: float


@dataclass
class Ledger:
    """Both sides of the account."""

    posts: list[Post] = field(default_factory=list)
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    rooms: dict[str, str] = field(default_factory=dict)  # of each subscriber
    begun: dict[str, int] = field(default_factory=dict)  # the offset that each began after
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    fault: str = "start"


class Subscriber:
    """A client that stays: it comes back to any node, after the last event that it was sent."""

    event = "said"

    def __init__(
        self, name: str, room: str, ledger: Ledger, nodes: Sequence[Any], chance: random.Random
    ):
        self.name, self.room, self.ledger, self.nodes, self.chance = (
            name, room, ledger, nodes, chance,
        )  # fmt: skip
        self.connection: ClientConnection | None = None
        self.position: tuple[str, int] | None = None
        self.began = asyncio.Event()
        self.over = False
        ledger.seen[name], ledger.rooms[name] = [], room

    async def run(self) -> None:
        """Listen until `end`."""
        while not self.over:
            try:
                await self._listen(self.chance.choice(self.nodes))
            except RETRIED:
                await asyncio.sleep(self.chance.uniform(0.02, 0.2))

    async def _listen(self, node: Any) -> None:
        url = f"{node.url.replace('http', 'ws', 1)}/delivery/{self.room}/ws"
        if self.position:
            url += f"?epoch={self.position[0]}&after={self.position[1]}"
        headers = {"Authorization": f"Bearer {token(self.name)}"}
        async with asyncio.timeout(TRY_SECONDS):
            connection = await connect(url, additional_headers=headers, proxy=None)
        try:
            self.connection = connection
            connected = time.monotonic()
            async for frame in connection:
                self._note(json.loads(frame), connected)
        finally:
            self.connection = None
            connection.transport.abort()

    def _note(self, frame: dict[str, Any], connected: float) -> None:
        if frame["type"] == "welcome":
            self._begin(frame["data"])
        elif frame["type"] == self.event:
            assert self.position
            self.position = (self.position[0], frame["offset"])
            seen = Seen(frame["offset"], frame["data"]["text"], time.monotonic(), connected)
            self.ledger.seen[self.name].append(seen)
        elif frame["type"] == "error":
            self.ledger.refused[frame["data"]["code"]] += 1
            if frame["data"]["code"] == "realtime.position_lost":
                self.ledger.wrong.append(f"{self.name} was told that its position is lost")

    def _begin(self, welcome: dict[str, Any]) -> None:
        if self.position is None:
            self.position = (welcome["epoch"], welcome["offset"])
            self.ledger.begun[self.name] = welcome["offset"]
            self.began.set()
        elif not welcome.get("recovered"):
            self.ledger.wrong.append(f"{self.name} was not recovered, and nothing had been removed")

    async def end(self, listening: asyncio.Task[None]) -> None:
        """Listen no longer."""
        self.over = True
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    def cut(self) -> None:
        """Lose the connection, as in a tunnel."""
        if self.connection:
            self.connection.transport.abort()


class Publisher:
    """Posts one thing after the other, each until it is acknowledged."""

    def __init__(self, name: str, ledger: Ledger, nodes: list[Node], chance: random.Random) -> None:
        self.name, self.ledger, self.nodes, self.chance = name, ledger, nodes, chance
        self.numbers = count()

    async def run(self, over: asyncio.Event) -> None:
        """Post until it is over; what was begun is posted."""
        for number in self.numbers:
            if over.is_set():
                return
            room = self.chance.choice(ROOMS)
            hold = self.chance.choice((0, 0, 0, 0.02))  # commits overtake one another
            await self.post(room, f"{self.name}:{number}", hold=hold)
            await asyncio.sleep(self.chance.uniform(0.005, 0.04))

    async def post(self, room: str, text: str, *, over_rest: bool = False, **more: Any) -> Post:
        """Post until there is an acknowledgement, and enter that."""
        key = uuid4().hex
        while True:
            socket = not over_rest and self.chance.random() < 0.5
            door = self._over_websocket if socket else self._over_rest
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    offset = await door(self.chance.choice(self.nodes), room, text, key, more)
            except RETRIED:
                offset = None
            if offset is not None:
                post = Post(room, offset, text, self.ledger.fault, time.monotonic())
                self.ledger.posts.append(post)
                return post
            await asyncio.sleep(self.chance.uniform(0.05, 0.2))

    async def _over_rest(
        self, node: Node, room: str, text: str, key: str, more: dict[str, Any]
    ) -> int | None:
        async with node.client(token(self.name), timeout=TRY_SECONDS) as client:
            answer = await client.post(
                f"/delivery/{room}/say",
                json={"text": text, **more},
                headers={"Idempotency-Key": key},
            )
        if answer.is_success:
            offset: int = answer.json()["offset"]
            return offset
        self._note(answer.json())
        return None

    async def _over_websocket(
        self, node: Node, room: str, text: str, key: str, more: dict[str, Any]
    ) -> int | None:
        async with node.socket(f"/delivery/{room}/ws", token(self.name)) as socket:
            message = {"type": "say", "ref": 1, "key": key, "data": {"text": text, **more}}
            await socket.raw(json.dumps(message))
            while True:
                frame = await socket.frame()
                if frame.get("ref") == 1 and frame["type"] == "said":
                    offset: int = frame["offset"]
                    return offset
                if frame["type"] == "error":
                    self._note(frame["data"])
                    return None

    def _note(self, problem: dict[str, Any]) -> None:
        self.ledger.refused[problem["code"]] += 1
        if problem["status"] != 503:
            self.ledger.wrong.append(f"{self.name} was told {problem['code']}")


class Drill:
    """The faults, one after the other."""

    def __init__(
        self, ledger: Ledger, made: Cluster, redis: OwnRedis, postgresql: OwnPostgresql,
        proxy: SlowProxy, chance: random.Random, tell: Callable[[str], object],
    ) -> None:  # fmt: skip
        self.ledger, self.cluster, self.redis, self.postgresql, self.proxy, self.chance = (
            ledger, made, redis, postgresql, proxy, chance,
        )  # fmt: skip
        self.tell = tell
        self.subscribers = [
            Subscriber(f"s{n}", ROOMS[n % len(ROOMS)], ledger, made.nodes, chance)
            for n in range(SUBSCRIBERS)
        ]
        self.publishers = [
            Publisher(f"p{n}", ledger, made.nodes, chance) for n in range(PUBLISHERS)
        ]
        self.faults: dict[str, Callable[[], Awaitable[None]]] = {
            "nothing": self.nothing,
            "clients cut": self.cut_clients,
            "a process killed": self.kill_a_node,
            "killed before it told": self.kill_before_it_tells,
            "Redis killed": self.kill_redis,
            "Redis hung": self.hang_redis,
            "Redis slow": self.slow_redis,
            "PostgreSQL restarted": self.restart_postgresql,
            "a process restarted": self.restart_a_node,
        }

    async def run(self, rounds: int, faults: Sequence[str]) -> None:
        """These faults, or all, so many times; then wait until everything has arrived."""
        listening = [asyncio.create_task(each.run()) for each in self.subscribers]
        for subscriber in self.subscribers:
            await asyncio.wait_for(subscriber.began.wait(), SETTLE_SECONDS)
        for _ in range(rounds):
            for name in faults or self.faults:
                self.ledger.fault = name
                self.tell(name)
                await self._amid_posts(self.faults[name])
        await self._settle()
        for subscriber, task in zip(self.subscribers, listening, strict=True):
            await subscriber.end(task)

    async def _amid_posts(self, fault: Callable[[], Awaitable[None]]) -> None:
        over = asyncio.Event()
        posting = [asyncio.create_task(each.run(over)) for each in self.publishers]
        await asyncio.sleep(0.3)
        await fault()
        await self.cut_clients() if fault != self.nothing else None
        await asyncio.sleep(0.5)
        over.set()
        await asyncio.gather(*posting)

    async def _settle(self) -> None:
        """Wait until every subscriber has been sent what was acknowledged, or for long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(missing(self.ledger, each.name) for each in self.subscribers):  # noqa: ASYNC110 - what arrives is no event here
                    await asyncio.sleep(0.1)

    async def nothing(self) -> None:
        """No fault: nothing may be late."""
        await asyncio.sleep(1.0)

    async def cut_clients(self) -> None:
        """Half of the subscribers lose their connection, three times."""
        for _ in range(3):
            for subscriber in self.chance.sample(self.subscribers, SUBSCRIBERS // 2):
                subscriber.cut()
            await asyncio.sleep(0.15)

    async def kill_a_node(self) -> None:
        """SIGKILL, and a new start."""
        node = self.chance.choice(self.cluster.nodes)
        node.kill()
        await asyncio.sleep(0.3)
        node.start()
        await node.ready()

    async def kill_before_it_tells(self) -> None:
        """SIGKILL between the commit and the broadcast; then silence in that room."""
        room = uuid4().hex
        listener = Subscriber(f"quiet {room}", room, self.ledger, [self.cluster.last], self.chance)
        listening = asyncio.create_task(listener.run())
        await asyncio.wait_for(listener.began.wait(), SETTLE_SECONDS)
        with suppress(*RETRIED):
            async with self.cluster.first.client(token("dying")) as client:
                await client.post(f"/delivery/{room}/say", json={"text": "last", "die": True})
        self.cluster.first.ended()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * SWEEP_SECONDS):
                while not self.ledger.seen[listener.name]:  # noqa: ASYNC110 - what arrives is no event here
                    await asyncio.sleep(0.05)
        if not self.ledger.seen[listener.name]:
            self.ledger.wrong.append("what was committed by a process that died was told to nobody")
        await listener.end(listening)
        self.cluster.first.start()
        await self.cluster.first.ready()

    async def kill_redis(self) -> None:
        """SIGKILL, a while without, and a new start with nothing in it."""
        self.redis.kill()
        await asyncio.sleep(1.5)
        self.redis.start()
        await asyncio.sleep(0.5)

    async def hang_redis(self) -> None:
        """It takes connections and answers nothing, for a while."""
        self.redis.hang()
        await asyncio.sleep(2.0)
        self.redis.resume()
        await asyncio.sleep(0.5)

    async def slow_redis(self) -> None:
        """A subscription takes effect late on one node; what the other says then still comes."""
        self.proxy.delay = 0.25
        poster = Publisher("slow", self.ledger, [self.cluster.first], self.chance)
        for _ in range(10):
            room = uuid4().hex
            listener = Subscriber(
                f"new {room}", room, self.ledger, [self.cluster.last], self.chance
            )
            listening = asyncio.create_task(listener.run())
            await asyncio.wait_for(listener.began.wait(), SETTLE_SECONDS)
            await poster.post(room, room, over_rest=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(PROMPT_SECONDS):
                    while missing(self.ledger, listener.name):  # noqa: ASYNC110 - what arrives is no event here
                        await asyncio.sleep(0.01)
            if missing(self.ledger, listener.name):
                self.ledger.wrong.append("what was said while a subscription began came late")
            await listener.end(listening)
        self.proxy.delay = 0

    async def restart_postgresql(self) -> None:
        """Stopped and started: what is in flight fails."""
        await asyncio.to_thread(self.postgresql.restart)

    async def restart_a_node(self) -> None:
        """SIGTERM, and a new start."""
        node = self.chance.choice(self.cluster.nodes)
        await asyncio.to_thread(node.stop)
        node.start()
        await node.ready()


def missing(ledger: Ledger, name: str) -> set[int]:
    """The offsets that were acknowledged in a subscriber's room and have not arrived."""
    posted = {post.offset for post in ledger.posts if post.room == ledger.rooms[name]}
    begun = ledger.begun.get(name, 0)
    return {at for at in posted if at > begun} - {seen.offset for seen in ledger.seen[name]}


def audit(ledger: Ledger) -> list[str]:
    """What is wrong: anything lost, repeated, out of order, or late without a reason."""
    wrong = list(ledger.wrong)
    texts = Counter(post.text for post in ledger.posts)
    wrong += [f"{text} was acknowledged at two offsets" for text, n in texts.items() if n > 1]
    for name, seen in ledger.seen.items():
        if name not in ledger.begun:
            continue
        if lost := missing(ledger, name):
            wrong.append(f"{name} was never sent {len(lost)} acknowledged events")
        offsets = [each.offset for each in seen]
        expected = list(range(ledger.begun[name] + 1, ledger.begun[name] + 1 + len(offsets)))
        if offsets != expected:
            at = next(n for n, (a, b) in enumerate(zip(offsets, expected, strict=True)) if a != b)
            wrong.append(f"{name} was sent offset {offsets[at]} where {expected[at]} was next")
        if twice := [text for text, n in Counter(each.text for each in seen).items() if n > 1]:
            wrong.append(f"{name} was sent {len(twice)} posts twice, as {twice[0]}")
    wrong += [
        f"without a fault {late.text} took {late.at - post.acknowledged:.1f} s"
        for post, late, live in deliveries(ledger)
        if live and post.fault == "nothing" and late.at - post.acknowledged > PROMPT_SECONDS
    ]
    return wrong


def deliveries(ledger: Ledger) -> list[tuple[Post, Seen, bool]]:
    """Each acknowledged post with each frame of it, and whether that was live.

    It came by resumption where it was acknowledged before the socket it came on was welcomed.
    """
    posts = {(post.room, post.offset): post for post in ledger.posts}
    return [
        (post, seen, seen.connected <= post.acknowledged)
        for name, all_seen in ledger.seen.items()
        for seen in all_seen
        if (post := posts.get((ledger.rooms[name], seen.offset)))
    ]


def summary(ledger: Ledger) -> tuple[str, list[str]]:
    """A table of what came live and by resumption under each fault, and what is wrong with it."""
    live: Counter[str] = Counter()
    resumed: Counter[str] = Counter()
    for post, _, came_live in deliveries(ledger):
        (live if came_live else resumed)[post.fault] += 1
    posted = Counter(post.fault for post in ledger.posts)
    lines = [f"{'fault':24}{'posts':>8}{'live':>8}{'resumed':>9}"]
    lines += [f"{f:24}{posted[f]:8}{live[f]:8}{resumed[f]:9}" for f in posted]
    wrong = [f"nothing came live: {fault}" for fault in posted if not live[fault]]
    wrong += [
        f"nothing came by resumption: {fault}"
        for fault in posted
        if not resumed[fault] and fault != "nothing"
    ]
    return "\n".join(lines), wrong


async def keep(
    *,
    rounds: int = 1,
    seed: int = 0,
    faults: Sequence[str] = (),
    mutation: str | None = None,
    tell: Callable[[str], object] = str,
) -> tuple[str, list[str]]:
    """Run the drill; returns the table, and what is wrong."""
    chance, ledger = random.Random(seed), Ledger()
    with ExitStack() as stack:
        postgresql = stack.enter_context(OwnPostgresql())
        redis = stack.enter_context(OwnRedis())
        url = postgresql.create("ledger")
        await migrations.upgrade(settings_for(url))
        async with SlowProxy(redis.port) as proxy:
            variables = {"REDIS_URL": redis.url, "DATABASE_TIMEOUT_SECONDS": "2"}
            variables["SWEEP_SECONDS"] = str(SWEEP_SECONDS)
            if mutation:
                variables["MUTATION"] = mutation
            made = stack.enter_context(cluster(url, 2, **variables))
            made.last.change(REDIS_URL=f"redis://127.0.0.1:{proxy.port}")
            await made.start()
            drill = Drill(ledger, made, redis, postgresql, proxy, chance, tell)
            await drill.run(rounds, faults)
    table, unbalanced = summary(ledger)
    if ledger.refused:
        table += "\nrefused: " + ", ".join(f"{n} × {code}" for code, n in ledger.refused.items())
    return table, audit(ledger) + unbalanced


def show(*, mutation: str | None, **given: Any) -> list[str]:
    """Keep the ledger, print it, and return what is wrong."""
    began = time.monotonic()

    def tell(fault: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {fault}", flush=True)

    table, wrong = asyncio.run(keep(mutation=mutation, tell=tell, **given))
    print(table)
    for line in wrong[:10]:
        print(f"WRONG: {line}")
    print(f"{len(wrong)} things are wrong" if wrong else "everything was sent once and in order")
    return wrong


def main() -> int:
    """Keep the ledger; with --mutations, once with each in force, which has to show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that every fault happens")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--fault", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--mutation", choices=MUTATIONS, help="leave something out")
    parser.add_argument("--mutations", action="store_true", help="leave each out once")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    if not given.mutations:
        run = {"rounds": given.rounds, "seed": given.seed, "faults": given.fault}
        return 1 if show(mutation=given.mutation, **run) else 0
    unnoticed = []
    for name, (_, faults) in MUTATIONS.items():
        print(f"\n{name}", flush=True)
        if not show(mutation=name, rounds=given.rounds, seed=given.seed, faults=faults):
            unnoticed.append(name)
    print(f"\nnot noticed: {', '.join(unnoticed)}" if unnoticed else "\neach was noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
