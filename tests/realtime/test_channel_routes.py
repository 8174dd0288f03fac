"""A Channel as a route: FastAPI's own means work on it, seen by a client."""

from collections.abc import Callable
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query
from starlette.requests import HTTPConnection

from app.core.auth import CurrentUser
from app.core.errors import Forbidden, NotFound, raises
from app.core.schemas import Id
from app.realtime import Address, Channel, Hub, Message, Topic, on
from tests.realtime.probe import Probe, Said, denial, welcomed
from tests.server import RunningServer

Serve = Callable[..., RunningServer]


class WhoAmI(Message):
    """Ask what the channel knows."""

    type = "who_am_i"


class Known(Message):
    """What the channel knows."""

    type = "known"
    values: list[str | int | None]
    topic: str | None


async def greeting() -> str:
    return "the real one"


desks = Topic[Said]("desks:{desk}")


class DeskChannel(Channel):
    """Takes a path, a query and a header."""

    topic = desks
    desk: Id
    limit: Annotated[int, Query(ge=1)] = 5
    x_team: Annotated[str | None, Header()] = None
    greeting: Annotated[str, Depends(greeting)]

    @on
    async def who_am_i(self, message: WhoAmI) -> Known:
        """Tell."""
        address = self.address()
        return Known(
            values=[self.desk, self.limit, self.x_team, self.greeting],
            topic=address.name if address else None,
        )


def routes(channel: type[Channel], *paths: str, **options: object) -> APIRouter:
    router = APIRouter(**options)  # type: ignore[arg-type]
    for path in paths:
        router.websocket(path)(channel)
    return router


async def known(server: RunningServer, path: str, **headers: str) -> dict[str, object]:
    async with server.socket(path, headers=headers) as socket:
        await welcomed(socket)
        data: dict[str, object] = (await socket.ask("who_am_i"))["data"]
        return data


async def refusal(server: RunningServer, path: str, token: str | None = None) -> tuple[int, str]:
    status, _, problem = await denial(server, path, token)
    return status, problem["code"]


async def test_fields_are_filled_from_the_handshake(serve: Serve) -> None:
    """Path, query and header fill fields, and defaults those that are not sent."""
    server = serve(routes(DeskChannel, "/desks/{desk}"))
    sent = await known(server, "/desks/7?limit=9", **{"X-Team": "blue"})
    assert sent == {"values": [7, 9, "blue", "the real one"], "topic": "desks:7"}
    left_out = await known(server, "/desks/7")
    assert left_out["values"] == [7, 5, None, "the real one"]


async def test_a_wrong_parameter_is_refused(serve: Serve) -> None:
    """A query that is not valid is refused before accept, as it is on a route."""
    server = serve(routes(DeskChannel, "/desks/{desk}"))
    assert await refusal(server, "/desks/7?limit=0") == (422, "invalid_parameter")


@pytest.mark.parametrize("desk", ["007", "0", "-1", "x", "7.0", "%207", "9" * 30])
async def test_a_second_name_of_a_room_is_not_found(serve: Serve, desk: str) -> None:
    """What would be read as 7 and is not written so names nothing."""
    server = serve(routes(DeskChannel, "/desks/{desk}"))
    assert await refusal(server, f"/desks/{desk}") == (404, "not_found")


class LooseChannel(Channel):
    """Takes any whole number."""

    topic = desks
    desk: Annotated[int, Path()]


@pytest.mark.parametrize("desk", ["007", "+7", "%207", "7.0"])
async def test_a_loose_guard_lets_no_second_name_in(serve: Serve, desk: str) -> None:
    """Also where the guard reads more than one text as 7, only `7` is the topic's."""
    server = serve(routes(LooseChannel, "/desks/{desk}"))
    assert await refusal(server, f"/desks/{desk}") == (404, "not_found")


async def test_one_class_serves_many_paths(serve: Serve) -> None:
    """A channel may stand at two paths, of two routers, with prefixes in prefixes."""
    outer = APIRouter(prefix="/outer")
    outer.include_router(routes(DeskChannel, "/a/{desk}", "/b/{desk}", prefix="/inner"))
    server = serve(routes(DeskChannel, "/desks/{desk}"), outer)
    for path in ("/desks/1", "/outer/inner/a/2", "/outer/inner/b/3"):
        assert (await known(server, path))["topic"] == f"desks:{path[-1]}"


async def test_dependencies_can_be_overridden(serve: Serve) -> None:
    """`dependency_overrides` replaces a dependency of a channel, at the handshake and after."""
    server = serve(routes(DeskChannel, "/desks/{desk}"))

    async def another() -> str:
        return "the test's"

    server.app.dependency_overrides[greeting] = another
    assert (await known(server, "/desks/7"))["values"] == [7, 5, None, "the test's"]


class SelfAddressed(Channel):
    """Names its topic itself."""

    topic = desks
    user: CurrentUser
    hub: Hub

    def address(self) -> Address[Said]:
        """The desk of whoever is signed in; the person `lost` has none."""
        if self.user.subject == "lost":
            raise NotFound("You have no desk.")
        return desks.at(desk=self.user.subject)

    @on
    async def who_am_i(self, message: WhoAmI) -> None:
        """Tell the topic."""
        self.hub.emit(self.address(), Said(text="here"))


async def test_an_address_of_its_own(serve: Serve) -> None:
    """A channel that overrides `address` hears the topic that it names."""
    server = serve(routes(SelfAddressed, "/mine"))
    async with server.socket("/mine", server.token("42")) as socket:
        await welcomed(socket)
        await socket.send("who_am_i")
        assert (await socket.frame())["topic"] == "desks:42"
    assert await refusal(server, "/mine", server.token("lost")) == (404, "not_found")


class Gate:
    """A router's dependency that the test can shut."""

    def __init__(self, exc: Exception) -> None:
        self.exc = exc
        self.shut_after = 1000

    @raises(Forbidden)
    async def __call__(self, connection: HTTPConnection) -> None:
        """Count down, then fail."""
        if self.shut_after <= 0:
            raise self.exc
        self.shut_after -= 1


@pytest.mark.parametrize("exc", [Forbidden("Shut."), HTTPException(403, "Shut.")])
@pytest.mark.parametrize("passes", [0, 1])
async def test_a_routers_dependencies_guard_its_channels(
    serve: Serve, passes: int, exc: Exception
) -> None:
    """What guards a router guards its channels, and is asked again right after subscribing."""
    gate = Gate(exc)
    router = APIRouter()
    guards = [Depends(gate.__call__)]
    router.include_router(routes(DeskChannel, "/desks/{desk}"), dependencies=guards)
    server = serve(router)
    gate.shut_after = passes
    assert await refusal(server, "/desks/7") == (403, "forbidden")


async def test_a_routers_dependencies_are_asked_again_on_refresh(serve: Serve) -> None:
    """What guards a router is asked again when the token is refreshed."""
    gate = Gate(Forbidden("Shut."))
    router = routes(SelfAddressed, "/mine", dependencies=[Depends(gate.__call__)])
    server = serve(router)
    async with server.socket("/mine", server.token("1")) as socket:
        await welcomed(socket)
        gate.shut_after = 0
        await socket.send("auth.refresh", {"token": server.token("1")})
        assert (await socket.ending())[:2] == (4403, "forbidden")


@pytest.mark.parametrize("browser", [False, True])
async def test_authorise_is_asked_before_anybody_is_let_in(
    probe_server: RunningServer, probe: Probe, browser: bool
) -> None:
    """What `authorise` raises at the handshake refuses it, and leaves no subscriber."""
    probe.fail_in["authorise"] = Forbidden("Not you.")
    path, token = "/probe/9/ws", probe_server.token()
    if browser:
        async with probe_server.browser_socket(path, token) as socket:
            code, reason, frames = await socket.ending()
        assert (code, reason, frames[0]["type"], len(frames)) == (4403, "forbidden", "error", 1)
    else:
        assert await refusal(probe_server, path, token) == (403, "forbidden")
    async with probe_server.client() as http:
        assert (await http.get("/probe/9/count")).json() == 0
    assert probe.closed == []


class Declaring(Channel):
    """Declares what its hooks raise, where they raise it."""

    @raises(Forbidden)
    async def opened(self) -> None:
        """Refuse everybody."""
        raise Forbidden("Not you.")


async def test_a_hook_declares_what_it_raises(serve: Serve) -> None:
    """`@raises` on a hook declares the error as it does on a guard or a handler."""
    server = serve(routes(Declaring, "/declaring"))
    async with server.socket("/declaring") as socket:
        assert (await socket.ending())[:2] == (4403, "forbidden")


class Silent(Channel):
    """Declares nothing."""

    async def opened(self) -> None:
        """Refuse everybody."""
        raise Forbidden("Not you.")


@pytest.mark.parametrize(("environment", "code"), [("test", 1011), ("development", 4403)])
async def test_what_is_not_declared_fails_under_test(
    serve: Serve, environment: str, code: int
) -> None:
    """Under test an error that nothing declares is unexpected; elsewhere it is what it is."""
    server = serve(routes(Silent, "/silent"), environment=environment)
    async with server.socket("/silent") as socket:
        assert (await socket.ending())[0] == code
