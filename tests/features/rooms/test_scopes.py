"""What a limited token may do in rooms: each operation takes one scope, at both doors."""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import settings_for
from tests.features.rooms.people import code
from tests.server import RunningServer

READ, WRITE = "rooms:read", "rooms:write"
READS = [
    "",
    "/{room}",
    "/{room}/members",
    "/{room}/posts",
    "/{room}/presence",
    "/{room}/events",
]
WRITES = [
    ("POST", "", {"name": "Attic"}),
    ("POST", "/{room}/posts", {"text": "Hello."}),
    ("POST", "/{room}/reminders", {"text": "Tea.", "in_seconds": 60}),
    ("PUT", "/{room}/members/me", None),
    ("DELETE", "/{room}/members/7", None),
    ("DELETE", "/{room}/members/me", None),
    ("POST", "/{room}/archive", None),
]


@pytest.fixture(scope="module")
def shared(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """A server for all of these."""
    with RunningServer(settings_for(new_sqlite())) as running:
        yield running


@pytest.fixture
async def room(shared: RunningServer) -> str:
    """A room of Ann's."""
    async with shared.client(shared.token()) as client:
        return str((await client.post("/api/v1/rooms", json={"name": "Library"})).json()["id"])


def test_these_are_all_operations(shared: RunningServer) -> None:
    """But the stream, which goes on: each has its scope in the documents."""
    paths = shared.app.openapi()["paths"]
    found = {
        (method.upper(), path.removeprefix("/api/v1/rooms")): operation["x-requires"]["scopes"]
        for path, operations in paths.items()
        if path.startswith("/api/v1/rooms")
        for method, operation in operations.items()
    }
    expected = {("GET", path): [READ] for path in [*READS, "/{room}/events/stream"]}
    expected |= {(method, path): [WRITE] for method, path, _ in WRITES}
    named = {
        (method, path.replace("{room_id}", "{room}").replace("{subject}", "7")): scopes
        for (method, path), scopes in found.items()
    }
    assert named == expected


@pytest.mark.parametrize("path", [*READS, "/{room}/events/stream"])
async def test_to_read_takes_the_scope_to_read(shared: RunningServer, room: str, path: str) -> None:
    """And no other does."""
    address = f"/api/v1/rooms{path.format(room=room)}"
    async with shared.client(shared.token(scopes=[WRITE])) as client:
        answer = await client.get(address)
    assert (answer.status_code, code(answer)) == (403, "insufficient_scope")
    async with (
        shared.client(shared.token(scopes=[READ])) as client,
        client.stream("GET", address) as streamed,
    ):
        assert streamed.status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_to_write_takes_the_scope_to_write(
    shared: RunningServer, room: str, method: str, path: str, body: object
) -> None:
    """To be allowed to read is not enough; what is wrong otherwise is told to who may write."""
    address = f"/api/v1/rooms{path.format(room=room)}"
    for scope, refused in ((READ, True), (WRITE, False)):
        async with shared.client(shared.token(scopes=[scope])) as client:
            answer = await client.request(method, address, json=body)
        told = code(answer) if answer.is_error else ""
        assert (told == "insufficient_scope") is refused
        assert answer.status_code != 422


async def test_a_socket_takes_a_scope_for_each_thing(shared: RunningServer, room: str) -> None:
    """To hear takes the one, to post from it the other as well."""
    path = f"/api/v1/rooms/{room}/ws"
    async with shared.browser_socket(path, shared.token(scopes=[WRITE])) as socket:
        assert (await socket.ending())[:2] == (4403, "insufficient_scope")
    async with shared.socket(path, shared.token(scopes=[READ])) as socket:
        answer = await socket.ask("post", {"text": "Hello."})
        assert answer["data"]["code"] == "insufficient_scope"
        refreshed = {"token": shared.token(scopes=[READ, WRITE])}
        await socket.ask("auth.refresh", refreshed)
        assert (await socket.ask("post", {"text": "Hello."}))["type"] == "posted"
