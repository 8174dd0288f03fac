"""What a client may do too often, too much or too slowly, and what it is told then."""

import base64
import os
import socket as sockets
from collections.abc import Callable
from contextlib import suppress

import pytest
from websockets.exceptions import InvalidStatus

from tests.realtime.probe import Probe, settle, welcomed
from tests.server import RunningServer

PATH = "/probe/7/ws"
INVALID: tuple[str | bytes, ...] = (
    "not json",
    '{"type": "unheard"}',
    '{"type": "say", "data": {"text": ""}}',
    b"bytes",
)
TEXT = "x" * 40_000


async def test_too_many_invalid_frames_close_the_socket(
    serve_probe: Callable[..., RunningServer],
) -> None:
    """The last of so many invalid frames in a row, of whatever kind, closes with 4429."""
    server = serve_probe(ws_max_strikes=len(INVALID))
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        for frame in INVALID:
            await socket.raw(frame)
        code, reason, frames = await socket.ending()
    assert (code, reason) == (4429, "realtime.too_many_errors")
    assert [frame["data"]["code"] for frame in frames] == [
        "malformed_body",
        "realtime.unknown_type",
        "invalid_parameter",
        "unsupported_media_type",
        "realtime.too_many_errors",
    ]


async def test_no_frame_is_handled_after_the_last_strike(
    serve_probe: Callable[..., RunningServer], probe: Probe
) -> None:
    """Frames that waited behind the last invalid one are not handled."""
    server = serve_probe(ws_max_strikes=1)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait")
        await probe.entered.wait()
        await socket.raw("{")
        await socket.send("note", {"text": "after"})
        await (await socket.connection.ping())
        probe.release.set()
        assert (await socket.ending())[0] == 4429
    await probe.ended.wait()
    assert probe.handled == ["waited"]


@pytest.mark.parametrize("good", ["note", "ping", "fail"])
async def test_a_valid_frame_forgives_those_before(
    serve_probe: Callable[..., RunningServer], good: str
) -> None:
    """Only invalid frames in a row count: a valid one begins the count anew."""
    server = serve_probe(ws_max_strikes=3)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        data = {"how": "http"} if good == "fail" else None
        for _ in range(4):
            for _ in range(2):
                await socket.raw("{")
                assert (await socket.frame())["data"]["code"] == "malformed_body"
            await socket.send(good, data, ref=1)
            assert (await socket.frame())["ref"] == 1


async def test_an_overflowing_inbox_counts_as_invalid(
    serve_probe: Callable[..., RunningServer], probe: Probe
) -> None:
    """A client that goes on sending into a full inbox is closed."""
    server = serve_probe(ws_inbox_frames=1, ws_max_strikes=5)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait")
        await probe.entered.wait()
        for _ in range(1 + 5):
            await socket.send("note")
        code, reason, frames = await socket.ending()
    assert (code, reason) == (4429, "realtime.too_many_errors")
    assert [f["data"]["code"] for f in frames[:-1]] == ["realtime.inbox_overflow"] * 5


async def test_one_byte_over_the_limit_closes_with_1009(
    serve_probe: Callable[..., RunningServer],
) -> None:
    """A message as large as allowed is taken, one a byte larger closes with 1009."""
    server = serve_probe(ws_max_message_bytes=1024)
    frame = '{"type":"note","ref":1,"data":{"text":"%s"}}'
    fill = "x" * (1024 - len(frame) + 2)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.raw(frame % fill)
        assert (await socket.frame())["type"] == "ack"
        await socket.raw(frame % (fill + "x"))
        assert (await socket.ending())[0] == 1009


async def test_fragments_count_together(serve_probe: Callable[..., RunningServer]) -> None:
    """A message in fragments is as large as all of them together."""
    server = serve_probe(ws_max_message_bytes=1024)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.connection.send(["x" * 1000, "x" * 1000])
        assert (await socket.ending())[0] == 1009


async def test_as_many_sockets_as_set_are_held(serve_probe: Callable[..., RunningServer]) -> None:
    """One socket too many is denied, and taken once another has gone."""
    server = serve_probe(ws_max_connections=1)
    async with server.socket("/probe/open") as socket:
        await welcomed(socket)
        async with server.client() as http:
            headers = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
            }
            headers["Sec-WebSocket-Key"] = base64.b64encode(os.urandom(16)).decode()
            denied = await http.get("/probe/open", headers=headers)
        assert (denied.status_code, denied.json()["code"]) == (503, "overloaded")
        assert denied.headers["Retry-After"] == "5"

    async def another_is_taken() -> bool:
        with suppress(InvalidStatus):
            async with server.socket("/probe/open") as socket:
                await welcomed(socket)
                return True
        return False

    await settle(another_is_taken)


def silent_client(server: RunningServer, token: str) -> sockets.socket:
    """A client that shakes hands, and then never reads a byte."""
    client = sockets.socket()
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.sendall(
        f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Authorization: Bearer {token}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
    )
    return client


async def test_a_client_that_does_not_read_is_evicted(
    serve_probe: Callable[..., RunningServer], probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lets its outbox run over is closed with 1013 and cut off; the others hear all."""
    monkeypatch.setattr("app.server.UNREAD_MILLISECONDS", 2000)
    server = serve_probe(ws_outbox_bytes=4 * len(TEXT))
    # What the kernel would take for a client by itself depends on the machine.
    server._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 65_536)
    async with (
        server.socket(PATH, server.token("2"), max_queue=None) as healthy,
        server.client() as http,
    ):
        await welcomed(healthy)
        with silent_client(server, server.token("1")):

            async def subscribers() -> int:
                return int((await http.get("/probe/7/count")).json())

            async def both_are_here() -> bool:
                return await subscribers() == 2

            async def one_is_cut_off() -> bool:
                return (
                    len(server._server.server_state.connections) == 2
                )  # healthy's, and that of http

            await settle(both_are_here)
            for _ in range(50):  # 2 MB: more than the kernel takes for this client
                await http.post("/probe/7/say", json={"text": TEXT})
                assert (await healthy.frame())["data"]["text"] == TEXT
            await probe.ended.wait()
            assert probe.closed == [1013]
            assert await subscribers() == 1
            await settle(one_is_cut_off)
        assert (await healthy.ask("ping"))["type"] == "pong"


async def test_who_reads_late_is_told_why_it_was_closed(
    serve_probe: Callable[..., RunningServer], probe: Probe
) -> None:
    """A burst larger than the outbox closes with the registered error, which the client reads."""
    server = serve_probe(ws_outbox_bytes=4 * len(TEXT))
    async with server.socket(PATH, server.token()) as socket, server.client() as http:
        await welcomed(socket)
        await http.post("/probe/7/say", params={"times": 10}, json={"text": TEXT})
        code, reason, frames = await socket.ending()
    assert (code, reason) == (1013, "realtime.slow_consumer")
    assert [frame["type"] for frame in frames] == ["error"]  # what waited has been dropped
    assert frames[0]["data"]["code"] == "realtime.slow_consumer"
    await probe.ended.wait()
    assert probe.closed == [1013]
