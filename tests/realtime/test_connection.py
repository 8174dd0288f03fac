"""A connection, frame by frame, as its client sees it."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Path

from app.realtime import Channel, Hub, Topic
from tests.realtime.probe import Probe, Said, welcomed
from tests.server import RunningServer

PATH = "/probe/7/ws"


async def test_the_first_frame_is_welcome(probe_server: RunningServer) -> None:
    """The first frame names the connection and says when the token expires."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        welcome = await socket.frame()
    assert welcome["type"] == "welcome"
    assert len(welcome["data"]["connection"]) == 32
    left = datetime.fromisoformat(welcome["data"]["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=880) < left <= timedelta(seconds=900)


async def test_who_needs_no_token_has_no_expiry(probe_server: RunningServer) -> None:
    """A channel that asks for no token welcomes with an expiry of null."""
    async with probe_server.socket("/probe/open") as socket:
        welcome = await socket.frame()
    assert welcome["data"]["expires_at"] is None


async def test_two_connections_have_two_ids(probe_server: RunningServer) -> None:
    """Two connections of one person are told apart by their ids."""
    token = probe_server.token()
    async with probe_server.socket(PATH, token) as one, probe_server.socket(PATH, token) as two:
        first, second = await one.frame(), await two.frame()
    assert first["data"]["connection"] != second["data"]["connection"]


@pytest.mark.parametrize("ref", ["a", 0, 7, 2**53 - 1, "x" * 64])
async def test_a_reply_carries_the_ref(probe_server: RunningServer, ref: str | int) -> None:
    """A reply has the ref of its frame, as it was written, and the type of what was returned."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        reply = await socket.ask("say", {"text": "hi"}, ref=ref)
    assert reply == {"type": "said", "ref": ref, "data": {"text": "hi", "by": ""}}
    assert type(reply["ref"]) is type(ref)


async def test_a_broadcast_reaches_all(probe_server: RunningServer) -> None:
    """A broadcast carries its topic and no ref, and reaches the sender beside its reply."""
    ann, bob, other = (probe_server.token(subject) for subject in ("1", "2", "3"))
    async with (
        probe_server.socket(PATH, ann) as a,
        probe_server.socket(PATH, bob) as b,
        probe_server.socket("/probe/8/ws", other) as c,
    ):
        for socket in (a, b, c):
            await welcomed(socket)
        await a.send("say", {"text": "hi"}, ref="1")
        broadcast = {"type": "said", "topic": "probe:7", "data": {"text": "hi", "by": "1"}}
        reply = {"type": "said", "ref": "1", "data": {"text": "hi", "by": "1"}}
        assert [await a.frame(), await a.frame()] == [broadcast, reply]
        assert await b.frame() == broadcast
        assert await c.ask("ping") == {"type": "pong", "ref": "r"}  # the next frame of room 8


async def test_nothing_is_acknowledged_where_it_has_a_ref(probe_server: RunningServer) -> None:
    """A handler that returns nothing is acknowledged where the frame has a ref, else silent."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("note", {"text": "one"})
        await socket.send("note", {"text": "two"}, ref="2")
        assert await socket.frame() == {"type": "ack", "ref": "2"}


async def test_a_message_without_members_needs_no_data(
    probe_server: RunningServer, probe: Probe
) -> None:
    """The data may be left out where the message has no member that must be there."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        assert (await socket.ask("note"))["type"] == "ack"
    assert probe.handled == [""]


async def test_a_handler_is_given_the_key_of_its_frame(probe_server: RunningServer) -> None:
    """As it was written, or None; a key is no ref, and is not sent back."""
    async with probe_server.socket("/probe/key") as socket:
        await welcomed(socket)
        for key in (None, "a", " ~!\\\"'", "x" * 255):
            answer = await socket.ask("say", {"text": "hi"}, key=key)
            assert answer == {"type": "said", "ref": "r", "data": {"text": "hi", "by": repr(key)}}
        await socket.send("say", {"text": "hi"}, key="a")
        assert (await socket.frame())["data"]["by"] == "'a'"


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb", "\x7f", 7, True, ["a"], {}])
async def test_what_is_no_key_is_refused(probe_server: RunningServer, key: Any) -> None:
    """It has 1 to 255 printable characters of ASCII, as the header of REST."""
    async with probe_server.socket("/probe/key") as socket:
        await welcomed(socket)
        frame = {"type": "say", "ref": 1, "key": key, "data": {"text": "hi"}}
        await socket.raw(json.dumps(frame))
        refused = await socket.frame()
        assert (refused["type"], refused["ref"]) == ("error", 1)
        assert refused["data"]["code"] == "invalid_parameter"
        assert [error["loc"][0] for error in refused["data"]["errors"]] == ["key"]


async def test_a_key_that_a_handler_does_not_take_is_refused(probe_server: RunningServer) -> None:
    """A client that thinks that its message is done once is told that it is not."""
    async with probe_server.socket("/probe/key") as socket:
        await welcomed(socket)
        answer = await socket.ask("note", key="a")
        assert (answer["type"], answer["data"]["code"]) == ("error", "invalid_parameter")
        assert answer["data"]["detail"] == "This message takes no key."
        assert (await socket.ask("note"))["type"] == "ack"


async def test_frames_are_handled_in_order(probe_server: RunningServer, probe: Probe) -> None:
    """A frame waits for the one before it, however slow that is."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait", ref=1)
        await socket.send("note", {"text": "second"}, ref=2)
        await socket.send("ping", ref=3)
        await probe.entered.wait()
        assert probe.handled == []
        probe.release.set()
        assert [(await socket.frame())["ref"] for _ in range(3)] == [1, 2, 3]
    assert probe.handled == ["waited", "second"]


async def test_a_ping_is_answered_with_a_pong(probe_server: RunningServer) -> None:
    """A ping is answered, with its ref where it has one."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.send("ping")
        assert await socket.frame() == {"type": "pong"}
        assert await socket.ask("ping", ref="p") == {"type": "pong", "ref": "p"}


async def test_the_protocols_pings_are_answered_while_a_handler_waits(
    probe_server: RunningServer, probe: Probe
) -> None:
    """The reader keeps reading, so a busy handler never gets its client cut off."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait")
        await probe.entered.wait()
        await socket.send("note", {"text": "queued"})
        async with asyncio.timeout(5):
            await (await socket.connection.ping())
        assert probe.handled == []


async def test_a_full_inbox_is_answered_with_the_ref(serve_probe: Any, probe: Probe) -> None:
    """A frame that finds the inbox full is refused with its ref; those in it are handled."""
    server: RunningServer = serve_probe(ws_inbox_frames=2)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait", ref="w")
        await probe.entered.wait()
        for number in range(4):
            await socket.send("note", {"text": str(number)}, ref=number)
        for number in (2, 3):  # answered while the handler still waits
            frame = await socket.frame()
            assert (frame["type"], frame["ref"]) == ("error", number)
            assert frame["data"]["code"] == "realtime.inbox_overflow"
            assert frame["data"]["retryable"] is True
        probe.release.set()
        assert [(await socket.frame())["ref"] for _ in range(3)] == ["w", 0, 1]
        assert (await socket.ask("note", {"text": "later"}))["type"] == "ack"
    assert probe.handled == ["waited", "0", "1", "later"]


async def test_a_binary_handler_answers_bytes(probe_server: RunningServer) -> None:
    """A handler annotated with bytes takes binary frames, and what it returns goes out as bytes."""
    async with probe_server.socket("/probe/7/binary", probe_server.token()) as socket:
        await welcomed(socket)
        await socket.raw(b"\x00\xff\x01")
        assert await asyncio.wait_for(socket.connection.recv(), 5) == b"\x01\xff\x00"


async def test_bytes_are_refused_by_a_channel_of_text(probe_server: RunningServer) -> None:
    """A binary frame to a channel that takes none is answered with 415, and the socket lives."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.raw(b'{"type": "ping"}')
        refused = await socket.frame()
        assert refused["data"]["code"] == "unsupported_media_type"
        assert refused["data"]["status"] == 415
        assert (await socket.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["v1.probe", "v2.probe"], "v1.probe"),
        (["v2.probe", "v1.probe"], "v2.probe"),
        (["v9.probe", "v1.probe"], "v1.probe"),
        (["bearer", "TOKEN", "v2.probe"], "v2.probe"),
        (["v2.probe", "bearer", "TOKEN"], "v2.probe"),
        (["bearer", "TOKEN"], "bearer"),
        (["v9.probe"], None),
    ],
)
async def test_the_clients_order_chooses_the_subprotocol(
    probe_server: RunningServer, offered: list[str], chosen: str | None
) -> None:
    """The client's first spoken protocol is chosen, bearer only where nothing else is spoken."""
    token = probe_server.token()
    offered = [token if name == "TOKEN" else name for name in offered]
    header = None if "bearer" in offered else token
    async with probe_server.socket("/probe/7/binary", header, subprotocols=offered) as socket:
        assert socket.connection.subprotocol == chosen
        assert socket.connection.response is not None
        assert token not in str(socket.connection.response.headers)


async def test_two_people_of_one_room_are_told_apart(probe_server: RunningServer) -> None:
    """Ending somebody's subscription closes their sockets on that topic, and nothing else."""
    ann, bob = probe_server.token("1"), probe_server.token("2")
    async with (
        probe_server.socket(PATH, ann) as a1,
        probe_server.socket(PATH, ann) as a2,
        probe_server.socket("/probe/8/ws", ann) as elsewhere,
        probe_server.socket(PATH, bob) as b,
        probe_server.client() as http,
    ):
        for socket in (a1, a2, elsewhere, b):
            await welcomed(socket)
        assert (await http.post("/probe/7/revoke/1")).is_success
        for socket in (a1, a2):
            code, reason, frames = await socket.ending()
            assert (code, reason) == (4403, "forbidden")
            assert [frame["data"]["detail"] for frame in frames] == ["You were put out."]
        assert (await elsewhere.ask("ping"))["type"] == "pong"
        assert (await b.ask("ping"))["type"] == "pong"


async def test_a_frame_may_come_in_fragments(probe_server: RunningServer) -> None:
    """A message cut into fragments is one frame, and characters may be cut as well."""
    whole = json.dumps({"type": "say", "ref": 1, "data": {"text": "grüße"}}, ensure_ascii=False)
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        await socket.connection.send([whole[:9], "", whole[9:]])
        assert (await socket.frame())["data"]["text"] == "grüße"


early = APIRouter()


@early.websocket("/early/{room}")
class EarlyChannel(Channel):
    """Is told something while it is being authorised."""

    topic = Topic[Said]("early:{room}")
    hub: Hub
    room: Annotated[str, Path()]

    async def authorise(self) -> None:
        """Publish, as somebody else could at this moment."""
        address = self.address()
        assert address is not None
        self.hub.emit(address, Said(text="early", by=""))


async def test_what_is_published_before_the_welcome_comes_after_it(
    serve: Callable[..., RunningServer],
) -> None:
    """Welcome is first even for an event that comes right after subscribing, and none is lost."""
    async with serve(early).socket("/early/7") as socket:
        assert (await socket.frame())["type"] == "welcome"
        assert (await socket.frame())["data"]["text"] == "early"
