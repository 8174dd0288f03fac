"""The WebSocket protocol under the server, and peers that do not read."""

import asyncio
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket
from structlog.testing import capture_logs
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.core.errors import raises
from app.realtime import wire
from app.realtime.errors import SlowConsumer
from app.realtime.wire import NEEDED, WireProtocol, websocket_protocol
from tests.counting import Added
from tests.realtime.probe import Probe, Signal, settle, welcomed
from tests.server import DEADLINE, RunningServer
from tests.wire.raw import PING, TEXT, frame, handshake

PATH = "/probe/7/ws"
TEXT_OF_40_KB = "x" * 40_000

router = APIRouter(prefix="/wire")


class Told:
    """What the endpoints tell the test."""

    def __init__(self) -> None:
        self.full = Signal()
        self.ended = Signal()
        self.error: BaseException | None = None


told = Told()


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    told.__init__()  # type: ignore[misc]


@router.websocket("/floods")
async def floods(websocket: WebSocket) -> None:
    """Send without end, as one who trusts the client does."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(TEXT_OF_40_KB)
    except BaseException as error:
        told.error = error
        raise
    finally:
        told.ended.set()


@router.websocket("/leaves")
async def leaves(websocket: WebSocket) -> None:
    """Send more than the client takes, and return."""
    await websocket.accept()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await websocket.send_text(TEXT_OF_40_KB)
    told.ended.set()


@router.websocket("/aborts")
@raises(SlowConsumer)
async def aborts(websocket: WebSocket) -> None:
    """Cut the connection off when the first frame comes."""
    await websocket.accept()
    await websocket.receive()
    websocket.scope["duplex.abort"]()
    told.ended.set()


@router.websocket("/pings")
async def pings(websocket: WebSocket) -> None:
    """Send until the client takes no more, and wait."""
    await websocket.accept()
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await websocket.send_text(TEXT_OF_40_KB)
    told.full.set()
    await websocket.receive()
    told.ended.set()


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The server, which sends so much at once that a test need not send much."""
    return prepared(serve(router))


def prepared(server: RunningServer) -> RunningServer:
    """The server, whose kernel takes no more for a client on one machine than on another."""
    server._socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 65_536)
    return server


@contextmanager
def silent(server: RunningServer, path: str, token: str | None = None) -> Iterator[sockets.socket]:
    """A client that has shaken hands, and reads nothing more."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with sockets.socket() as client:
        client.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(handshake(path, **headers))
        yield client


def unsent(server: RunningServer) -> list[int]:
    """How many bytes wait for each WebSocket client."""
    return [
        each.transport.get_write_buffer_size()
        for each in server._server.server_state.connections
        if isinstance(each, WireProtocol)
    ]


async def cut_off(server: RunningServer) -> float:
    """Wait until the server has no WebSocket any more; the seconds that this takes."""
    started = time.monotonic()

    async def none() -> bool:
        return not unsent(server)

    async with asyncio.timeout(DEADLINE):
        await settle(none)
    return time.monotonic() - started


async def stuck(server: RunningServer) -> None:
    """Wait until the server has something that its client does not take."""

    async def is_stuck() -> bool:
        return any(unsent(server))

    await settle(is_stuck)


def resident() -> int:
    """The memory that this process, and so the server, has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_reader_that_stops_is_gone_within_ten_seconds(
    serve: Callable[..., RunningServer], serve_probe: Callable[..., RunningServer], probe: Probe
) -> None:
    """Its connection and its memory are given back; the others get every frame meanwhile."""
    server = prepared(serve_probe(ws_outbox_bytes=64 * len(TEXT_OF_40_KB)))
    server.app.include_router(router)
    async with server.socket(PATH, server.token("2")) as healthy, server.client() as http:
        await welcomed(healthy)
        with silent(server, "/wire/floods"), silent(server, PATH, server.token("3")):
            await stuck(server)
            started, before, slowest, heard = time.monotonic(), resident(), 0.0, 0
            while sum(map(bool, unsent(server))) or heard < 60:
                sent = time.monotonic()
                assert sent - started < 10
                await http.post("/probe/7/say", json={"text": TEXT_OF_40_KB})
                assert (await healthy.frame())["data"]["text"] == TEXT_OF_40_KB
                slowest, heard = max(slowest, time.monotonic() - sent), heard + 1
                assert resident() - before < 20 * 2**20
                await asyncio.sleep(0.05)
            assert slowest < 3
        await told.ended.wait()
        assert len(unsent(server)) == 1
        assert (await healthy.ask("ping"))["type"] == "pong"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer may leave things unread for half a second."""
    monkeypatch.setattr(wire, "UNREAD_SECONDS", 0.5)


@pytest.mark.usefixtures("quick")
async def test_who_sends_to_a_reader_that_stops_hears_of_its_end(server: RunningServer) -> None:
    """`send` does not wait for ever: it raises as for any client that has gone."""
    evicted = Added("duplex_evictions_total", reason="unread")
    with silent(server, "/wire/floods"):
        await told.ended.wait()
    assert type(told.error).__name__ == "WebSocketDisconnect"
    await cut_off(server)
    assert evicted() == 1


@pytest.mark.usefixtures("quick")
async def test_a_slow_reader_is_not_one_that_stops(server: RunningServer) -> None:
    """Whoever reads on, however little at once, is kept."""
    with silent(server, "/wire/floods") as client:
        await stuck(server)
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            assert await asyncio.to_thread(client.recv, 65_536)
            await asyncio.sleep(0.1)
        assert not told.ended.is_set
        assert unsent(server)


@pytest.mark.usefixtures("quick")
async def test_what_is_left_unread_does_not_keep_a_closed_connection(
    server: RunningServer,
) -> None:
    """A socket that is closed while its peer reads nothing is gone as soon."""
    with silent(server, "/wire/leaves"):
        await told.ended.wait()
        assert await cut_off(server) < 3


async def test_an_application_may_cut_its_client_off(server: RunningServer) -> None:
    """`scope["duplex.abort"]()` ends the connection at once, whatever waits."""
    async with server.socket("/wire/aborts") as socket:
        await socket.raw("now")
        assert (await socket.ending())[0] == 1006
    assert told.ended.is_set


async def test_no_pong_and_nothing_read_is_an_end_at_once(
    serve: Callable[..., RunningServer],
) -> None:
    """Where the ping times out, a peer that reads nothing is not waited for."""
    server = prepared(serve(router, ws_ping_seconds=0.5))
    with silent(server, "/wire/floods"):
        await stuck(server)
        assert await cut_off(server) < 4


async def test_pings_of_a_client_that_does_not_read_fill_no_memory(server: RunningServer) -> None:
    """Of their pongs one waits at most; and a client that reads on gets the newest."""
    with silent(server, "/wire/pings") as client:
        await told.full.wait()
        before = unsent(server)
        assert before[0] <= len(TEXT_OF_40_KB) + 10  # of what a program sends, one frame waits
        newest = b"the newest"
        flood = b"".join(frame(PING, b"p" * 125) for _ in range(1000))
        for _ in range(5):
            await asyncio.to_thread(client.sendall, flood)
        await asyncio.to_thread(client.sendall, frame(PING, newest) + frame(TEXT, b"done"))
        await told.ended.wait()  # the server has read everything
        assert unsent(server) == before
        client.settimeout(DEADLINE)
        assert await asyncio.to_thread(_reads, client, newest)


def _reads(client: sockets.socket, wanted: bytes) -> bool:
    """Whether these bytes come, at the end of all that waits."""
    seen = b""
    while wanted not in seen:
        received = client.recv(65_536)
        if not received:
            return False
        seen = seen[-200:] + received
    return True


async def test_a_ping_is_answered(server: RunningServer) -> None:
    """Whoever reads gets a pong for each ping."""
    async with server.socket("/wire/aborts") as socket:
        for _ in range(3):
            await asyncio.wait_for(await socket.connection.ping(), DEADLINE)


def test_the_servers_own_class_is_used() -> None:
    """On the uvicorn that is installed nothing is missing."""
    with capture_logs() as lines:
        assert websocket_protocol() is WireProtocol
    assert lines == []


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_another_uvicorn_is_used_as_it_is(missing: str) -> None:
    """Where it has not what is needed, its own class serves, and a line of the log says so."""
    namespace: dict[str, Any] = dict.fromkeys(NEEDED - {missing})
    namespace["__init__"] = lambda self: None
    with capture_logs() as lines:
        assert websocket_protocol(type("Other", (), namespace)) == "websockets-sansio"
    assert [(line["log_level"], line["missing"]) for line in lines] == [("warning", [missing])]


def test_a_class_of_another_kind_is_used_as_it_is() -> None:
    """A uvicorn without the class at all is one that has changed."""
    assert websocket_protocol(asyncio.Protocol) == "websockets-sansio"
    assert issubclass(WireProtocol, WebSocketsSansIOProtocol)
