"""The people of the tests of rooms."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import httpx2
import pytest

from tests.conftest import settings_for
from tests.features.rooms.people import Person
from tests.server import RunningServer


@pytest.fixture(scope="module")
def server(shared_url: str) -> Iterator[RunningServer]:
    """A server for a module's tests to share, on each engine: each has people of its own."""
    with RunningServer(settings_for(shared_url)) as server:
        yield server


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that everybody shares; who asks is in each request."""
    async with server.client() as client:
        yield client


@pytest.fixture
def ann(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Ann, who owns most rooms."""
    return Person(server, client, f"ann-{uuid4().hex}", "Ann")


@pytest.fixture
def bob(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Bob, whose token is of another kind of subject."""
    return Person(server, client, f"auth0|{uuid4().hex}", "Bob")


@pytest.fixture
def eve(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Eve, an administrator."""
    return Person(server, client, f"eve-{uuid4().hex}", "Eve", "admin")
