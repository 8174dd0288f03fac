"""Frames on their way to one client: what fits, and what gives way when something does not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

import pytest

from app.realtime import Message, Overflow
from app.realtime.messages import Broadcast, Encoded, Publication, encode
from app.realtime.outbox import Outbox
from tests.realtime.probe import Said
from tests.server import DEADLINE


class Moved(Message):
    """Where a cursor is: only the last place of each matters."""

    type = "moved"
    latest_by: ClassVar[tuple[str, ...]] = ("cursor",)
    cursor: str
    x: int


class Peer:
    """A client's end: takes frames while it reads."""

    def __init__(self) -> None:
        self.frames: list[str | bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def send_text(self, frame: str) -> None:
        """Take a text frame."""
        await self.reads.wait()
        self.frames.append(frame)

    async def send_bytes(self, frame: bytes) -> None:
        """Take a binary frame."""
        await self.reads.wait()
        self.frames.append(frame)

    @property
    def told(self) -> list[Any]:
        """What it was told, by the text of each frame's data, or its type."""
        frames = [json.loads(frame) for frame in self.frames]
        return [next(iter(frame.get("data", {"": frame["type"]}).values())) for frame in frames]


def said(text: str) -> Broadcast:
    """Something that was said."""
    return Publication.of("room", Said(text=text))


def moved(cursor: str, x: int) -> Broadcast:
    """Where a cursor is."""
    return Publication.of("room", Moved(cursor=cursor, x=x))


SIZE = said("a").frame.size  # all the broadcasts below are of one


@asynccontextmanager
async def writing(outbox: Outbox, peer: Peer) -> AsyncIterator[None]:
    """While the block runs, what waits is written to the peer."""
    task = asyncio.create_task(outbox.write_to(cast(Any, peer)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def written(outbox: Outbox) -> Peer:
    """A peer that has been written everything that waits."""
    peer = Peer()
    async with writing(outbox, peer), asyncio.timeout(DEADLINE):
        await outbox.drained()
    return peer


async def test_frames_are_written_in_their_order() -> None:
    """Text as text and bytes as bytes, each once."""
    outbox = Outbox(1000)
    assert outbox.put(Encoded.of(b"\x00\xff"))
    assert outbox.tell(said("a"))
    assert outbox.put(encode("pong"))
    peer = await written(outbox)
    assert peer.frames == [b"\x00\xff", said("a").frame.payload, '{"type":"pong"}']
    assert (await written(outbox)).frames == []


def test_it_holds_so_many_bytes() -> None:
    """Characters count as the bytes that they are sent as; one byte more has no room."""
    outbox = Outbox(limit=10)
    assert outbox.put(Encoded.of("ü" * 5))
    assert not outbox.put(Encoded.of(b"1"))


async def test_what_was_refused_is_not_written() -> None:
    """And takes no room from what fits."""
    outbox = Outbox(limit=10)
    assert outbox.put(Encoded.of("12345678"))
    assert not outbox.put(Encoded.of("123"))
    assert outbox.put(Encoded.of("90"))
    assert (await written(outbox)).frames == ["12345678", "90"]


async def test_what_was_written_leaves_room() -> None:
    """The limit is of what waits, not of all that ever was."""
    outbox, peer = Outbox(limit=SIZE), Peer()
    async with writing(outbox, peer), asyncio.timeout(DEADLINE):
        for text in "abc":
            assert outbox.tell(said(text))
            await outbox.drained()
    assert peer.told == ["a", "b", "c"]


async def test_drained_is_when_the_last_has_been_written() -> None:
    """Not when it is only on its way."""
    outbox, peer = Outbox(limit=1000), Peer()
    await outbox.drained()  # nothing waits
    peer.reads.clear()
    async with writing(outbox, peer), asyncio.timeout(DEADLINE):
        outbox.put(encode("ping"))
        drained = asyncio.create_task(outbox.drained())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not drained.done()
        peer.reads.set()
        await drained
    assert peer.told == ["ping"]


async def test_the_last_frame_has_room() -> None:
    """All that waits gives way to it, and nothing comes after it that does not fit."""
    outbox = Outbox(limit=2 * SIZE)
    assert outbox.tell(said("a"))
    assert outbox.put(encode("pong"))
    farewell = encode("error", {"code": "x" * 4 * SIZE})
    outbox.replace(farewell)
    assert not outbox.put(encode("pong"))
    assert (await written(outbox)).frames == [farewell.payload]


async def test_who_is_evicted_has_no_room_for_one_more() -> None:
    """The policy by default: a broadcast that does not fit ends the connection."""
    outbox = Outbox(limit=2 * SIZE)
    assert [outbox.tell(said(text)) for text in "abc"] == [True, True, False]
    assert (await written(outbox)).told == ["a", "b"]


class TestDropOldest:
    """A client that loses what has waited longest."""

    @pytest.fixture
    def outbox(self) -> Outbox:
        """Room for three broadcasts."""
        return Outbox(3 * SIZE, Overflow.DROP_OLDEST)

    async def test_the_oldest_broadcasts_give_way(self, outbox: Outbox) -> None:
        """It is never closed for them, and has the newest."""
        assert all(outbox.tell(said(text)) for text in "abcde")
        assert (await written(outbox)).told == ["c", "d", "e"]

    async def test_replies_and_errors_are_never_dropped(self, outbox: Outbox) -> None:
        """Broadcasts give way to them, the oldest first; where only such wait, it is closed."""
        reply = Encoded.of(json.dumps({"type": "x" * (SIZE - len('{"type": ""}'))}))
        assert reply.size == SIZE
        assert outbox.tell(said("a"))
        assert outbox.put(reply)
        assert outbox.tell(said("b"))
        assert outbox.put(reply)  # in the place of a
        assert outbox.put(reply)  # in the place of b
        assert not outbox.put(reply)
        assert (await written(outbox)).frames == [reply.payload] * 3

    async def test_a_broadcast_gives_way_to_replies(self, outbox: Outbox) -> None:
        """Where nothing else may be dropped it is this one, and the client stays."""
        filler = Encoded.of("x" * 3 * SIZE)
        assert outbox.put(filler)
        assert outbox.tell(said("a"))
        assert (await written(outbox)).frames == [filler.payload]

    async def test_one_that_could_never_fit_is_dropped(self, outbox: Outbox) -> None:
        """What waited before it is gone as well: it was older."""
        assert outbox.tell(said("a"))
        assert outbox.tell(said("x" * 4 * SIZE))
        assert outbox.tell(said("b"))
        assert (await written(outbox)).told[-1:] == ["b"]


class TestCoalesce:
    """A client that is told only the newest of each thing."""

    @pytest.fixture
    def outbox(self) -> Outbox:
        """Room for three broadcasts."""
        return Outbox(3 * moved("a", 1).frame.size, Overflow.COALESCE)

    async def test_only_the_newest_of_a_thing_waits(self, outbox: Outbox) -> None:
        """However many there were; each thing by itself, in the order of the newest."""
        for x in range(9):
            assert outbox.tell(moved("a", x))
            assert outbox.tell(moved("b", x))
        peer = await written(outbox)
        assert [json.loads(frame)["data"] for frame in peer.frames] == [
            {"cursor": "a", "x": 8},
            {"cursor": "b", "x": 8},
        ]

    async def test_what_has_been_written_is_not_replaced(self, outbox: Outbox) -> None:
        """The next one comes as well."""
        peer = Peer()
        async with writing(outbox, peer), asyncio.timeout(DEADLINE):
            for x in range(3):
                assert outbox.tell(moved("a", x))
                await outbox.drained()
        assert [json.loads(frame)["data"]["x"] for frame in peer.frames] == [0, 1, 2]

    async def test_things_of_other_topics_and_types_are_others(self) -> None:
        """A key is of one type in one topic."""
        outbox = Outbox(10_000, Overflow.COALESCE)
        assert outbox.tell(moved("a", 1))
        assert outbox.tell(Publication.of("other", Moved(cursor="a", x=1)))
        assert len((await written(outbox)).frames) == 2

    async def test_what_is_about_no_thing_is_all_told(self, outbox: Outbox) -> None:
        """It takes room, and who has none is closed."""
        taken = [outbox.tell(said(text)) for text in "abcdefgh"]
        assert taken == sorted(taken, reverse=True)
        assert taken[-1] is False
        assert (await written(outbox)).told == list("abcdefgh"[: taken.count(True)])

    async def test_too_many_things_close(self, outbox: Outbox) -> None:
        """Where nothing can be replaced, there is no room for one more."""
        assert [outbox.tell(moved(cursor, 1)) for cursor in "abcd"] == [True] * 3 + [False]

    async def test_replies_are_not_replaced(self, outbox: Outbox) -> None:
        """A key is of broadcasts."""
        assert outbox.put(encode("pong"))
        assert outbox.put(encode("pong"))
        assert (await written(outbox)).told == ["pong", "pong"]

    async def test_the_last_frame_forgets_the_things(self, outbox: Outbox) -> None:
        """After it nothing is looked for that it has dropped."""
        assert outbox.tell(moved("a", 1))
        outbox.replace(encode("error", {"code": "x"}))
        assert outbox.tell(moved("a", 2))
        assert (await written(outbox)).told == ["x", "a"]


async def test_without_the_policy_nothing_is_coalesced() -> None:
    """What is about one thing is told all the same, by default."""
    outbox = Outbox(10_000)
    assert all(outbox.tell(moved("a", x)) for x in range(3))
    assert len((await written(outbox)).frames) == 3
