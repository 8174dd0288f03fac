"""A channel with a durable topic, on the wire: offsets, what was missed, and who is here."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest

from app.core.schemas import MAX_ID
from app.realtime import Channel, Message, Overflow, Topic, on
from app.realtime.log import PAGE, EventLog
from tests.realtime.listening import readings
from tests.realtime.probe import Probe, Said, Say, denial, logged_events, settle, welcomed
from tests.server import DEADLINE, RunningServer, Socket

PRESENCE = frozenset({"presence.changed"})
ELSEWHERE = "0" * 32
_rooms = count(5000)


class Room:
    """A room of the server."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.number = next(_rooms)
        self.path = f"/probe/{self.number}/log"
        self.stack = AsyncExitStack()

    async def write(self, text: str = "a", times: int = 1) -> int:
        """Write events over REST; where the log is then."""
        async with self.server.client() as http:
            answer = await http.post(self.path, params={"times": times}, json={"text": text})
        offset: int = answer.raise_for_status().json()
        return offset

    async def open(
        self, subject: str = "1", *, query: str = "", deaf: bool = True
    ) -> tuple[Socket, dict[str, Any]]:
        """Somebody's socket, open until the room is left, and what it was welcomed with."""
        token = self.server.token(subject, name=f"user {subject}")
        opening = self.server.socket(self.path + query, token, max_queue=None)
        socket = await self.stack.enter_async_context(opening)
        socket.unheard = PRESENCE if deaf else frozenset()
        frame = await socket.frame()
        assert frame["type"] == "welcome"
        return socket, frame["data"]

    async def resume(self, epoch: str, after: int) -> tuple[Socket, dict[str, Any]]:
        """A socket that begins after a position."""
        return await self.open(query=f"?epoch={epoch}&after={after}")


@pytest.fixture
async def room(probe_server: RunningServer) -> Any:
    """A room of this test's own."""
    made = Room(probe_server)
    async with made.stack:
        yield made


async def test_welcome_says_where_the_topic_is(room: Room) -> None:
    """Its epoch, before the first event already, and its offset; nothing of a recovery."""
    _, welcome = await room.open()
    assert welcome.keys() == {"connection", "expires_at", "epoch", "offset"}
    assert (len(welcome["epoch"]), welcome["offset"]) == (32, 0)
    await room.write(times=3)
    _, later = await room.open()
    assert (later["epoch"], later["offset"]) == (welcome["epoch"], 3)


async def test_a_topic_that_is_not_durable_has_no_place(probe_server: RunningServer) -> None:
    """Neither welcome nor events nor replies say one, and the query is no matter."""
    path = "/probe/7/ws?epoch=x&after=-1"
    async with probe_server.socket(path, probe_server.token()) as socket:
        welcome = await socket.frame()
        assert welcome["data"].keys() == {"connection", "expires_at"}
        await socket.send("say", {"text": "hi"})
        assert [("offset" in await socket.frame()) for _ in range(2)] == [False, False]


async def test_events_and_replies_say_where_they_are(room: Room) -> None:
    """Whoever posts knows from the reply which of the broadcasts is theirs."""
    ann, _ = await room.open("1")
    bob, _ = await room.open("2")
    await room.write("from REST")
    await ann.send("say", {"text": "from a socket"}, ref="s")
    data = {"text": "from a socket", "by": "1"}
    told = {"type": "said", "topic": f"logged:{room.number}", "offset": 2, "data": data}
    for socket in (ann, bob):
        assert (await socket.frame())["offset"] == 1
        assert await socket.frame() == told
    assert await ann.frame() == {"type": "said", "ref": "s", "offset": 2, "data": data}


async def test_what_was_missed_comes_after_the_welcome(room: Room) -> None:
    """In order, each once, and before anything that is asked or happens now."""
    _, welcome = await room.open()
    await room.write("missed", times=3)
    socket, resumed = await room.resume(welcome["epoch"], 1)
    assert (resumed["recovered"], resumed["offset"]) == (True, 1)
    await socket.send("say", {"text": "live"}, ref="s")
    frames = [await socket.frame() for _ in range(4)]
    assert [frame["offset"] for frame in frames] == [2, 3, 4, 4]
    assert [frame.get("ref") for frame in frames] == [None, None, None, "s"]


async def test_the_same_events_come_live_and_later(room: Room) -> None:
    """Byte for byte: a client need not know which it was."""
    live, welcome = await room.open()
    await room.write("grüße \U0001f600 \"'\\</script>", times=2)
    heard = [await live.connection.recv() for _ in range(2)]
    while any(json.loads(frame)["type"] in PRESENCE for frame in heard):
        heard = [frame for frame in heard if json.loads(frame)["type"] not in PRESENCE]
        heard.append(await live.connection.recv())
    socket, _ = await room.resume(welcome["epoch"], 0)
    assert [await socket.connection.recv() for _ in range(2)] == heard


async def test_nothing_missed_is_recovered(room: Room) -> None:
    """Exactly at the top, and before the first event ever."""
    socket, welcome = await room.resume("", 0)
    assert (welcome["recovered"], welcome["offset"]) == (True, 0)
    await room.write("first")
    assert (await socket.frame())["offset"] == 1
    socket, welcome = await room.resume(welcome["epoch"], 1)
    assert (welcome["recovered"], welcome["offset"]) == (True, 1)
    assert (await socket.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize("where", ["elsewhere", "future"])
async def test_what_cannot_be_told_is_not_recovered(room: Room, where: str) -> None:
    """Then welcome says where the topic is, and what happens from there on comes."""
    await room.write(times=2)
    _, before = await room.open()
    epoch, after = (ELSEWHERE, 1) if where == "elsewhere" else (before["epoch"], 3)
    socket, welcome = await room.resume(epoch, after)
    assert (welcome["recovered"], welcome["epoch"], welcome["offset"]) == (
        False,
        before["epoch"],
        2,
    )
    await room.write("live")
    assert (await socket.frame())["offset"] == 3


async def test_however_many_were_missed_all_come(room: Room) -> None:
    """Page by page, while more happens."""
    missed = 2 * PAGE + 1
    await room.write(times=missed)
    socket, _ = await room.resume("", 0)
    await room.write(times=5)
    offsets = [(await socket.frame())["offset"] for _ in range(missed + 5)]
    assert offsets == list(range(1, missed + 6))


async def test_more_than_the_outbox_holds_can_be_missed(
    serve_probe: Callable[..., RunningServer],
) -> None:
    """Who reads is not evicted for what happened while they were away, however large it is."""
    room = Room(serve_probe(ws_outbox_bytes=30_000))
    async with room.stack:
        await room.write("x" * 20_000, times=20)
        socket, _ = await room.resume("", 0)
        offsets = [(await socket.frame())["offset"] for _ in range(20)]
        assert offsets == list(range(1, 21))
        assert (await socket.ask("ping"))["type"] == "pong"


async def test_the_socket_is_told_what_happens_once(room: Room) -> None:
    """While ten write, each of several that come and go hears 1, 2, 3 … and nothing twice."""
    heard: list[list[int]] = []

    async def follow(total: int) -> None:
        offsets: list[int] = []
        epoch = ""
        while len(offsets) < total:
            token = room.server.token("2")
            query = f"?epoch={epoch}&after={len(offsets)}"
            async with room.server.socket(room.path + query, token) as socket:
                socket.unheard = PRESENCE
                welcome = (await socket.frame())["data"]
                assert welcome["recovered"] is True
                epoch = welcome["epoch"]
                some = range(min(13, total - len(offsets)))
                offsets += [(await socket.frame())["offset"] for _ in some]
                socket.connection.transport.abort()
        heard.append(offsets)

    async def write() -> None:
        for _ in range(6):
            await room.write("a")

    await room.write("first")
    async with asyncio.timeout(3 * DEADLINE):
        await asyncio.gather(*(follow(61) for _ in range(4)), *(write() for _ in range(10)))
    assert heard == [list(range(1, 62))] * 4


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", f"after={MAX_ID + 1}", f"epoch={'0' * 33}&after=1"]
)
async def test_what_is_no_position_is_denied(probe_server: RunningServer, query: str) -> None:
    """Before the handshake, as an invalid parameter of any route."""
    path = f"/probe/7/log?{query}"
    status, _, problem = await denial(probe_server, path, probe_server.token())
    assert (status, problem["code"]) == (422, "invalid_parameter")


async def test_a_log_that_cannot_be_read_is_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the welcome the handshake is denied; after it, the socket closes as for any 503."""
    await room.write(times=PAGE + 1)
    monkeypatch.setattr(EventLog, "since", readings(0))
    status, _, problem = await denial(room.server, room.path, room.server.token())
    assert (status, problem["code"]) == (503, "unavailable")
    monkeypatch.undo()
    monkeypatch.setattr(EventLog, "since", readings(1))
    socket, _ = await room.resume("", 0)
    close_code, reason, frames = await socket.ending()
    assert (close_code, reason) == (1013, "unavailable")
    assert [frame["type"] for frame in frames] == ["said"] * PAGE + ["error"]


async def test_who_loses_their_position_is_closed_with_it(room: Room, probe: Probe) -> None:
    """A client that is told 4409 reads the state anew, and comes back."""
    socket, welcome = await room.open()
    feed = room.server.app.state.hub._feeds[f"logged:{room.number}"]
    server_loop = room.server._server._loop
    server_loop.call_soon_threadsafe(feed.lose)
    code, reason, frames = await socket.ending()
    assert (code, reason) == (4409, "realtime.position_lost")
    assert frames[-1]["data"]["retryable"] is True
    _, again = await room.open()
    assert again["epoch"] == welcome["epoch"]

    async def is_closed() -> bool:
        return probe.closed == [4409]

    await settle(is_closed)


class TestPresence:
    """Who is here."""

    async def test_who_asks_is_told_who_is_here(self, room: Room) -> None:
        """Each connection with its subject and what its channel tells, also the asker."""
        ann, hers = await room.open("1")
        _, his = await room.open("2")
        await self._are_there(ann, 2)
        answer = await ann.ask("presence")
        expected = [
            {"connection": welcome["connection"], "subject": subject,
             "info": {"name": f"user {subject}"}}
            for subject, welcome in (("1", hers), ("2", his))
        ]  # fmt: skip
        assert (answer["type"], answer["ref"]) == ("presence", "r")
        assert answer["data"]["count"] == 2
        assert sorted(answer["data"]["members"], key=lambda each: each["subject"]) == expected

    async def _are_there(self, socket: Socket, number: int) -> None:
        async def fact() -> bool:
            return bool((await socket.ask("presence"))["data"]["count"] == number)

        await settle(fact)

    async def test_who_comes_and_goes_is_told(self, room: Room) -> None:
        """To whoever is here, with who it is, and how many there are then."""
        ann, hers = await room.open("1", deaf=False)
        change = (await ann.until("presence.changed"))["data"]
        assert [each["connection"] for each in change["joined"]] == [hers["connection"]]
        bob, his = await room.open("2")
        frame = await ann.until("presence.changed")
        assert frame["topic"] == f"logged:{room.number}"
        assert "offset" not in frame
        member = {"connection": his["connection"], "subject": "2", "info": {"name": "user 2"}}
        assert frame["data"] == {"joined": [member], "left": [], "count": 2}
        bob.connection.transport.abort()
        change = (await ann.until("presence.changed"))["data"]
        assert change == {"joined": [], "left": [his["connection"]], "count": 1}

    async def test_a_long_list_is_cut(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        """The number says how many there are beside those."""
        monkeypatch.setattr("app.realtime.connection.PRESENT_AT_MOST", 2)
        sockets = [(await room.open(str(number)))[0] for number in range(3)]
        await self._are_there(sockets[0], 3)
        answer = await sockets[0].ask("presence")
        assert (len(answer["data"]["members"]), answer["data"]["count"]) == (2, 3)

    async def test_without_presence_nobody_is_seen(self, probe_server: RunningServer) -> None:
        """A channel that tells nothing of its clients knows no such message."""
        async with probe_server.socket("/probe/7/ws", probe_server.token()) as socket:
            await welcomed(socket)
            answer = await socket.ask("presence")
        assert answer["data"]["code"] == "realtime.unknown_type"

    async def test_who_was_denied_was_never_here(self, room: Room, probe: Probe) -> None:
        """Nobody hears of them."""
        ann, _ = await room.open("1", deaf=False)
        await ann.until("presence.changed")
        probe.refused.add("2")
        assert (await denial(room.server, room.path, room.server.token("2")))[0] == 403
        await room.open("3")
        change = (await ann.until("presence.changed"))["data"]
        assert [each["subject"] for each in change["joined"]] == ["3"]
        assert change["count"] == 2

    async def test_who_has_gone_leaves_nothing(self, room: Room) -> None:
        """Neither a member nor a subscriber."""
        hub = room.server.app.state.hub
        for number in range(5):
            socket, _ = await room.open(str(number))
            await self._are_there(socket, number + 1)
        await room.stack.aclose()

        async def is_empty() -> bool:
            address = logged_events.at(room=room.number)
            return (hub.presence(address), hub.count(address)) == ([], 0)

        await settle(is_empty)


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.COALESCE])
def test_a_durable_topic_loses_nothing_silently(overflow: Overflow) -> None:
    """A channel that would drop its events fails as it is written."""
    policy = overflow

    with pytest.raises(TypeError, match="durable, and loses nothing silently"):

        class Dropping(Channel):
            topic = Topic[Said]("dropping", durable=True)
            overflow = policy


@pytest.mark.parametrize("kind", ["presence", "presence.changed"])
def test_the_engines_types_are_nobodys(kind: str) -> None:
    """No message of a channel is mistaken for presence."""
    with pytest.raises(TypeError, match="the engine's own"):

        class Mine(Message):
            type = kind


async def test_a_handler_may_be_called_with_its_key() -> None:
    """A test without a socket gives the key by hand."""

    class Keyed(Channel):
        @on
        async def say(self, message: Say, key: str | None) -> Said:
            return Said(text=message.text, by=key or "")

    assert Keyed.__handlers__["say"].takes_key
    assert await Keyed().say(Say(text="hi"), key="k") == Said(text="hi", by="k")
