"""Log-out: the session's tokens are refused from then on, and its sockets closed."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter

from app.core.auth import Admin
from tests import doors
from tests.features.accounts.people import (
    ADDRESS,
    Gate,
    begin,
    code,
    log_in,
    log_out,
    log_out_everywhere,
    me,
    refresh,
    sign_up,
)
from tests.server import RunningServer, Socket

pytestmark = pytest.mark.usefixtures("engine")

Operate = Callable[[str, str], Any]

router = APIRouter()
router.include_router(doors.router)


@router.get("/admin")
async def administer(user: Admin) -> None:
    """Nothing but to be an administrator."""


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """The service, with something to be connected to."""
    return serve(router)


async def opened(stack: AsyncExitStack, server: RunningServer, token: str) -> list[Socket]:
    """A channel's socket and a bare one."""
    return [
        await stack.enter_async_context(server.socket(path, token))
        for path in ("/channel", "/bare")
    ]


async def all_closed(sockets: list[Socket], seconds: float = 1) -> None:
    """All are closed within this time, with 4401."""
    async with asyncio.timeout(seconds):
        endings = [await socket.ending() for socket in sockets]
    assert {ending[:2] for ending in endings} == {(4401, "session_revoked")}


async def all_open(sockets: list[Socket]) -> None:
    """All answer."""
    async with asyncio.timeout(5):
        for socket in sockets:
            await (await socket.connection.ping())


async def is_refused(client: httpx2.AsyncClient, pair: dict[str, Any]) -> bool:
    """Whether neither token of a pair is good any more."""
    answer = await me(client, pair["access_token"])
    if answer.is_success:
        return False
    assert (answer.status_code, code(answer)) == (401, "session_revoked")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    return code(await refresh(client, pair["refresh_token"])) == "accounts.refresh_refused"


async def test_a_log_out_ends_tokens_and_sockets_of_its_session(server: RunningServer) -> None:
    """All its access tokens, within a second; the person's other session goes on."""
    async with server.client() as client, AsyncExitStack() as stack:
        first = await begin(client)
        second = (await refresh(client, first["refresh_token"])).json()
        elsewhere = (await log_in(client)).json()
        gone = await opened(stack, server, first["access_token"])
        gone += await opened(stack, server, second["access_token"])
        stays = await opened(stack, server, elsewhere["access_token"])
        await all_open([*gone, *stays])
        assert (await log_out(client, second["refresh_token"])).status_code == 204
        await all_closed(gone)
        assert (await me(client, first["access_token"])).status_code == 401
        assert await is_refused(client, second)
        await all_open(stays)
        assert (await refresh(client, elsewhere["refresh_token"])).status_code == 200


async def test_a_refresh_token_used_twice_ends_tokens_and_sockets(server: RunningServer) -> None:
    """Whoever has the copy is out as well, at once."""
    async with server.client() as client, AsyncExitStack() as stack:
        first = await begin(client)
        second = (await refresh(client, first["refresh_token"])).json()
        sockets = await opened(stack, server, second["access_token"])
        await all_open(sockets)
        assert code(await refresh(client, first["refresh_token"])) == "accounts.refresh_reused"
        await all_closed(sockets)
        assert await is_refused(client, second)


async def test_everywhere_is_every_session_of_the_person(server: RunningServer) -> None:
    """Also the one that asks; somebody else's go on, and signing in again works at once."""
    async with server.client() as client, AsyncExitStack() as stack:
        pairs = [await begin(client), (await log_in(client)).json(), (await log_in(client)).json()]
        await sign_up(client, "bob@example.com")
        other = (await log_in(client, "bob@example.com")).json()
        sockets: list[Socket] = []
        for pair in pairs:
            sockets += await opened(stack, server, pair["access_token"])
        stays = await opened(stack, server, other["access_token"])
        await all_open([*sockets, *stays])
        answer = await log_out_everywhere(client, pairs[0]["access_token"])
        assert (answer.status_code, answer.content) == (204, b"")
        await all_closed(sockets)
        for pair in pairs:
            assert await is_refused(client, pair)
        await all_open(stays)
        again = (await log_in(client)).json()
        assert (await me(client, again["access_token"])).status_code == 200
        twice = await log_out_everywhere(client, pairs[0]["access_token"])
        assert (twice.status_code, code(twice)) == (401, "session_revoked")
        assert (await me(client, again["access_token"])).status_code == 200
        nobody = await client.post("/api/v1/auth/logout/everywhere")
        assert (nobody.status_code, code(nobody)) == (401, "authentication_failed")


async def test_whoever_is_demoted_is_no_administrator_from_now_on(
    server: RunningServer, operate: Operate
) -> None:
    """Tokens that say so are refused and sockets closed; the session gets one without the role."""
    async with server.client() as client, AsyncExitStack() as stack:
        await begin(client)
        assert (await asyncio.to_thread(operate, "promote", ADDRESS)).exit_code == 0
        admin = (await log_in(client)).json()
        sockets = await opened(stack, server, admin["access_token"])
        await all_open(sockets)
        done = await asyncio.to_thread(operate, "demote", ADDRESS.upper())
        assert (done.exit_code, done.stdout) == (0, f"{ADDRESS.upper()} is no administrator.\n")
        await all_closed(sockets, 2)  # the command is another process: by the poll
        answer = await me(client, admin["access_token"])
        assert (answer.json()["code"], answer.json()["detail"]) == (
            "session_revoked",
            "Roles have changed: refresh the token.",
        )
        await _next_second()
        after = (await refresh(client, admin["refresh_token"])).json()
        assert (await me(client, after["access_token"])).json()["roles"] == []
        headers = {"Authorization": f"Bearer {after['access_token']}"}
        assert code(await client.get("/admin", headers=headers)) == "forbidden"


async def _next_second() -> None:
    """Wait until a token that is issued is of a later second: tokens tell whole ones."""
    await asyncio.sleep(1 - time.time() % 1)


async def test_a_log_in_under_way_gives_no_role_that_was_taken_meanwhile(
    server: RunningServer, operate: Operate
) -> None:
    """What a token says is decided when it is issued, not when the password is looked up."""
    gate = Gate(server)
    async with server.client() as client:
        await begin(client)
        await asyncio.to_thread(operate, "promote", ADDRESS)
        with gate.closed():
            attempt = asyncio.create_task(log_in(client))
            await asyncio.to_thread(gate.entered.wait, 10)
            await asyncio.to_thread(operate, "demote", ADDRESS)
            await _next_second()
        pair = (await attempt).json()
    assert server.app.state.tokens.verify(pair["access_token"]).roles == frozenset()


async def test_an_operator_signs_somebody_out(server: RunningServer, operate: Operate) -> None:
    """Every session of theirs; whoever has no account is named."""
    async with server.client() as client, AsyncExitStack() as stack:
        pairs = [await begin(client), (await log_in(client)).json()]
        sockets = await opened(stack, server, pairs[1]["access_token"])
        await all_open(sockets)
        done = await asyncio.to_thread(operate, "sign-out", ADDRESS)
        assert (done.exit_code, done.stdout) == (0, f"{ADDRESS} is signed out everywhere.\n")
        await all_closed(sockets, 2)
        for pair in pairs:
            assert await is_refused(client, pair)
        for command in ("sign-out", "demote"):
            done = await asyncio.to_thread(operate, command, "bob@example.com")
            assert done.exit_code == 1
            assert "There is no account of bob@example.com" in done.stderr
        await _next_second()
        again = (await log_in(client)).json()
        assert (await me(client, again["access_token"])).status_code == 200


async def test_no_refresh_outlives_a_log_out_everywhere(server: RunningServer) -> None:
    """Five refreshes race it: whatever pair comes out is of a session that has ended."""
    async with server.client() as client:
        first = await begin(client)
        pairs = [(await log_in(client)).json() for _ in range(5)]
        racing = [asyncio.create_task(refresh(client, each["refresh_token"])) for each in pairs]
        assert (await log_out_everywhere(client, first["access_token"])).status_code == 204
        for answer in await asyncio.gather(*racing):
            if answer.is_success:
                assert await is_refused(client, answer.json())
            else:
                assert code(answer) == "accounts.refresh_refused"
