"""What provokes the errors of rooms."""

import httpx2

from app.features.rooms import errors
from tests.provoking import Problem, Provocation, answered, closed, denied, ended, framed
from tests.server import RunningServer

ALONE = "A channel has no message for it: who is in a room is changed over REST."


async def ask(
    server: RunningServer, subject: str, method: str, path: str, body: object = None
) -> httpx2.Response:
    """What somebody is answered below `/api/v1/rooms`."""
    async with server.client(server.token(subject)) as client:
        return await client.request(method, f"/api/v1/rooms{path}", json=body)


async def room(server: RunningServer, *members: str) -> str:
    """The path of a new room of Ann's, person 1, and of its other members."""
    created = await ask(server, "1", "POST", "", {"name": "Library"})
    path = f"/{created.json()['id']}"
    for member in members:
        assert (await ask(server, member, "PUT", f"{path}/members/me")).status_code == 200
    return path


def channel(path: str) -> str:
    """The address of a room's channel."""
    return f"/api/v1/rooms{path}/ws"


async def unknown(server: RunningServer) -> Problem:
    """The answer about a room that is not there."""
    return answered(await ask(server, "1", "GET", "/7"))


async def strange(server: RunningServer) -> Problem:
    """The answer to somebody who is no member."""
    return answered(await ask(server, "2", "GET", f"{await room(server)}/posts"))


async def strange_program(server: RunningServer) -> Problem:
    """How a program is denied that is no member."""
    return await denied(server, channel(await room(server)), server.token("2"))


async def strange_page(server: RunningServer) -> Problem:
    """How a page is closed that is no member."""
    return await closed(server, channel(await room(server)), server.token("2"))


async def leaving(server: RunningServer) -> Problem:
    """How the socket of somebody who leaves is closed."""
    path = await room(server, "2")
    async with server.socket(channel(path), server.token("2")) as socket:
        await socket.until("welcome")
        await ask(server, "2", "DELETE", f"{path}/members/me")
        return await ended(socket)


async def too_late(server: RunningServer) -> Problem:
    """The answer to a post into an archived room."""
    path = await room(server)
    await ask(server, "1", "POST", f"{path}/archive")
    return answered(await ask(server, "1", "POST", f"{path}/posts", {"text": "Too late."}))


async def too_late_on_a_socket(server: RunningServer) -> Problem:
    """The same through a socket that was opened before; the same room, the first of its server."""
    async with server.socket(channel("/1"), server.token("1")) as socket:
        return await framed(socket, "post", {"text": "Too late."})


async def not_the_owners(server: RunningServer) -> Problem:
    """The answer to a member who archives."""
    return answered(await ask(server, "2", "POST", f"{await room(server, '2')}/archive"))


async def the_owners(server: RunningServer) -> Problem:
    """The answer to an owner who leaves."""
    return answered(await ask(server, "1", "DELETE", f"{await room(server)}/members/me"))


async def nobody(server: RunningServer) -> Problem:
    """The answer to removing somebody who is not there."""
    return answered(await ask(server, "1", "DELETE", f"{await room(server)}/members/2"))


PROVOCATIONS = [
    Provocation(
        errors.RoomNotFound,
        rest=unknown,
        channel=(
            lambda server: denied(server, channel("/7"), server.token()),
            lambda server: closed(server, channel("/7"), server.token()),
        ),
    ),
    Provocation(
        errors.NotAMember,
        rest=strange,
        channel=(strange_program, strange_page, leaving),
        differ=frozenset({"detail"}),  # whoever leaves is told so
    ),
    Provocation(errors.RoomReadOnly, rest=too_late, channel=(too_late_on_a_socket,)),
    Provocation(errors.NotTheOwner, rest=not_the_owners, alone=ALONE),
    Provocation(errors.OwnerStays, rest=the_owners, alone=ALONE),
    Provocation(errors.MemberNotFound, rest=nobody, alone=ALONE),
]
