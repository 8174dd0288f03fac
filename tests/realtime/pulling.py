"""Somebody who asks over HTTP for what happens in a room of the probe's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2

from tests.realtime.probe import settle
from tests.server import DEADLINE, RunningServer

_rooms = count(1000)


@dataclass
class Room:
    """A room of the server, and somebody who asks for what happens there."""

    server: RunningServer
    http: httpx2.AsyncClient
    number: int

    async def write(self, text: str = "a", times: int = 1) -> int:
        """Write events; where the log is then."""
        answer = await self.http.post(
            f"/probe/{self.number}/log", params={"times": times}, json={"text": text}
        )
        offset: int = answer.raise_for_status().json()
        return offset

    async def ask(self, token: str | None = None, **query: Any) -> httpx2.Response:
        """The answer of the long poll."""
        token = token or self.server.token()
        return await self.http.get(
            f"/probe/{self.number}/events",
            params=query,
            headers={"Authorization": f"Bearer {token}"},
        )

    async def pull(self, **query: Any) -> dict[str, Any]:
        """What the long poll tells."""
        answer = await self.ask(**query)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    async def position(self) -> dict[str, Any]:
        """The query that asks for what comes after now."""
        told = await self.pull()
        return {"epoch": told["epoch"], "after": told["offset"]}

    async def subscribers(self) -> int:
        """How many hear of the room."""
        return int((await self.http.get(f"/probe/{self.number}/count")).json())

    async def until(self, subscribers: int) -> None:
        """Wait until so many hear of the room."""

        async def are_there() -> bool:
            return await self.subscribers() == subscribers

        await settle(are_there)

    @asynccontextmanager
    async def stream(
        self, token: str | None = None, *, last_event_id: str | None = None, **query: Any
    ) -> AsyncIterator["Stream"]:
        """The server-sent events of the room."""
        headers = {"Authorization": f"Bearer {token or self.server.token()}"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        path = f"/probe/{self.number}/events/stream"
        async with self.http.stream("GET", path, params=query, headers=headers) as response:
            yield Stream(response)


class Stream:
    """Server-sent events, as EventSource reads them."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def event(self) -> dict[str, Any]:
        """The next event: its name, its id and its data. Raises StopAsyncIteration at the end."""
        fields: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE):
            while (line := await anext(self._lines)) or not fields:
                name, _, value = line.partition(": ")
                if name:  # else a comment
                    fields[name] = value
        fields["data"] = json.loads(fields["data"])
        return fields

    async def events(self, number: int) -> list[dict[str, Any]]:
        """The next so many."""
        return [await self.event() for _ in range(number)]

    async def ending(self) -> list[dict[str, Any]]:
        """All that comes before the end."""
        events = []
        while True:
            try:
                events.append(await self.event())
            except StopAsyncIteration:
                return events


@asynccontextmanager
async def room_of(server: RunningServer) -> AsyncIterator[Room]:
    """A room that nobody else has been in, and a client for it."""
    async with server.client() as http:
        yield Room(server, http, next(_rooms))
