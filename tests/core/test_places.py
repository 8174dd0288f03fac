"""How many sockets one user and one address may hold, in one process."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, WebSocket
from starlette.websockets import WebSocketState
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser, Principal, current_user
from app.realtime import Channel
from tests.realtime.probe import denial, settle, welcomed
from tests.server import RunningServer

router = APIRouter(prefix="/places")
FORWARDED = "X-Forwarded-For"


@router.websocket("/channel")
class PlacesChannel(Channel):
    """Nothing but somebody signed in."""

    user: CurrentUser


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: CurrentUser) -> None:
    """The same without a channel."""
    await websocket.accept()
    await websocket.send_json({"type": "welcome"})
    await websocket.receive()


async def proved_late(websocket: WebSocket) -> Principal:
    """Whoever the first frame's token names."""
    if websocket.application_state == WebSocketState.CONNECTING:
        await websocket.accept()
        return await current_user(websocket, await websocket.receive_text())
    principal: Principal = websocket.state.principal
    return principal


@router.websocket("/open")
async def for_anybody(websocket: WebSocket) -> None:
    """Nobody has to sign in."""
    await websocket.accept()
    await websocket.send_json({"type": "welcome"})
    await websocket.receive()


async def is_full(server: RunningServer, path: str, detail: str, **kwargs: object) -> None:
    """One more is denied, a page's as well as a program's."""
    for origin in (None, server.url):
        status, headers, problem = await denial(server, path, origin=origin, **kwargs)  # type: ignore[arg-type]
        assert (status, problem["code"]) == (429, "too_many_connections")
        assert (problem["retryable"], problem["detail"]) == (True, detail)
        assert headers["Retry-After"] == str(problem["retry_after"]) == "5"


async def has_room_again(server: RunningServer, path: str, token: str | None = None) -> None:
    """Once the others have gone, another is taken."""

    async def taken() -> bool:
        with suppress(InvalidStatus):
            async with server.socket(path, token) as socket:
                await welcomed(socket)
                return True
        return False

    await settle(taken)


@pytest.mark.parametrize("path", ["/places/channel", "/places/bare"])
async def test_a_user_holds_as_many_sockets_as_set(
    serve: Callable[..., RunningServer], path: str
) -> None:
    """One too many is denied whatever kind of endpoint it is; somebody else is let in."""
    server = serve(router, ws_max_per_user=2)
    async with server.socket(path, server.token("1")) as one:
        await welcomed(one)
        async with server.browser_socket("/places/bare", server.token("1")) as two:
            await welcomed(two)
            await is_full(server, path, "See WS_MAX_PER_USER.", token=server.token("1"))
            async with server.socket(path, server.token("2")) as other:
                await welcomed(other)
        await has_room_again(server, path, server.token("1"))


@router.websocket("/late/channel")
class LateChannel(Channel):
    """Somebody who proves it in the first frame."""

    user: Annotated[Principal, Depends(proved_late)]


@router.websocket("/late/bare")
async def late(websocket: WebSocket, user: Annotated[Principal, Depends(proved_late)]) -> None:
    """The same without a channel."""
    await websocket.send_json({"type": "welcome"})
    await websocket.receive()


@pytest.mark.parametrize("path", ["/places/late/channel", "/places/late/bare"])
async def test_who_is_known_late_is_closed(serve: Callable[..., RunningServer], path: str) -> None:
    """Where it was accepted before anybody knew whose it is, the one too many is closed."""
    server = serve(router, ws_max_per_user=1)
    async with server.socket(path) as one:
        await one.raw(server.token("1"))
        await welcomed(one)
        async with server.socket(path) as two:
            await two.raw(server.token("1"))
            code, reason, frames = await two.ending()
            assert (code, reason) == (4429, "too_many_connections")
            assert [frame["data"]["code"] for frame in frames] == ["too_many_connections"]
        async with server.socket(path) as other:
            await other.raw(server.token("2"))
            await welcomed(other)


async def test_nobody_in_particular_holds_any_number(serve: Callable[..., RunningServer]) -> None:
    """Whoever is not signed in is no user."""
    server = serve(router, ws_max_per_user=1)
    async with server.socket("/places/open") as one, server.socket("/places/open") as two:
        await welcomed(one)
        await welcomed(two)


async def test_an_address_holds_as_many_sockets_as_set(
    serve: Callable[..., RunningServer],
) -> None:
    """Whoever they are; another address, as a proxy tells it, is let in."""
    server = serve(router, ws_max_per_address=2)
    async with server.socket("/places/channel", server.token("1")) as one:
        await welcomed(one)
        async with server.socket("/places/open") as two:
            await welcomed(two)
            await is_full(
                server, "/places/channel", "See WS_MAX_PER_ADDRESS.", token=server.token("2")
            )
            elsewhere = {FORWARDED: "2001:db8::1"}
            neighbour = {FORWARDED: "2001:db8::2"}
            async with (
                server.socket("/places/open", headers=elsewhere) as three,
                server.socket("/places/open", headers=neighbour) as four,
            ):
                await welcomed(three)
                await welcomed(four)
                await is_full(server, "/places/open", "See WS_MAX_PER_ADDRESS.", headers=elsewhere)
        await has_room_again(server, "/places/open")
