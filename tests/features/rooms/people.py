"""Somebody in rooms, at both doors."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2

from tests.server import RunningServer, Socket

PRESENCE = frozenset({"presence.changed"})


class Person:
    """Somebody with a token, and what they do with rooms; need not have an account."""

    def __init__(
        self,
        server: RunningServer,
        client: httpx2.AsyncClient,
        subject: str,
        name: str,
        *roles: str,
    ) -> None:
        self.server = server
        self.client = client
        self.id = subject
        self.name = name
        self.token = server.token(subject, name=name, roles=roles)
        self.shown = {"id": subject, "name": name}

    async def do(self, method: str, path: str = "", **kwargs: Any) -> httpx2.Response:
        """The answer to a request below `/api/v1/rooms`."""
        headers = {"Authorization": f"Bearer {self.token}"} | kwargs.pop("headers", {})
        return await self.client.request(method, f"/api/v1/rooms{path}", headers=headers, **kwargs)

    async def create(self, name: str = "Library") -> int:
        """The id of a new room."""
        answer = await self.do("POST", json={"name": name})
        assert answer.status_code == 201
        room_id: int = answer.json()["id"]
        return room_id

    async def join(self, room_id: int) -> httpx2.Response:
        """The answer to joining a room."""
        return await self.do("PUT", f"/{room_id}/members/me")

    async def post(self, room_id: int, text: Any = "Hello.") -> httpx2.Response:
        """The answer to posting into a room."""
        return await self.do("POST", f"/{room_id}/posts", json={"text": text})

    async def history(self, room_id: int, **query: int) -> dict[str, Any]:
        """A page of what was posted."""
        answer = await self.do("GET", f"/{room_id}/posts", params=query)
        assert answer.status_code == 200
        page: dict[str, Any] = answer.json()
        return page

    def socket(self, room: int | str, query: str = "") -> AbstractAsyncContextManager[Socket]:
        """A socket to a room, as a program opens it; deaf to who comes and goes."""
        return _deaf(self.server.socket(f"/api/v1/rooms/{room}/ws{query}", self.token))

    def browser_socket(self, room: int | str) -> AbstractAsyncContextManager[Socket]:
        """A socket to a room, as a page opens it; deaf to who comes and goes."""
        return _deaf(self.server.browser_socket(f"/api/v1/rooms/{room}/ws", self.token))


@asynccontextmanager
async def _deaf(opening: AbstractAsyncContextManager[Socket]) -> AsyncIterator[Socket]:
    async with opening as socket:
        socket.unheard = PRESENCE
        yield socket


def code(response: httpx2.Response) -> str:
    """The code of the error that was answered."""
    found: str = response.json()["code"]
    return found
