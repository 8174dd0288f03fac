"""The end of the server: who is told what, what still finishes, and how long it takes."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
from fastapi import APIRouter, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.realtime import Channel, Message, on
from tests.conftest import changed_settings
from tests.process import PROGRAM, Process, running, told_twice
from tests.realtime.probe import Signal, settle
from tests.realtime.test_wire import prepared, silent, stuck
from tests.server import RunningServer
from tests.wire.raw import CLOSE, frame

Serve = Callable[..., RunningServer]

router = APIRouter(prefix="/drain")


class Stage:
    """What the endpoints and the test tell each other."""

    def __init__(self) -> None:
        self.entered = Signal()
        self.released = Signal()


stage = Stage()


@pytest.fixture(autouse=True)
def _new_stage() -> None:
    stage.__init__()  # type: ignore[misc]


@router.get("/slow")
async def slow() -> str:
    """Wait for the test."""
    stage.entered.set()
    await stage.released.wait()
    return "done"


@router.websocket("/bare")
async def bare(websocket: WebSocket) -> None:
    """Wait for the client."""
    await websocket.accept()
    await websocket.receive()


@router.websocket("/lingers")
async def lingers(websocket: WebSocket) -> None:
    """Take one's time to clean up."""
    await websocket.accept()
    try:
        await websocket.receive()
    finally:
        stage.entered.set()
        await stage.released.wait()


@router.websocket("/floods")
async def floods(websocket: WebSocket) -> None:
    """Send without end."""
    await websocket.accept()
    while True:
        await websocket.send_text("x" * 40_000)


class Say(Message):
    """Something to say."""

    type = "say"
    text: str


@router.websocket("/channel")
class DrainChannel(Channel):
    """Repeats what it hears."""

    @on
    async def say(self, say: Say) -> Say:
        """Say it again."""
        return say


@asynccontextmanager
async def ending(server: RunningServer) -> AsyncIterator[asyncio.Task[None]]:
    """Tells the server to end; the task is done when it has."""
    end = asyncio.create_task(asyncio.to_thread(server.__exit__, None, None, None))
    try:
        yield end
    finally:
        await end


@pytest.mark.parametrize("path", ["/drain/bare", "/drain/channel"])
@pytest.mark.parametrize("browser", [True, False])
async def test_every_socket_is_told(serve: Serve, path: str, browser: bool) -> None:
    """A channel's client, and that of a bare function, gets the error frame, then 1012."""
    server = serve(router)
    opened = server.browser_socket if browser else server.socket
    async with opened(path) as socket, ending(server):
        code, reason, frames = await socket.ending()
    assert (code, reason) == (1012, "restarting")
    assert frames[-1]["type"] == "error"
    problem = frames[-1]["data"]
    assert (problem["code"], problem["status"], problem["retryable"]) == ("restarting", 503, True)
    assert problem["retry_after"] == 1


async def test_what_was_said_before_comes_before(serve: Serve) -> None:
    """Replies that wait are written before the farewell."""
    server = serve(router)
    async with server.socket("/drain/channel") as socket, server.client() as client:
        for number in range(20):
            await socket.send("say", {"text": str(number)})
        await socket.until("say")  # the first, so that all have come as far as the kernel
        await client.get("/health/live")
        async with ending(server):
            _, _, frames = await socket.ending()
    assert frames[-1]["type"] == "error"
    assert [frame["type"] for frame in frames[:-1]].count("say") == len(frames) - 1


async def test_meanwhile_rest_is_served_and_nothing_else(serve: Serve) -> None:
    """Until the sockets are gone: not ready, no handshake, and any other request is answered."""
    server = serve(router)
    async with (
        server.client() as client,
        server.socket("/drain/lingers") as socket,
        ending(server) as end,
    ):
        await stage.entered.wait()
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "health.not_ready")
        assert (await client.get("/health/live")).status_code == 200
        for origin in (None, server.url):
            with pytest.raises(InvalidStatus) as refused:
                async with server.socket("/drain/channel", origin=origin):
                    pass
            denied = refused.value.response
            assert (denied.status_code, denied.headers["Retry-After"]) == (503, "1")
            assert json.loads(denied.body or b"")["code"] == "restarting"
        assert not end.done()
        stage.released.set()
        assert (await socket.ending())[:2] == (1012, "restarting")
    async with server.client() as client:
        with pytest.raises(httpx2.ConnectError):
            await client.get("/health/live")


async def test_a_load_balancer_has_time_to_look(serve: Serve) -> None:
    """For DRAIN_SECONDS the process is not ready, and its sockets go on."""
    server = serve(router, drain_seconds=1)
    async with (
        server.client() as client,
        server.socket("/drain/channel") as socket,
        ending(server),
    ):
        while (await client.get("/health/ready")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await socket.ask("say", {"text": "still here"}))["type"] == "say"
        assert (await socket.ending())[:2] == (1012, "restarting")


async def test_nobody_keeps_a_connection_to_what_ends(serve: Serve) -> None:
    """A proxy that kept one could send a request as it is closed, and lose it."""
    server = serve(router, drain_seconds=1)
    async with server.client() as client:
        assert "Connection" not in (await client.get("/health/live")).headers
        async with ending(server):
            while (await client.get("/health/ready")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # The last one may have begun before the end did.
            answer = await client.get("/health/ready")
            assert answer.headers.get_list("Connection") == ["close"]


LAST = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


async def test_who_connected_before_the_end_may_ask(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is given up, and a connection that has sent nothing yet is still answered."""
    monkeypatch.setattr("app.server.FIRST_REQUEST_SECONDS", 5)
    server = serve(router)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with server.client() as client:
        await client.get("/health/live")  # so that the one before is accepted too
    async with ending(server):
        with suppress(OSError):
            while True:  # until it listens no longer
                _, other = await asyncio.open_connection("127.0.0.1", server.port)
                other.close()
                await other.wait_closed()
        writer.write(LAST)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_who_waits_to_be_accepted_is(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has connected them already: closed now, the address would reset them."""
    waiting = threading.Event()

    async def drain(*_: object) -> None:
        stage.entered.set()
        waiting.wait(10)  # the loop accepts nobody meanwhile

    monkeypatch.setattr("app.server.DuplexServer._drain", drain)
    server = serve(router)
    async with ending(server):
        await stage.entered.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LAST)
        waiting.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_request_in_flight_finishes(serve: Serve) -> None:
    """It has its answer, though it takes longer than the sockets do to end."""
    server = serve(router)
    async with server.client() as client, server.socket("/drain/bare") as socket:
        request = asyncio.create_task(client.get("/drain/slow"))
        await stage.entered.wait()
        async with ending(server) as end:
            assert (await socket.ending())[0] == 1012
            assert not end.done()
            stage.released.set()
            assert (await request).json() == "done"


async def test_a_client_that_does_not_read_is_not_waited_for(serve: Serve) -> None:
    """The server ends within SHUTDOWN_SECONDS; the others are told as always."""
    server = prepared(serve(router, shutdown_seconds=2))
    with silent(server, "/drain/floods"):
        async with server.socket("/drain/channel") as socket:
            await stuck(server)
            started = time.monotonic()
            async with ending(server):
                assert (await socket.ending())[:2] == (1012, "restarting")
                assert time.monotonic() - started < 1.9
    assert time.monotonic() - started < 5  # with the time that a thread takes


async def test_a_client_that_is_leaving_is_not_waited_for(serve: Serve) -> None:
    """One that has sent its close frame, and does not read ours, keeps nothing up."""
    server = prepared(serve(router, shutdown_seconds=2))

    async def closing() -> bool:
        return any(each.transport.is_closing() for each in server._server.server_state.connections)

    with silent(server, "/drain/floods") as client:
        await stuck(server)
        client.sendall(frame(CLOSE, (1000).to_bytes(2, "big")))
        await settle(closing)
        async with ending(server):
            pass


async def test_many_sockets_are_ended_one_after_the_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clients come back spread out; a few are ended without any delay."""
    monkeypatch.setattr("app.server.ENDED_PER_SECOND", 20)
    server = serve(router)
    ends: list[float] = []

    async def stay() -> None:
        async with server.socket("/drain/bare") as socket:
            joined.release()
            assert (await socket.ending())[0] == 1012
            ends.append(time.monotonic())

    joined = asyncio.Semaphore(0)
    clients = [asyncio.create_task(stay()) for _ in range(20)]
    for _ in clients:
        await joined.acquire()
    async with ending(server):
        await asyncio.gather(*clients)
    assert 0.7 < ends[-1] - ends[0] < 3


async def test_the_spread_keeps_to_half_of_the_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, half of SHUTDOWN_SECONDS is for them to close in."""
    monkeypatch.setattr("app.server.ENDED_PER_SECOND", 0.1)
    server = serve(router, shutdown_seconds=2)
    async with server.socket("/drain/bare") as one, server.socket("/drain/bare") as two:
        started = time.monotonic()
        async with ending(server):
            assert (await one.ending())[0] == (await two.ending())[0] == 1012
            assert time.monotonic() - started < 1.9


def test_no_socket_takes_no_time(serve: Serve) -> None:
    """Ctrl-C in development is answered at once."""
    with RunningServer(changed_settings(serve().settings, {})):
        started = time.monotonic()
    assert time.monotonic() - started < 3


# What only a process shows: its exit code, and signals.


def test_a_second_signal_ends_at_once() -> None:
    """A request that would take longer is cut, and the exit code tells of the signal."""
    with running(SHUTDOWN_SECONDS="30") as process:
        asyncio.run(told_twice(process))
        assert process.ended() == 128 + signal.SIGTERM, process.output
        assert "Traceback" not in process.output


def test_a_request_that_takes_too_long_is_cut() -> None:
    """It is told so in time for SHUTDOWN_SECONDS to be kept."""
    with running(SHUTDOWN_SECONDS="3") as process:
        asyncio.run(_waited_for_long(process))
        assert process.ended() == 0, process.output
        assert "Traceback" not in process.output


async def _waited_for_long(process: Process) -> None:
    async with httpx2.AsyncClient(base_url=process.url) as client:
        request = asyncio.create_task(client.get("/probe/waits?seconds=60", timeout=60))
        await asyncio.to_thread(process.wrote, "It waits.")
        started = time.monotonic()
        process.ask_to_end(signal.SIGTERM)
        answer = await request
        assert 1 < time.monotonic() - started < 3
    assert (answer.status_code, answer.json()["code"]) == (503, "restarting")


#: Does not wait so long for a process that does not end as it should.
IMPATIENT = PROGRAM.replace(
    "main()", "from app import server\nserver.OVERTIME_SECONDS = 0.5\nmain()"
)


def test_a_function_that_cannot_be_ended_is_no_reason_to_stay() -> None:
    """Where something holds the event loop, the process ends all the same and names it."""
    with running(program=IMPATIENT, SHUTDOWN_SECONDS="1") as process:
        asyncio.run(_blocked(process, lines=1))
        started = time.monotonic()
        assert process.ended() == 1
        assert time.monotonic() - started < 10
        assert "in blocks" in process.output


def test_a_log_that_nobody_reads_is_no_reason_to_stay() -> None:
    """Where not even the name can be written, the kernel ends the process."""
    with running(program=IMPATIENT, SHUTDOWN_SECONDS="1") as process:
        asyncio.run(_blocked(process, lines=100_000))
        started = time.monotonic()
        assert process.exit_code() == -signal.SIGALRM
        assert time.monotonic() - started < 10


async def _blocked(process: Process, *, lines: int) -> None:
    async with connect(f"{process.ws_url}/probe/blocks", proxy=None) as socket:
        await socket.send(str(lines))
        await asyncio.to_thread(process.wrote, "It blocks.")
        process.ask_to_end(signal.SIGTERM)
