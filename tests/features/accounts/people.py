"""People who sign up and log in, for the tests of accounts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.server import DEADLINE, RunningServer

ADDRESS = "ann@example.com"
PASSWORD = "correct horse battery staple"


async def sign_up(client: httpx2.AsyncClient, email: Any = ADDRESS, **more: Any) -> httpx2.Response:
    """The answer to a sign-up."""
    person = {"email": email, "password": PASSWORD, "name": "Ann"} | more
    return await client.post("/api/v1/accounts", json=person)


async def log_in(
    client: httpx2.AsyncClient, email: str = ADDRESS, password: str = PASSWORD
) -> httpx2.Response:
    """The answer to a log-in."""
    return await client.post("/api/v1/auth/login", data={"username": email, "password": password})


async def begin(client: httpx2.AsyncClient) -> dict[str, Any]:
    """Sign up and log in; the first pair of tokens of the session."""
    assert (await sign_up(client)).status_code == 201
    pair: dict[str, Any] = (await log_in(client)).json()
    return pair


async def refresh(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    """The answer to a refresh."""
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": token})


async def log_out(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    """The answer to a log-out."""
    return await client.post("/api/v1/auth/logout", json={"refresh_token": token})


async def me(client: httpx2.AsyncClient, access_token: str) -> httpx2.Response:
    """The account that an access token speaks of."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return await client.get("/api/v1/accounts/me", headers=headers)


def code(response: httpx2.Response) -> str:
    """The code of the error that was answered."""
    found: str = response.json()["code"]
    return found


def facts(response: httpx2.Response) -> dict[str, Any]:
    """An answer without what differs from request to request."""
    return {k: v for k, v in response.json().items() if k not in ("request_id", "instance")}


class Gate:
    """Watches the server verify passwords, and can hold it up in that."""

    def __init__(self, server: RunningServer) -> None:
        self.hashes: list[str] = []
        self.most_at_once = 0
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.opened.set()
        self._at_once = 0
        self._lock = threading.Lock()
        self._hash = server.app.state.passwords._hash
        self._verify = self._hash.verify_and_update
        self._hash.verify_and_update = self._watched

    def _watched(self, password: str, stored: str) -> tuple[bool, str | None]:
        with self._lock:
            self.hashes.append(stored)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.entered.set()
        assert self.opened.wait(DEADLINE)
        try:
            answer: tuple[bool, str | None] = self._verify(password, stored)
        finally:
            with self._lock:
                self._at_once -= 1
        return answer

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Let nobody through until the end of the block."""
        self.opened.clear()
        self.entered.clear()
        try:
            yield
        finally:
            self.opened.set()
