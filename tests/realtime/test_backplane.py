"""The backplane: what memory and Redis have in common, and Redis while it is killed and hangs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack

import pytest

from app.realtime.backplane import Backplane, MemoryBackplane
from app.realtime.redis_backplane import QUEUE_BYTES, RedisBackplane
from tests.redis import OwnRedis

DEADLINE = 5
#: Servers on which another kind of pub/sub is spoken: sharded, of before Redis 6, of a cluster.
KINDS = {
    "sharded": (),
    "old": ("--rename-command", "HELLO", "", "--rename-command", "SSUBSCRIBE", ""),
    "cluster": ("--cluster-enabled", "yes"),
}

Join = Callable[..., Awaitable["Node"]]


class Node:
    """A backplane and all that it has told."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.messages: list[tuple[str, bytes]] = []
        self.confirmed: list[str] = []
        self.confirmations = 0
        self._news = asyncio.Event()

    def received(self, channel: str, payload: bytes) -> None:
        """Keep it."""
        self.messages.append((channel, payload))
        self._news.set()

    def subscribed(self, channels: Collection[str]) -> None:
        """Keep them."""
        self.confirmed += channels
        self.confirmations += 1
        self._news.set()

    async def until(self, fact: Callable[[], bool]) -> None:
        """Wait until something that was told makes it true."""
        async with asyncio.timeout(DEADLINE):
            while not fact():
                self._news.clear()
                await self._news.wait()

    async def subscribe(self, *channels: str) -> None:
        """Subscribe, and wait until that is confirmed."""
        for channel in channels:
            self.backplane.subscribe(channel)
        await self.until(lambda: set(channels) <= set(self.confirmed))

    async def is_connected(self, expected: bool) -> float:
        """Wait until it is, or is not; how many seconds that took."""
        started = time.monotonic()
        for _ in range(DEADLINE * 100):
            if self.backplane.connected is expected:
                return time.monotonic() - started
            await asyncio.sleep(0.01)
        raise AssertionError(f"connected is not {expected}")


@pytest.fixture(params=["sharded", "old", "cluster"])
def redis(request: pytest.FixtureRequest) -> Iterator[OwnRedis]:
    """A Redis for each kind of pub/sub."""
    with OwnRedis(KINDS[request.param]) as server:
        yield server


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """Starts backplanes, and stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            redis: OwnRedis | None,
            *,
            url: str | None = None,
            prefix: str = "test",
            queue_bytes: int = QUEUE_BYTES,
        ) -> Node:
            node = Node(
                RedisBackplane(url or redis.url, prefix, queue_bytes=queue_bytes)
                if redis
                else MemoryBackplane()
            )
            await node.backplane.start(node)
            stack.push_async_callback(node.backplane.stop)
            return node

        yield start


# What both have in common


@pytest.fixture(params=["memory", "redis"])
def engine_of_messages(request: pytest.FixtureRequest) -> OwnRedis | None:
    """The Redis of a backplane that has one."""
    if request.param == "memory":
        return None
    own: OwnRedis = request.getfixturevalue("own_redis")
    return own


async def test_each_subscription_is_confirmed(
    engine_of_messages: OwnRedis | None, join: Join
) -> None:
    """The first one, and another of the same channel, whether or not it was given up between."""
    node = await join(engine_of_messages)
    for again in range(1, 4):
        node.backplane.subscribe("a")
        await node.until(lambda again=again: node.confirmed == ["a"] * again)  # type: ignore[misc]
        if again == 2:
            node.backplane.unsubscribe("a")


async def test_what_is_subscribed_to_before_the_start_is_confirmed_after_it(
    own_redis: OwnRedis,
) -> None:
    """Who subscribes need not know whether it has been started."""
    for backplane in (MemoryBackplane(), RedisBackplane(own_redis.url, "test")):
        node = Node(backplane)
        for channel in ("a", "b", "c"):
            backplane.subscribe(channel)
        backplane.unsubscribe("b")
        await backplane.start(node)
        await node.until(lambda node=node: len(node.confirmed) == 2)  # type: ignore[misc]
        assert sorted(node.confirmed) == ["a", "c"]
        await backplane.stop()


async def test_a_node_does_not_hear_itself(engine_of_messages: OwnRedis | None, join: Join) -> None:
    """What a process sends is not handed back to it."""
    node = await join(engine_of_messages)
    await node.subscribe("a")
    other = await join(engine_of_messages)
    await other.is_connected(True)
    node.backplane.send("a", b"from here")
    other.backplane.send("a", b"from there")
    if engine_of_messages:
        await node.until(lambda: node.messages == [("a", b"from there")])
    await node.backplane.stop()
    assert ("a", b"from here") not in node.messages


async def test_nobody_is_bothered_by_a_backplane_that_does_not_run(
    engine_of_messages: OwnRedis | None, join: Join
) -> None:
    """After its end, as before its start, everything may be called and nothing happens."""
    node = await join(engine_of_messages)
    for _ in range(2):
        await node.backplane.stop()
        node.backplane.send("a", b"nothing")
        node.backplane.subscribe("a")
        node.backplane.unsubscribe("a")
    assert node.messages == []


# Redis


async def test_messages_reach_the_others_in_order(redis: OwnRedis, join: Join) -> None:
    """Whoever has subscribed hears all of a channel in the order sent, and nothing of others."""
    here, there, elsewhere = await join(redis), await join(redis), await join(redis)
    await there.subscribe("rooms:1", "räume:ß")
    await elsewhere.subscribe("rooms:2")
    await here.is_connected(True)
    sent = [("rooms:1", f"{n}".encode() * (n % 50)) for n in range(500)] + [("räume:ß", b"\0\xff")]
    for channel, payload in sent:
        here.backplane.send(channel, payload)
    await there.until(lambda: len(there.messages) == len(sent))
    assert there.messages == sent
    assert elsewhere.messages == []


async def test_a_channel_that_was_given_up_is_silent(redis: OwnRedis, join: Join) -> None:
    """After unsubscribing nothing is heard; after subscribing again everything is."""
    here, there = await join(redis), await join(redis)
    await there.subscribe("a", "b")
    await here.is_connected(True)
    for channel in ("a", "a", "b"):
        there.backplane.unsubscribe("a")
        here.backplane.send(channel, channel.encode())
    await there.until(lambda: there.messages == [("b", b"b")])
    there.confirmed.clear()
    await there.subscribe("a")
    here.backplane.send("a", b"again")
    await there.until(lambda: there.messages[1:] == [("a", b"again")])


async def test_the_server_is_asked_for_no_more_than_is_wanted(
    own_redis: OwnRedis, join: Join
) -> None:
    """What was given up costs neither side anything."""
    node = await join(own_redis)
    await node.subscribe("a", "b")
    node.backplane.unsubscribe("a")
    channels: list[bytes] = []
    with own_redis.client() as client:
        for _ in range(100):
            await asyncio.sleep(0.01)
            channels = client.execute_command("PUBSUB", "SHARDCHANNELS", "test:?")
            if b"test:a" not in channels:
                break
    assert channels == [b"test:b"]


async def test_only_the_last_confirmation_counts(own_redis: OwnRedis, join: Join) -> None:
    """Who subscribes twice with a gap between is not told that there is none."""
    node = await join(own_redis)
    await node.is_connected(True)
    own_redis.hang()
    for change in (node.backplane.subscribe, node.backplane.unsubscribe) * 3:
        change("a")
        await asyncio.sleep(0.02)  # so that it is sent
    node.backplane.subscribe("a")
    await asyncio.sleep(0.02)
    own_redis.resume()
    await node.until(lambda: bool(node.confirmed))
    await node.subscribe("b")
    assert node.confirmed == ["a", "b"]


async def test_another_prefix_is_another_service(own_redis: OwnRedis, join: Join) -> None:
    """Two services on one Redis do not hear each other, whatever database number they name."""
    ours = await join(own_redis, prefix="ours")
    theirs = await join(own_redis, prefix="theirs", url=f"{own_redis.url}/1")
    friend = await join(own_redis, prefix="theirs", url=f"{own_redis.url}/2")
    for node in (ours, theirs):
        await node.subscribe("a")
    await friend.is_connected(True)
    friend.backplane.send("a", b"between us")
    await theirs.until(lambda: theirs.messages == [("a", b"between us")])
    assert ours.messages == []


async def test_a_unix_socket_and_a_password_will_do(join: Join) -> None:
    """Whatever address redis-py takes leads to the same."""
    with OwnRedis(("--requirepass", "hunter2")) as redis:
        here = await join(redis, url=redis.url.replace("//", "//:hunter2@"))
        there = await join(redis, url=redis.unix_url.replace("//", "//:hunter2@"))
        await there.subscribe("a")
        await here.is_connected(True)
        here.backplane.send("a", b"hello")
        await there.until(lambda: there.messages == [("a", b"hello")])


@pytest.mark.parametrize("kind", ["sharded", "old"])
async def test_many_subscriptions_take_few_commands(kind: str, join: Join) -> None:
    """What is subscribed to at once goes in a few commands, and is confirmed in a few calls."""
    with OwnRedis(KINDS[kind]) as redis:
        node = await join(redis)
        await node.is_connected(True)
        await node.subscribe(*(f"rooms:{n}" for n in range(2000)))
        with redis.client() as client:
            calls = client.info("commandstats")
            command = {"sharded": "ssubscribe", "old": "subscribe"}[kind]
            assert calls[f"cmdstat_{command}"]["calls"] <= 6
        assert node.confirmations <= 20


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"dpx1", b"dpx1" + b"x" * 15, b"xpd1" + b"x" * 99]
)
async def test_what_somebody_else_publishes_is_ignored(
    own_redis: OwnRedis, join: Join, payload: bytes
) -> None:
    """A payload that no node has sent reaches nobody, and ends nothing."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    await here.is_connected(True)
    with own_redis.client() as client:
        assert client.execute_command("SPUBLISH", "test:a", payload) == 1
    here.backplane.send("a", b"well-formed")
    await there.until(lambda: there.messages == [("a", b"well-formed")])


async def test_an_error_of_the_receiver_ends_nothing(own_redis: OwnRedis, join: Join) -> None:
    """What goes wrong with one message is reported, and the next one is handed over."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    await here.is_connected(True)
    hears, there.received = there.received, lambda channel, payload: 1 / 0  # type: ignore[assignment,method-assign]
    here.backplane.send("a", b"one")
    here.backplane.send("b", b"nobody's")
    await here.backplane.stop()
    there.received = hears  # type: ignore[method-assign]
    another = await join(own_redis)
    await another.is_connected(True)
    another.backplane.send("a", b"two")
    await there.until(lambda: ("a", b"two") in there.messages)


async def test_a_burst_leaves_time_for_others(own_redis: OwnRedis, join: Join) -> None:
    """While many messages are handed over, which may take long, the process goes on."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    await here.is_connected(True)
    hears = there.received

    def slowly(channel: str, payload: bytes) -> None:
        time.sleep(0.005)
        hears(channel, payload)

    there.received = slowly  # type: ignore[method-assign]
    for _ in range(300):
        here.backplane.send("a", b"x" * 100)
    longest = 0.0
    while len(there.messages) < 300:
        started = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - started)
    assert longest < 1


# Redis goes and comes


async def test_a_server_that_is_killed_is_missed_at_once_and_found_again(
    redis: OwnRedis, join: Join
) -> None:
    """Afterwards every channel is confirmed again, and messages come as before."""
    here, there = await join(redis), await join(redis)
    await there.subscribe("a", "b")
    for node in (here, there):
        await node.is_connected(True)
    redis.kill()
    for node in (here, there):
        assert await node.is_connected(False) < 0.9
    there.backplane.subscribe("c")
    there.backplane.unsubscribe("b")
    here.backplane.send("a", b"lost")
    there.confirmed.clear()
    redis.start()
    for node in (here, there):
        assert await node.is_connected(True) < 4
    await there.until(lambda: len(there.confirmed) == 2)
    assert sorted(there.confirmed) == ["a", "c"]
    for channel in ("a", "b", "c"):
        here.backplane.send(channel, b"found")
    await there.until(lambda: len(there.messages) == 2)
    assert there.messages == [("a", b"found"), ("c", b"found")]
    assert here.backplane.dropped == 1  # type: ignore[attr-defined]


async def test_a_server_that_hangs_is_noticed_within_about_a_second(
    own_redis: OwnRedis, join: Join
) -> None:
    """Its connections stay, and yet the backplane is not connected; nobody waits meanwhile."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    for node in (here, there):
        await node.is_connected(True)
    own_redis.hang()
    started = time.monotonic()
    for n in range(1000):
        here.backplane.send("a", b"x" * 1000)
        here.backplane.subscribe(f"{n}")
    assert time.monotonic() - started < 1
    for node in (here, there):
        await node.is_connected(False)
    assert time.monotonic() - started < 3
    there.confirmed.clear()
    own_redis.resume()
    for node in (here, there):
        assert await node.is_connected(True) < 4
    await there.until(lambda: there.confirmed == ["a"])
    here.backplane.send("a", b"again")
    await there.until(lambda: there.messages[-1:] == [("a", b"again")])


async def test_an_address_that_says_nothing_is_tried_again(join: Join) -> None:
    """Who took the connection and is gone does not hold up the one who came after."""
    silent: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    with OwnRedis() as redis:
        redis.kill()
        server = await asyncio.start_server(
            lambda _, w: silent.put_nowait(w), "127.0.0.1", redis.port
        )
        node = await join(redis)
        writer = await asyncio.wait_for(silent.get(), DEADLINE)
        server.close()
        redis.start()
        assert await node.is_connected(True) < 4
        writer.close()


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_a_connection_that_the_server_ends_is_a_reconnection(
    own_redis: OwnRedis, join: Join, kind: str
) -> None:
    """Either connection may be lost alone, as by CLIENT KILL or a full output buffer."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    for node in (here, there):
        await node.is_connected(True)
    there.confirmed.clear()
    with own_redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    await asyncio.gather(here.is_connected(False), there.is_connected(False))
    for node in (here, there):
        await node.is_connected(True)
    await there.until(lambda: there.confirmed == ["a"])
    here.backplane.send("a", b"again")
    await there.until(lambda: there.messages == [("a", b"again")])


async def test_a_busy_loop_is_no_silence(own_redis: OwnRedis, join: Join) -> None:
    """Who has had no time to listen does not take the server for dead."""
    node = await join(own_redis)
    await node.subscribe("a")
    await node.is_connected(True)
    time.sleep(1.3)  # noqa: ASYNC251 - the loop is to be blocked
    for _ in range(30):
        await asyncio.sleep(0.01)
        assert node.backplane.connected
    assert node.confirmed == ["a"]


async def test_what_waits_is_bounded(own_redis: OwnRedis, join: Join) -> None:
    """More than that is dropped and counted, as is what a lost connection leaves behind."""
    node = await join(own_redis, queue_bytes=100_000)
    await node.is_connected(True)
    own_redis.hang()
    for _ in range(1000):
        node.backplane.send("a", b"x" * 1000)
    backplane = node.backplane
    assert isinstance(backplane, RedisBackplane)
    assert 900 <= backplane.dropped < 1000
    node.backplane.send("a", b"x" * 200_000)
    await node.is_connected(False)
    assert backplane.dropped == 1001
    node.backplane.send("a", b"x")
    assert backplane.dropped == 1002


async def test_what_was_sent_before_the_end_arrives(own_redis: OwnRedis, join: Join) -> None:
    """A process that leaves in good order takes no message with it."""
    here, there = await join(own_redis), await join(own_redis)
    await there.subscribe("a")
    await here.is_connected(True)
    for n in range(3000):
        here.backplane.send("a", b"%d" % n + b"x" * 500)
    await here.backplane.stop()
    await there.until(lambda: len(there.messages) == 3000)
    with own_redis.client() as client:
        assert client.info("stats")["total_reads_processed"] < 1000  # many went at once


async def test_what_has_been_sent_makes_room(own_redis: OwnRedis, join: Join) -> None:
    """The bound is for what waits, and not for all that was ever sent."""
    here, there = await join(own_redis, queue_bytes=10_000), await join(own_redis)
    await there.subscribe("a")
    await here.is_connected(True)
    for n in range(1, 21):
        for _ in range(5):
            here.backplane.send("a", b"x" * 1000)
        await there.until(lambda n=n: len(there.messages) == n * 5)  # type: ignore[misc]
    assert here.backplane.dropped == 0  # type: ignore[attr-defined]


async def test_the_end_waits_for_nobody(own_redis: OwnRedis, join: Join) -> None:
    """Neither a server that hangs nor one that is not there delays the end for long."""
    node = await join(own_redis)
    await node.is_connected(True)
    own_redis.hang()
    node.backplane.send("a", b"x")
    started = time.monotonic()
    await node.backplane.stop()
    own_redis.kill()
    away = await join(own_redis)
    away.backplane.send("a", b"x")
    await away.backplane.stop()
    assert time.monotonic() - started < 2


async def test_a_loss_is_told_once_and_so_is_the_return(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    """A line when it goes, a line when it is back, and no password in either."""
    caplog.set_level(logging.INFO, "duplex")
    attempts: asyncio.Queue[None] = asyncio.Queue()

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        attempts.put_nowait(None)

    with OwnRedis(("--requirepass", "hunter2")) as redis:
        redis.kill()
        async with await asyncio.start_server(hang_up, "127.0.0.1", redis.port):
            node = await join(redis, url=redis.url.replace("//", "//:hunter2@"))
            for _ in range(3):
                await asyncio.wait_for(attempts.get(), DEADLINE)
        redis.start()
        await node.is_connected(True)
    told = [(record.levelname, record.msg["event"]) for record in caplog.records]  # type: ignore[index]
    assert told == [("WARNING", "backplane is lost"), ("INFO", "backplane is back")]
    assert "hunter2" not in caplog.text
