"""Nonsense below the level of messages: the server survives, and others do not notice."""

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator

import pytest

from app.core.observability import _is_worth_a_line
from tests.realtime.probe import Probe, settle, welcomed
from tests.server import RunningServer
from tests.wire.raw import CLOSE, PING, PONG, TEXT, frame, handshake, raw_client, raw_socket

PATH = "/probe/open"


@pytest.fixture
async def server(probe_server: RunningServer) -> AsyncIterator[RunningServer]:
    """The server, and somebody connected to it who must notice nothing."""
    async with probe_server.socket(PATH) as bystander:
        await welcomed(bystander)
        yield probe_server
        assert (await bystander.ask("ping"))["type"] == "pong"


NONSENSE = {
    "unmasked": (frame(TEXT, b"{}", masked=False), 1002),
    "reserved bit 1": (frame(TEXT, b"{}", first=0xC0), 1002),
    "reserved bit 2": (frame(TEXT, b"{}", first=0xA0), 1002),
    "reserved bit 3": (frame(TEXT, b"{}", first=0x90), 1002),
    "reserved opcode 3": (frame(0x3, b"{}"), 1002),
    "reserved opcode 11": (frame(0xB), 1002),
    "fragmented ping": (frame(PING, first=0), 1002),
    "fragmented close": (frame(CLOSE, first=0), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(0x0, b"{}"), 1002),
    "text within text": (frame(TEXT, b"{", first=0) + frame(TEXT, b"}"), 1002),
    "bad UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "overlong UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "half a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code 0": (frame(CLOSE, struct.pack("!H", 0)), 1002),
    "close code 1004": (frame(CLOSE, struct.pack("!H", 1004)), 1002),
    "close code 1005": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "close code 1006": (frame(CLOSE, struct.pack("!H", 1006)), 1002),
    "close code 2999": (frame(CLOSE, struct.pack("!H", 2999)), 1002),
    "close code 65535": (frame(CLOSE, struct.pack("!H", 65535)), 1002),
    "a close reason in bad UTF-8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    "an announced length of 2**63": (b"\x81\xff" + b"\xff" * 8, 1009),
    "an announced length over the limit": (b"\x81\xff" + struct.pack("!Q", 65_537), 1009),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_closes_its_own_socket(server: RunningServer, name: str) -> None:
    """What RFC 6455 forbids closes the socket with the code it names, and no other socket."""
    data, code = NONSENSE[name]
    async with raw_socket(server, PATH) as client:
        await client.send(data)
        assert await client.close_code() == code


async def test_control_frames_may_come_between_fragments(server: RunningServer) -> None:
    """A ping between two fragments is answered, and the message still comes whole."""
    async with raw_socket(server, PATH) as client:
        await client.send(frame(TEXT, b'{"type":', first=0) + frame(PING, b"here"))
        assert await client.frame() == (PONG, b"here")
        await client.send(frame(0x0, b'"ping"}'))
        assert await client.frame() == (TEXT, b'{"type":"pong"}')


async def test_a_pong_nobody_asked_for_is_ignored(server: RunningServer) -> None:
    """An unsolicited pong changes nothing (RFC 6455 section 5.5.3)."""
    async with raw_socket(server, PATH) as client:
        await client.send(frame(PONG, b"x") + frame(TEXT, b'{"type":"ping"}'))
        assert await client.frame() == (TEXT, b'{"type":"pong"}')


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_good_close_is_echoed(server: RunningServer, code: int) -> None:
    """A close that is allowed is answered with the same code."""
    async with raw_socket(server, PATH) as client:
        await client.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
        assert await client.close_code() == code


async def test_frames_behind_a_close_are_not_handled(server: RunningServer, probe: Probe) -> None:
    """What a client sends after its close frame is ignored (RFC 6455 section 5.5.1)."""
    token = server.token()
    async with raw_client(server) as client:
        await client.send(handshake("/probe/7/ws", authorization=f"Bearer {token}"))
        assert (await client.response())[0] == 101
        note = frame(TEXT, b'{"type": "note", "data": {"text": "late"}}')
        await client.send(frame(CLOSE, struct.pack("!H", 1000)) + note)
        assert await client.close_code() == 1000
    await probe.ended.wait()
    assert probe.handled == []


async def test_a_connection_cut_in_a_frame_is_let_go(server: RunningServer) -> None:
    """A client that vanishes in the middle of a frame leaves nothing behind."""
    async with raw_socket(server, PATH) as client:
        await client.send(frame(TEXT, b"x" * 1000)[:500])
        client.writer.transport.abort()

    async def one_is_left() -> bool:
        async with server.client() as http:
            return len((await http.get("/probe/tasks")).json()) == 4  # the bystander's

    await settle(one_is_left)


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"sec_websocket_version": "12"}, 400, "malformed_request"),
        ({"sec_websocket_version": None}, 400, "malformed_request"),
        ({"sec_websocket_key": None}, 400, "malformed_request"),
        ({"sec_websocket_key": "short"}, 400, "malformed_request"),
        ({"sec_websocket_key": "!" * 24}, 400, "malformed_request"),
        ({"method": "POST"}, 400, "malformed_request"),
        ({"upgrade": "h2c"}, 404, "not_found"),
        ({"connection": "keep-alive"}, 404, "not_found"),
    ],
)
async def test_a_wrong_handshake_is_refused(
    server: RunningServer, changed: dict[str, str | None], status: int, code: str
) -> None:
    """A request that does not open a WebSocket gets a registered error."""
    async with raw_client(server) as client:
        await client.send(handshake(PATH, **changed))
        found, head = await client.response()
        assert (found, b"application/problem+json" in head) == (status, True)
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        assert json.loads(await client.reader.readexactly(size))["code"] == code


async def test_a_frame_before_the_handshake_is_no_frame(server: RunningServer) -> None:
    """Bytes of a frame where a request belongs are a bad request."""
    async with raw_client(server) as client:
        await client.send(frame(TEXT, b'{"type": "ping"}') + b"\r\n\r\n")
        assert (await client.response())[0] == 400


async def test_a_frame_sent_with_the_handshake_is_lost(server: RunningServer) -> None:
    """A client has to wait for the answer to its handshake (RFC 6455 section 4.1)."""
    early, late = (frame(TEXT, b'{"type":"ping","ref":%d}' % ref) for ref in (1, 2))
    async with raw_client(server) as client:
        await client.send(handshake(PATH) + early)
        assert (await client.response())[0] == 101
        assert b'"welcome"' in (await client.frame())[1]
        await client.send(late)
        assert await client.frame() == (TEXT, b'{"type":"pong","ref":2}')


async def test_a_frame_of_who_is_refused_is_never_handled(
    server: RunningServer, probe: Probe
) -> None:
    """A frame sent before authentication has failed is handled neither before nor after it."""
    note = frame(TEXT, b'{"type": "note"}')
    async with raw_client(server) as client:
        await client.send(handshake("/probe/7/ws", authorization="Bearer no") + note)
        assert (await client.response())[0] == 401
        await client.rest()
    assert (probe.handled, probe.closed) == ([], [])


async def test_many_at_once_disturb_nobody(server: RunningServer) -> None:
    """A hundred clients that talk nonsense at once are all closed."""

    async def nonsense(data: bytes, code: int) -> None:
        async with raw_socket(server, PATH) as client:
            await client.send(data)
            assert await client.close_code() == code

    cases = list(NONSENSE.values()) * 4
    await asyncio.gather(*(nonsense(data, code) for data, code in cases))


def test_a_fault_of_a_client_is_no_line_of_the_log() -> None:
    """What any client can do as often as it likes fills no log with tracebacks."""
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "%s", ("",), None)
    for message in (
        "Invalid UTF-8 sequence received from client.",
        "ASGI callable returned without completing handshake.",
    ):
        record.args = (message,)
        assert not _is_worth_a_line(record)
    record.args = ("Exception in ASGI application",)
    assert _is_worth_a_line(record)
