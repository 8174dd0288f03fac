"""What holds while something is broken: two servers on a database, with a Redis of their own."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.delivery.cluster import Cluster, Node, cluster, token
from tests.delivery.test_engines import SWEPT, listening, said, say
from tests.redis import OwnRedis
from tests.server import DEADLINE

#: No answer takes as long because of Redis.
AT_MOST = 2.5  # seconds; promised is one, and a machine that does other things takes longer
#: Seconds after which a process that was killed is out of every list, with margin.
GIVEN_UP = 8


@pytest.fixture
async def redis() -> AsyncIterator[OwnRedis]:
    """A Redis of this test's own."""
    with OwnRedis() as own:
        yield own


@pytest.fixture
async def pair(redis: OwnRedis, migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two nodes with that Redis, on an SQLite file."""
    file = tmp_path / "pair.db"
    shutil.copy(migrated_sqlite, file)
    with ExitStack() as stack:
        made = stack.enter_context(cluster(f"sqlite:///{file}", 2, REDIS_URL=redis.url))
        await made.start()
        await until(made.first, "ok")
        await until(made.last, "ok")
        yield made


async def until(node: Node, status: str) -> None:
    """Wait until the node says that about itself."""
    async with asyncio.timeout(DEADLINE), node.client() as client:
        while True:
            answer = await client.get("/health/ready")
            if answer.is_success and answer.json()["status"] == status:
                return
            await asyncio.sleep(0.02)


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    await work
    return time.monotonic() - began


@pytest.mark.parametrize("fault", ["killed", "hung"])
async def test_without_redis_everything_works_and_nothing_waits(
    pair: Cluster, redis: OwnRedis, fault: str
) -> None:
    """Publishing, connecting and hearing of it go on; what was missed is there on its return."""
    room = uuid4().hex
    hurt: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "killed": (redis.kill, redis.start),
        "hung": (redis.hang, redis.resume),
    }
    stop, start = hurt[fault]
    async with listening(pair.last, room) as (before, _):
        stop()
        assert await timed(say(pair.first, room, "1")) < AT_MOST
        assert await asyncio.wait_for(said(before, 1), SWEPT) == [(1, "1")]
        await until(pair.first, "degraded")
        await until(pair.last, "degraded")
        began = time.monotonic()
        async with listening(pair.last, room) as (meanwhile, _):
            assert time.monotonic() - began < AT_MOST
            assert await timed(say(pair.first, room, "2")) < AT_MOST
            assert await asyncio.wait_for(said(meanwhile, 1), SWEPT) == [(2, "2")]
            start()
            await until(pair.first, "ok")
            await until(pair.last, "ok")
            await say(pair.first, room, "3")
            assert await said(meanwhile, 1) == [(3, "3")]
        assert await said(before, 2) == [(2, "2"), (3, "3")]


async def test_who_was_on_a_killed_process_is_no_longer_listed(pair: Cluster) -> None:
    """Its silence is enough, and the others are told."""
    room = uuid4().hex
    async with (
        listening(pair.first, room) as (watcher, _),
        pair.last.socket(f"/delivery/{room}/ws", token("2", "Bob")) as doomed,
    ):
        connection = (await doomed.frame())["data"]["connection"]
        joined: list[str] = []
        while connection not in joined:
            change = (await watcher.until("presence.changed"))["data"]
            joined += [member["connection"] for member in change["joined"]]
        pair.last.kill()
        change = await asyncio.wait_for(watcher.until("presence.changed"), GIVEN_UP)
        assert (change["data"]["left"], change["data"]["count"]) == ([connection], 1)


async def test_who_is_present_stays_so_while_redis_is_gone(pair: Cluster, redis: OwnRedis) -> None:
    """A process that hears nobody does not conclude that nobody is there."""
    room = uuid4().hex
    async with (
        listening(pair.first, room),
        pair.last.socket(f"/delivery/{room}/ws", token("2", "Bob")) as other,
    ):
        await other.frame()
        await listed(pair.first, room, 2)
        redis.kill()
        await until(pair.first, "degraded")
        redis.start()
        await until(pair.first, "ok")
        async with pair.last.socket(f"/delivery/{room}/ws", token("3", "Cyd")) as third:
            await third.frame()
            await listed(pair.first, room, 3)


async def listed(node: Node, room: str, count: int) -> None:
    """Wait until so many are listed in the room; at no time fewer than before."""
    most = 0
    async with asyncio.timeout(DEADLINE), node.client(token()) as client:
        while most < count:
            found = len((await client.get(f"/delivery/{room}/presence")).json())
            assert found >= most
            most = found
            await asyncio.sleep(0.02)
