"""A token that is refreshed or expires while its socket is open."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.realtime.probe import Probe, expired_token, welcomed
from tests.server import DEADLINE, RunningServer

PATH = "/probe/7/ws"


async def test_a_refresh_is_answered_with_the_new_expiry(probe_server: RunningServer) -> None:
    """A new token of the same person is taken, and the answer says when it expires."""
    old = probe_server.token(lifetime=timedelta(seconds=100))
    async with probe_server.socket(PATH, old) as socket:
        before = (await socket.frame())["data"]["expires_at"]
        reply = await socket.ask("auth.refresh", {"token": probe_server.token()})
    assert reply["type"] == "auth.refreshed"
    gained = datetime.fromisoformat(reply["data"]["expires_at"]) - datetime.fromisoformat(before)
    assert gained >= timedelta(seconds=799)


async def test_the_token_of_somebody_else_is_refused(probe_server: RunningServer) -> None:
    """A token of another person is refused, and the socket stays with who opened it."""
    async with probe_server.socket(PATH, probe_server.token("1")) as socket:
        await welcomed(socket)
        reply = await socket.ask("auth.refresh", {"token": probe_server.token("2")})
        assert reply["data"]["code"] == "realtime.subject_changed"
        await socket.send("say", {"text": "hi"})
        assert (await socket.until("said"))["data"]["by"] == "1"


async def test_an_anonymous_socket_takes_no_token(probe_server: RunningServer) -> None:
    """A socket that nobody signed in at refuses anybody's token."""
    async with probe_server.socket("/probe/open") as socket:
        await welcomed(socket)
        reply = await socket.ask("auth.refresh", {"token": probe_server.token()})
    assert reply["data"]["code"] == "realtime.subject_changed"


@pytest.mark.parametrize("token", ["", "not a token", "a.b.c", "x" * 10_000])
async def test_a_bad_token_is_refused(probe_server: RunningServer, token: str) -> None:
    """What is no token is refused, and the socket lives on the old one."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        reply = await socket.ask("auth.refresh", {"token": token})
        assert reply["data"]["code"] == "authentication_failed"
        assert (await socket.ask("ping"))["type"] == "pong"


async def test_an_expired_token_is_refused(probe_server: RunningServer) -> None:
    """An expired token is refused as such, and the socket lives on the old one."""
    expired = expired_token(probe_server)
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        reply = await socket.ask("auth.refresh", {"token": expired})
        assert reply["data"]["code"] == "token_expired"
        assert (await socket.ask("ping"))["type"] == "pong"


@pytest.mark.parametrize("data", [None, {}, {"token": 7}, {"token": "a", "more": 1}, "a", [1]])
async def test_a_refresh_of_the_wrong_shape_is_refused(
    probe_server: RunningServer, data: object
) -> None:
    """A refresh is validated as any message is."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        reply = await socket.ask("auth.refresh", data)
    assert reply["data"]["code"] == "invalid_parameter"
    assert reply["data"]["errors"][0]["loc"][0] == "data"


async def test_a_refresh_checks_the_guards_anew(probe_server: RunningServer, probe: Probe) -> None:
    """Who may not be here any more learns it with the refresh, and is closed."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        probe.refused.add("1")
        await socket.send("auth.refresh", {"token": probe_server.token()}, ref="r")
        code, reason, frames = await socket.ending()
    assert (code, reason) == (4403, "forbidden")
    assert [(frame["type"], frame["ref"]) for frame in frames] == [("error", "r")]
    assert frames[0]["data"]["detail"] == "The test refuses you."


async def test_a_refresh_gives_the_fields_new_values(
    probe_server: RunningServer, probe_table: Callable[[], list[str]]
) -> None:
    """What a handler knows of the person is what the newest token says."""
    async with probe_server.socket(PATH, probe_server.token(roles=["old"])) as socket:
        await welcomed(socket)
        assert (await socket.ask("write", {"text": "a"}))["data"]["by"] == "old"
        await socket.ask("auth.refresh", {"token": probe_server.token(roles=["new"])}, ref=2)
        assert (await socket.ask("write", {"text": "b"}, ref=3))["data"]["by"] == "new"
    assert probe_table() == ["a", "b"]


async def test_an_expired_token_closes_the_socket(probe_server: RunningServer) -> None:
    """When the token expires, the client is told, and closed with 4401."""
    token = probe_server.token(lifetime=timedelta(seconds=3))
    async with probe_server.socket(PATH, token) as socket:
        expires = datetime.fromisoformat((await socket.frame())["data"]["expires_at"])
        code, reason, frames = await socket.ending()
        late = datetime.now(UTC) - expires
    assert (code, reason) == (4401, "token_expired")
    assert [frame["data"]["code"] for frame in frames] == ["token_expired"]
    assert frames[0]["data"]["error_code"] == 109
    assert timedelta(0) <= late < timedelta(seconds=3)


async def test_a_refresh_moves_the_expiry(probe_server: RunningServer) -> None:
    """Of two sockets with one short token, the one that refreshes outlives it."""
    short = probe_server.token(lifetime=timedelta(seconds=3))
    async with (
        probe_server.socket(PATH, short) as kept,
        probe_server.socket(PATH, short) as left,
    ):
        await welcomed(kept)
        await welcomed(left)
        await kept.ask("auth.refresh", {"token": probe_server.token()})
        assert (await left.ending())[0] == 4401
        assert (await kept.ask("ping"))["type"] == "pong"


async def test_a_shorter_token_shortens_the_life(probe_server: RunningServer) -> None:
    """The newest token's expiry counts, also where it comes sooner."""
    async with probe_server.socket(PATH, probe_server.token()) as socket:
        await welcomed(socket)
        short = probe_server.token(lifetime=timedelta(seconds=3))
        await socket.ask("auth.refresh", {"token": short})
        async with asyncio.timeout(DEADLINE):
            assert (await socket.ending())[0] == 4401


async def test_the_leeway_delays_the_expiry(serve_probe: Callable[..., RunningServer]) -> None:
    """A socket lives as long as its token would be taken, the leeway included."""
    server = serve_probe(token_leeway_seconds=1)
    token = server.token(lifetime=timedelta(seconds=3))
    async with server.socket(PATH, token) as socket:
        expires = datetime.fromisoformat((await socket.frame())["data"]["expires_at"])
        assert (await socket.ending())[0] == 4401
        late = datetime.now(UTC) - expires
    assert timedelta(seconds=1) <= late < timedelta(seconds=4)
