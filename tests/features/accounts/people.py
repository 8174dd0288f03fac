"""People who sign up and log in, for the tests of accounts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.server import DEADLINE, RunningServer

ADDRESS = "ann@example.com"
PASSWORD = "correct horse battery staple"


async def ask_to_sign_up(
    client: httpx2.AsyncClient, email: Any = ADDRESS, **more: Any
) -> httpx2.Response:
    """The answer to whoever wants an account."""
    return await client.post(
        "/api/v1/accounts/sign-up", json={"email": email, "name": "Ann"} | more
    )


async def shown(client: httpx2.AsyncClient, asked: httpx2.Response) -> dict[str, Any]:
    """The mail that a request has caused."""
    mail = await client.get(f"/development/mail/{asked.headers['X-Development-Mail']}")
    found: dict[str, Any] = mail.json()
    return found


async def token_of(client: httpx2.AsyncClient, asked: httpx2.Response) -> str:
    """The token of the link in that mail."""
    (link,) = (await shown(client, asked))["links"]
    return str(link).partition("token=")[2]


async def confirm(
    client: httpx2.AsyncClient, token: str, password: str = PASSWORD
) -> httpx2.Response:
    """The answer to whoever has followed the link, and chooses a password."""
    choice = {"token": token, "password": password}
    return await client.post("/api/v1/accounts/confirm", json=choice)


async def sign_up(
    client: httpx2.AsyncClient, email: str = ADDRESS, *, password: str = PASSWORD, name: str = "Ann"
) -> dict[str, Any]:
    """Make an account: its `account`, and the first pair of tokens of its first session."""
    asked = await ask_to_sign_up(client, email, name=name)
    made = await confirm(client, await token_of(client, asked), password)
    assert made.status_code == 201, made.text
    confirmed: dict[str, Any] = made.json()
    return confirmed


async def log_in(
    client: httpx2.AsyncClient, email: str = ADDRESS, password: str = PASSWORD
) -> httpx2.Response:
    """The answer to a log-in."""
    return await client.post("/api/v1/auth/login", data={"username": email, "password": password})


async def begin(client: httpx2.AsyncClient) -> dict[str, Any]:
    """Make an account; the first pair of tokens of its session."""
    pair = await sign_up(client)
    pair.pop("account")
    return pair


async def refresh(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    """The answer to a refresh."""
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": token})


async def log_out(client: httpx2.AsyncClient, token: str) -> httpx2.Response:
    """The answer to a log-out."""
    return await client.post("/api/v1/auth/logout", json={"refresh_token": token})


async def log_out_everywhere(client: httpx2.AsyncClient, access_token: str) -> httpx2.Response:
    """The answer to ending all sessions."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return await client.post("/api/v1/auth/logout/everywhere", headers=headers)


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

    def leave(self) -> None:
        """Watch no longer: the server is one that tests share."""
        self._hash.verify_and_update = self._verify

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
