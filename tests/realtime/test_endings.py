"""How a connection ends, whoever ends it, and what is left of it then."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import HTTPException
from sqlalchemy import event
from sqlalchemy.util import await_only

from app.core.errors import AppError, Forbidden, Unavailable
from app.realtime.connection import Connection
from tests.realtime.probe import FAILURES, Probe, settle, welcomed
from tests.server import RunningServer

PATH = "/probe/7/ws"
Rows = Callable[[], list[str]]


@pytest.mark.parametrize("how", [how for how, exc in FAILURES.items() if isinstance(exc, AppError)])
async def test_an_error_of_a_handler_is_answered(probe_server: RunningServer, how: str) -> None:
    """Inside a handler an error answers, Unavailable too, and the socket lives."""
    error = FAILURES[how]
    assert isinstance(error, AppError)
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        answer = await socket.ask("fail", {"how": how})
        assert answer["type"] == "error"
        assert answer["data"]["code"] == error.code
        assert answer["data"]["status"] == error.status
        assert (await socket.ask("ping", ref=2))["type"] == "pong"


async def test_a_crash_closes_with_1011(probe_server: RunningServer, probe: Probe) -> None:
    """The unexpected is told with its ref and a request id, and closes the socket."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("fail", {"how": "crash"}, ref="c")
        code, reason, frames = await socket.ending()
        assert socket.connection.response is not None
        request_id = socket.connection.response.headers["X-Request-ID"]
    assert (code, reason) == (1011, "internal")
    assert [(frame["type"], frame["ref"]) for frame in frames] == [("error", "c")]
    assert frames[0]["data"]["error_code"] == 999
    assert frames[0]["data"]["request_id"] == request_id
    assert "secret of the code" not in str(frames)
    await probe.ended.wait()
    assert probe.closed == [1011]


async def test_no_frame_is_handled_after_a_crash(probe_server: RunningServer, probe: Probe) -> None:
    """Frames that waited behind the one that crashed are not handled."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait")
        await probe.entered.wait()
        await socket.send("fail", {"how": "crash"})
        await socket.send("note", {"text": "after"})
        await (await socket.connection.ping())  # all three are read
        probe.release.set()
        assert (await socket.ending())[0] == 1011
    await probe.ended.wait()
    assert probe.handled == ["waited"]


async def test_a_crash_is_nobody_elses(probe_server: RunningServer) -> None:
    """When one connection crashes, the others of its topic go on."""
    async with (
        probe_server.socket(PATH, probe_server.token("1")) as one,
        probe_server.socket(PATH, probe_server.token("2")) as two,
    ):
        await welcomed(one)
        await welcomed(two)
        await one.send("fail", {"how": "crash"})
        assert (await one.ending())[0] == 1011
        assert (await two.ask("say", {"text": "still here"}))["type"] == "said"


@pytest.mark.parametrize(
    ("exc", "code", "reason"),
    [
        (Forbidden("Not now."), 4403, "forbidden"),
        (Unavailable(), 1013, "unavailable"),
        (HTTPException(409), 4409, "http_error"),
        (RuntimeError("a secret"), 1011, "internal"),
    ],
)
async def test_an_error_of_opened_ends_the_socket(
    probe_server: RunningServer, probe: Probe, exc: Exception, code: int, reason: str
) -> None:
    """An error of `opened` is told after the welcome, and closes."""
    probe.fail_in["opened"] = exc
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        assert (await socket.ending())[:2] == (code, reason)
    await probe.ended.wait()
    assert probe.closed == [code]


async def test_no_frame_is_handled_after_opened_has_failed(
    probe_server: RunningServer, probe: Probe
) -> None:
    """A client that is not let in by `opened` has none of its frames handled."""
    probe.fail_in["opened"] = Forbidden()
    probe.hold_opened = True
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.send("note", {"text": "early"})
        await (await socket.connection.ping())  # it is read
        probe.release.set()
        assert (await socket.ending())[0] == 4403
    await probe.ended.wait()
    assert probe.handled == []


async def test_an_error_of_closed_is_only_logged(probe_server: RunningServer, probe: Probe) -> None:
    """An error of `closed` reaches the log and nobody else."""
    probe.fail_in["closed"] = RuntimeError("a secret")
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.connection.close(4321)
    await probe.ended.wait()
    assert probe.closed == [4321]
    assert await nothing_is_left(probe_server)


@pytest.mark.parametrize(
    "exc",
    [Forbidden("No longer."), HTTPException(403), Unavailable("Later."), RuntimeError("a secret")],
)
async def test_an_error_of_a_second_authorise_ends_the_socket(
    probe_server: RunningServer, probe: Probe, exc: Exception
) -> None:
    """Whatever `authorise` raises after a refresh ends the socket."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        probe.fail_in["authorise"] = exc
        await socket.send("auth.refresh", {"token": probe_server.token()}, ref="r")
        code, reason, frames = await socket.ending()
    assert code in (4403, 1013, 1011)
    assert [(frame["type"], frame["ref"]) for frame in frames] == [("error", "r")]
    assert frames[0]["data"]["code"] == reason


async def test_a_database_that_does_not_answer_says_nothing_of_the_client(
    serve_probe: Any, probe: Probe
) -> None:
    """Where the guards cannot tell, the client stays, and they are asked again."""
    server: RunningServer = serve_probe(ws_authorise_seconds=0.05)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        probe.fail_in["authorise"] = Unavailable("The database does not answer in time.")
        await settle(probe.has_been_asked(probe.asked + 2))
        probe.fail_in["authorise"] = Forbidden("No longer.")
        assert (await socket.ending())[0] == 4403


async def test_the_guards_are_asked_again_from_time_to_time(
    serve_probe: Any, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may no longer be here is told and closed, without a revocation and without a frame."""
    watch, watched = Connection._watch_guards, []

    def watch_guards(self: Connection) -> None:
        watched.append(self.id)
        watch(self)

    monkeypatch.setattr(Connection, "_watch_guards", watch_guards)
    server: RunningServer = serve_probe(ws_authorise_seconds=0.05)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await settle(probe.has_been_asked(3))
        assert (await socket.ask("ping"))["type"] == "pong"
        probe.refused.add("1")
        code, reason, frames = await socket.ending()
    assert (code, reason) == (4403, "forbidden")
    assert [(frame["type"], "ref" in frame) for frame in frames] == [("error", False)]
    assert frames[0]["data"]["detail"] == "The test refuses you."
    await probe.ended.wait()
    times = len(watched)
    await asyncio.sleep(0.15)
    assert len(watched) == times  # nobody looks after who has gone


async def test_the_guards_are_asked_between_two_frames(serve_probe: Any, probe: Probe) -> None:
    """A handler that is at work is not disturbed; what waited behind it is not handled."""
    server: RunningServer = serve_probe(ws_authorise_seconds=0.05)
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait", ref="w")
        await probe.entered.wait()
        probe.refused.add("1")
        asked = probe.asked
        await asyncio.sleep(0.15)
        assert probe.asked == asked
        await socket.send("note", {"text": "after"})
        await (await socket.connection.ping())
        probe.release.set()
        code, _, frames = await socket.ending()
    assert code == 4403
    assert [frame["type"] for frame in frames] == ["said", "error"]
    assert probe.handled == ["waited"]


async def test_the_code_of_the_client_reaches_closed(
    probe_server: RunningServer, probe: Probe
) -> None:
    """`closed` is called once, with the code that the client closed with."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        await socket.connection.close(4999, "bye")
    await probe.ended.wait()
    assert await nothing_is_left(probe_server)
    assert probe.closed == [4999]


async def test_a_disconnect_cancels_a_waiting_handler(
    probe_server: RunningServer, probe: Probe, probe_table: Rows
) -> None:
    """When the client goes, its handler is cancelled and the unit of work is rolled back."""
    async with probe_server.socket(PATH, probe_server.token()) as other:
        await welcomed(other)
        async with probe_server.socket(PATH, probe_server.token()) as socket:
            await welcomed(socket)
            await socket.send("write", {"text": "lost", "hold": True})
            await probe.entered.wait()
        await probe.cancelled.wait()
        await probe.ended.wait()
        assert probe_table() == []
        assert (await other.ask("ping"))["type"] == "pong"  # the next frame: nothing was told


async def test_a_commit_that_has_begun_is_finished(
    probe_server: RunningServer, probe: Probe, probe_table: Rows
) -> None:
    """A disconnect during COMMIT cancels neither it nor what comes after it."""
    database = probe_server.app.state.database.engine.sync_engine

    async def until_the_handler_is_cancelled() -> None:
        probe.entered.set()

        while not (probe.writer and probe.writer.cancelling()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def hold(connection: Any) -> None:
        await_only(until_the_handler_is_cancelled())

    async with probe_server.socket(PATH, probe_server.token("2")) as other:
        await welcomed(other)
        event.listen(database, "commit", hold)
        try:
            async with probe_server.socket(PATH, probe_server.token()) as socket:
                await welcomed(socket)
                await socket.send("write", {"text": "kept"})
                await probe.entered.wait()
            assert (await other.until("said"))["data"]["text"] == "kept"
        finally:
            event.remove(database, "commit", hold)
    await probe.cancelled.wait()
    assert probe_table() == ["kept"]


async def nothing_is_left(server: RunningServer, room: int = 7) -> bool:
    """True once the server has no task of a connection and no subscriber; fails if it keeps one."""
    async with server.client() as http:

        async def is_empty() -> bool:
            tasks = (await http.get("/probe/tasks")).json()
            subscribers = (await http.get(f"/probe/{room}/count")).json()
            return (tasks, subscribers) == ([], 0)

        await settle(is_empty)
    return True


async def test_fifty_connections_leave_nothing(probe_server: RunningServer) -> None:
    """After fifty connections, closed or cut, no task and no subscriber is left."""
    for number in range(50):
        async with probe_server.socket(PATH, probe_server.token()) as socket:
            await welcomed(socket)
            if number % 3 == 0:
                await socket.send("wait")
            if number % 2:
                socket.connection.transport.abort()
    assert await nothing_is_left(probe_server)


async def test_a_shutdown_closes_with_1012(serve_probe: Any, probe: Probe) -> None:
    """A server that ends closes its sockets with 1012, cancels what waits, and calls `closed`."""
    server: RunningServer = serve_probe()
    async with server.socket(PATH, server.token()) as socket:
        await welcomed(socket)
        await socket.send("wait")
        await probe.entered.wait()
        await asyncio.to_thread(server.__exit__, None, None, None)
        assert (await socket.ending())[0] == 1012
    assert probe.cancelled.is_set
    assert probe.closed == [1012]
