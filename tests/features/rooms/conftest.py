"""The people of the tests of rooms."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.features.rooms.people import Person
from tests.server import RunningServer


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that everybody shares; who asks is in each request."""
    async with server.client() as client:
        yield client


@pytest.fixture
def ann(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Ann, who owns most rooms."""
    return Person(server, client, "1", "Ann")


@pytest.fixture
def bob(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Bob, whose token is of another kind of subject."""
    return Person(server, client, "auth0|bob", "Bob")


@pytest.fixture
def eve(server: RunningServer, client: httpx2.AsyncClient) -> Person:
    """Eve, an administrator."""
    return Person(server, client, "3", "Eve", "admin")
