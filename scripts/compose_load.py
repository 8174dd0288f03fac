"""Clients of a compose project while it is restarted and hurt, and an account of what they saw.

Every acknowledged post has to reach every subscriber once and in order: the books are those of
tests/delivery/ledger.py, held here through the proxy, with accounts and rooms.
"""

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.delivery.ledger import RETRIED, Ledger, Post, Subscriber, audit, deliveries, missing

SUBSCRIBERS = 6
READERS = 3
TRY_SECONDS = 20
SETTLE_SECONDS = 30


@dataclass
class Seen:
    """What one phase was like for clients."""

    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    longest_gap: float = 0  # between two good answers, to whomever
    unconnected: float = 0  # the longest that a subscriber had no socket
    refused: Counter[str] = field(default_factory=Counter)  # handshakes


class Listener(Subscriber):
    """A subscriber of a room, through the proxy."""

    event = "posted"
    load: "Load"
    headers: dict[str, str]
    lost: float | None = None

    async def _listen(self, node: None) -> None:
        url = f"{self.load.url.replace('https', 'wss', 1)}/api/v1/rooms/{self.room}/ws"
        if self.position:
            url += f"?epoch={self.position[0]}&after={self.position[1]}"
        try:
            async with asyncio.timeout(TRY_SECONDS):
                connection = await connect(
                    url, additional_headers=self.headers, ssl=self.load.trust, proxy=None
                )
        except InvalidStatus as refused:
            self.load.seen.refused[str(refused.response.status_code)] += 1
            raise
        try:
            self.connection = connection
            connected = time.monotonic()
            if self.lost is not None:
                waited = connected - self.lost
                self.load.seen.unconnected = max(self.load.seen.unconnected, waited)
            async for frame in connection:
                self._note(json.loads(frame), connected)
        finally:
            self.connection = None
            self.lost = time.monotonic()
            connection.transport.abort()


class Load:
    """Posters, readers and subscribers of one room.

    Args:
        tokens: of the room's members, each of whom posts.
    """

    def __init__(self, url: str, trust: ssl.SSLContext, room: int, tokens: list[str]) -> None:
        self.url, self.trust, self.room = url, trust, str(room)
        self.tokens = tokens
        self.ledger = Ledger()
        self.phases: dict[str, Seen] = {}
        self.seen = Seen()
        self.over = False
        self._answered = 0.0
        self._acknowledged: dict[str, tuple[str, float]] = {}
        self._numbers = count()

    async def run(self, phases: dict[str, Callable[[], Awaitable[object]]]) -> list[str]:
        """Go through the phases under load; returns what is wrong with what was delivered."""
        subscribers = [self._subscriber(number) for number in range(SUBSCRIBERS)]
        listening = [asyncio.create_task(each.run()) for each in subscribers]
        async with asyncio.timeout(SETTLE_SECONDS):
            for each in subscribers:
                await each.began.wait()
        working = [asyncio.create_task(self._post(token)) for token in self.tokens]
        working += [asyncio.create_task(self._read()) for _ in range(READERS)]
        working.append(asyncio.create_task(self._make()))
        for name, phase in phases.items():
            self.ledger.fault = name
            self.phases[name] = self.seen = Seen()
            self._answered = time.monotonic()
            print(f"   {name}", flush=True)
            await phase()
            await asyncio.sleep(2)
        self.over = True
        await asyncio.gather(*working)
        await self._enter()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(missing(self.ledger, each.name) for each in subscribers):  # noqa: ASYNC110 - what arrives is no event here
                    await asyncio.sleep(0.1)
        for each, task in zip(subscribers, listening, strict=True):
            await each.end(task)
        return audit(self.ledger)

    def table(self) -> str:
        """The figures of each phase."""
        live: Counter[str] = Counter()
        resumed: Counter[str] = Counter()
        for post, _, came_live in deliveries(self.ledger):
            (live if came_live else resumed)[post.fault] += 1
        head = ("requests", "slowest", "gap", "no socket", "live", "resumed")
        lines = [f"{'':22}" + "".join(f"{each:>11}" for each in head) + "  errors"]
        for name, seen in self.phases.items():
            figures = (
                str(seen.requests), f"{seen.slowest:.2f} s", f"{seen.longest_gap:.2f} s",
                f"{seen.unconnected:.2f} s", str(live[name]), str(resumed[name]),
            )  # fmt: skip
            errors = ", ".join(f"{n} × {code}" for code, n in seen.errors.items()) or "none"
            refused = "".join(f"; {n} sockets × {code}" for code, n in seen.refused.items())
            lines.append(
                f"{name:22}" + "".join(f"{each:>11}" for each in figures) + f"  {errors}{refused}"
            )
        return "\n".join(lines)

    async def _enter(self) -> None:
        """Enter each acknowledged post under the offset that the log has it at."""
        where: dict[str, list[int]] = {}
        after = 0
        async with self._client(self.tokens[0]) as client:
            epoch = (await client.get(f"/rooms/{self.room}/posts?limit=1")).json()["epoch"]
            while True:
                asked = {"epoch": epoch, "after": after}
                page = (await client.get(f"/rooms/{self.room}/events", params=asked)).json()
                if not page["events"]:
                    break
                after = page["offset"]
                for event in page["events"]:
                    if event["type"] == "posted":
                        where.setdefault(event["data"]["text"], []).append(event["offset"])
        for text, (fault, at) in self._acknowledged.items():
            if text not in where:
                self.ledger.wrong.append(f"{text} was acknowledged and is not in the log")
            for offset in where.get(text, ()):
                self.ledger.posts.append(Post(self.room, offset, text, fault, at))

    def _subscriber(self, number: int) -> Listener:
        listener = Listener(
            f"s{number}",
            self.room,
            self.ledger,
            [None],
            random.Random(number),  # noqa: S311 - it picks nodes
        )
        listener.load = self
        listener.headers = headers_of(self.tokens[number % len(self.tokens)])
        return listener

    def _client(self, token: str) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=f"{self.url}/api/v1", headers=headers_of(token), verify=self.trust,
            trust_env=False, timeout=TRY_SECONDS,
        )  # fmt: skip

    async def _ask(
        self, client: httpx2.AsyncClient, method: str, path: str, **more: object
    ) -> httpx2.Response | None:
        """A request, entered in the account of the phase that it ends in; None where it failed."""
        began = time.monotonic()
        try:
            answer = await client.request(method, path, **more)  # type: ignore[arg-type]
        except RETRIED as error:
            self.seen.requests += 1
            self.seen.errors[type(error).__name__] += 1
            return None
        seen, now = self.seen, time.monotonic()
        seen.requests += 1
        seen.slowest = max(seen.slowest, now - began)
        if not answer.is_success:
            problem = answer.json() if "json" in answer.headers["content-type"] else {}
            seen.errors[f"{answer.status_code} {problem.get('code', '')}".strip()] += 1
            return None
        seen.longest_gap = max(seen.longest_gap, now - self._answered)
        self._answered = now
        return answer

    async def _post(self, token: str) -> None:
        """Post, each post until it is acknowledged; as often as one person may."""
        async with self._client(token) as client:
            while not self.over:
                text, key = f"post {next(self._numbers)}", uuid4().hex
                asked = {"json": {"text": text}, "headers": {"Idempotency-Key": key}}
                while not await self._ask(client, "POST", f"/rooms/{self.room}/posts", **asked):  # noqa: ASYNC110 - it asks
                    await asyncio.sleep(0.1)
                self._acknowledged[text] = (self.ledger.fault, time.monotonic())
                await asyncio.sleep(0.6)

    async def _read(self) -> None:
        async with self._client(self.tokens[0]) as client:
            while not self.over:
                await self._ask(client, "GET", f"/rooms/{self.room}/posts?limit=2")
                await asyncio.sleep(0.1)

    async def _make(self) -> None:
        """Make rooms: a POST that nobody may repeat, as it has no key."""
        async with self._client(self.tokens[0]) as client:
            while not self.over:
                await self._ask(client, "POST", "/rooms", json={"name": "Another"})
                await asyncio.sleep(0.2)


def headers_of(token: str) -> dict[str, str]:
    """What a request of its holder has."""
    return {"Authorization": f"Bearer {token}"}
