"""Who has an account is told to nobody: not by an answer, and not by the work behind it.

Work is what can be counted: statements and verified or made hashes. What takes the same work takes
as long, without a clock that a busy machine would upset.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import update

from app.core.db import SqlDatabase
from app.features.accounts.models import User
from tests.features.accounts.holders import Holder, enrolled, holder
from tests.features.accounts.mailbox import API, ask, statements
from tests.features.accounts.people import PASSWORD
from tests.server import RunningServer

AGENT = "the test"
WRONG = "wrong horse battery staple"
#: What differs from answer to answer, whoever asks.
OF_THE_ANSWER = {"date", "x-request-id", "x-development-mail", "ratelimit"}


@dataclass(frozen=True)
class Work:
    """An answer, without what differs from request to request, and what was done for it."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]
    statements: list[str]
    hashes: list[str]


@contextmanager
def hashing(server: RunningServer) -> Iterator[list[str]]:
    """What is done with passwords in the block."""
    seen: list[str] = []
    hasher = server.app.state.passwords._hash
    kept = hasher.verify_and_update, hasher.hash

    def verified(password: str, stored: str) -> Any:
        seen.append("verify")
        return kept[0](password, stored)

    def hashed(password: str) -> Any:
        seen.append("hash")
        return kept[1](password)

    hasher.verify_and_update, hasher.hash = verified, hashed
    try:
        yield seen
    finally:
        hasher.verify_and_update, hasher.hash = kept


async def worked(
    server: RunningServer,
    email: str,
    request: Callable[[httpx2.AsyncClient, str], Awaitable[httpx2.Response]],
    token: str | None = None,
) -> Work:
    """What a request about an address is answered, and what the server does for it."""
    with statements(server, AGENT) as done, hashing(server) as hashes:
        async with server.client(token) as client:
            client.headers["User-Agent"] = AGENT
            answer = await request(client, email)
    headers = {k: v if k not in OF_THE_ANSWER else "" for k, v in answer.headers.items()}
    body = {k: v for k, v in answer.json().items() if k not in ("request_id", "email")}
    return Work(answer.status_code, headers, body, done, hashes)


@pytest.fixture
async def people(common: RunningServer, stored: SqlDatabase) -> dict[str, str]:
    """An address of each kind, all of one length; nobody has the first."""
    known, locked, disabled, by_provider = [await holder(common, stored) for _ in range(4)]
    with_factor, _ = await enrolled(common, stored)
    now = datetime.now(UTC)
    async with stored.unit_of_work() as uow:
        for person, values in (
            (locked, {"failures": 10, "locked_until": now + timedelta(minutes=1)}),
            (disabled, {"disabled_at": now}),
            (by_provider, {"password_hash": ""}),
        ):
            await uow.execute(update(User).where(User.id == person.id).values(values))
    return {
        "nobody": f"{uuid4().hex}@example.com",
        "somebody": known.email,
        "somebody in another spelling": known.email.upper(),
        "locked": locked.email,
        "disabled": disabled.email,
        "without a password": by_provider.email,
        "with a second factor": with_factor.email,
    }


def log_in(path: str, **more: str) -> Callable[[httpx2.AsyncClient, str], Any]:
    """A log-in with a wrong password at this path."""

    def request(client: httpx2.AsyncClient, email: str) -> Any:
        form = {"username": email, "password": WRONG} | more
        return client.post(f"/api/v1/auth/{path}", data=form)

    return request


def mailed(path: str, **more: str) -> Callable[[httpx2.AsyncClient, str], Any]:
    """A request for a mail at this path."""
    return lambda client, email: ask(client, path, email=email, **more)


async def test_a_wrong_password_is_the_same_work_whosever_it_is(
    common: RunningServer, people: dict[str, str]
) -> None:
    """One verification, the same statements, and one answer to the letter, at each log-in."""
    for path, more in (("login", {}), ("cookie", {"otp": "123456"})):
        done = {
            kind: await worked(common, email, log_in(path, **more))
            for kind, email in people.items()
        }
        nobody = done["nobody"]
        assert (nobody.status, nobody.body["code"]) == (401, "accounts.wrong_credentials")
        assert nobody.hashes == ["verify"]
        assert any(each.startswith("INSERT INTO audit") for each in nobody.statements)
        assert {kind for kind, work in done.items() if work != nobody} == set()


async def test_the_right_password_of_who_may_not_come_in_is_a_wrong_one(
    common: RunningServer, people: dict[str, str]
) -> None:
    """Whoever has it learns nothing of an account that is locked or disabled, and is counted."""
    for kind in ("locked", "disabled"):
        for path in ("login", "cookie"):
            wrong = await worked(common, people[kind], log_in(path))
            right = await worked(common, people[kind], log_in(path, password=PASSWORD))
            assert right == wrong, (kind, path)


async def test_a_mail_is_the_same_work_whoever_has_the_address(
    common: RunningServer, people: dict[str, str]
) -> None:
    """One job is written down, and no password touched; the job finds out, later."""
    for path, more in (("sign-up", {"name": "Ann"}), ("password/forgot", {})):
        done = {
            kind: await worked(common, email, mailed(path, **more))
            for kind, email in people.items()
        }
        nobody = done["nobody"]
        assert (nobody.status, nobody.hashes) == (202, [])
        (written,) = [each for each in nobody.statements if not each.startswith("BEGIN")]
        assert written.startswith("INSERT INTO jobs")
        assert {kind for kind, work in done.items() if work != nobody} == set()


async def test_another_address_is_the_same_work_whoever_has_it(
    common: RunningServer, stored: SqlDatabase, people: dict[str, str]
) -> None:
    """Whoever is signed in learns no more of others by wanting their address."""
    eve: Holder = await holder(common, stored)
    token = (await eve.begin())["access_token"]

    def change(client: httpx2.AsyncClient, email: str) -> Any:
        body = {"email": email, "password": "correct horse battery staple"}
        return client.post(f"{API}/me/email", json=body)

    done = {kind: await worked(common, email, change, token) for kind, email in people.items()}
    nobody = done["nobody"]
    assert (nobody.status, len(nobody.hashes)) == (202, 1)
    assert {kind for kind, work in done.items() if work != nobody} == set()
