"""Log-in: right or wrong, and nothing between; as many at once as the machine can bear."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import select, update

from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features.accounts.models import User
from tests.features.accounts.people import (
    ADDRESS,
    PASSWORD,
    Gate,
    begin,
    code,
    facts,
    log_in,
    me,
    sign_up,
)
from tests.server import DEADLINE, RunningServer

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def server(serve: Callable[..., RunningServer]) -> RunningServer:
    """Passwords cost here what they cost in production."""
    return serve()


ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$"


async def test_whoever_knows_the_password_gets_a_pair_of_tokens(server: RunningServer) -> None:
    """The pair says how long the access token is good for, and that is good."""
    async with server.client() as client:
        await sign_up(client)
        response = await log_in(client)
        pair = response.json()
        assert pair.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
        assert (pair["token_type"], pair["expires_in"]) == ("bearer", 900)
        assert response.headers["Cache-Control"] == "no-store"
        assert (await me(client, pair["access_token"])).json()["email"] == ADDRESS


async def test_nothing_tells_an_unknown_address_from_a_wrong_password(
    server: RunningServer,
) -> None:
    """Both get the same answer after the same work: one hash of the same cost is verified."""
    attempts = {
        "right": (ADDRESS, PASSWORD),
        "wrong": (ADDRESS, "wrong horse battery staple"),
        "unknown": ("bob@example.com", PASSWORD),
        "no address": ("bob", PASSWORD),
        "long password": (ADDRESS, PASSWORD * 1000),
        "long password, unknown": ("bob@example.com", PASSWORD * 1000),
        "long address": ("b" * 10_000, PASSWORD),
        "NUL": (f"{ADDRESS}\0", f"{PASSWORD}\0"),
    }
    answers = {}
    async with server.client() as client:
        await sign_up(client)
        gate = Gate(server)
        for name, attempt in attempts.items():
            before = len(gate.hashes)
            answers[name] = await log_in(client, *attempt)
            assert len(gate.hashes) == before + 1, name
    assert all(verified.startswith(ARGON2) for verified in gate.hashes)
    assert answers.pop("right").status_code == 200
    assert {answer.status_code for answer in answers.values()} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers.values()} == {"Bearer"}
    assert all(facts(answer) == facts(answers["wrong"]) for answer in answers.values())
    assert code(answers["wrong"]) == "accounts.wrong_credentials"


async def test_a_log_in_is_a_form_of_the_password_grant(server: RunningServer) -> None:
    """What OAuth2 asks for is asked for (RFC 6749 section 4.3.2), and nothing is echoed."""
    good = {"username": ADDRESS, "password": PASSWORD}
    async with server.client() as client:
        await sign_up(client)
        for form, status in (
            ({**good, "grant_type": "password", "scope": "a b"}, 200),
            ({**good, "grant_type": "client_credentials"}, 422),
            ({"username": ADDRESS}, 422),
            ({"password": PASSWORD}, 422),
            ({}, 422),
        ):
            answer = await client.post("/api/v1/auth/login", data=form)
            assert answer.status_code == status, form
            assert PASSWORD not in answer.text
        as_json = await client.post("/api/v1/auth/login", json=good)
        assert as_json.status_code in (415, 422)
        assert PASSWORD not in as_json.text


async def test_swagger_authorizes_by_what_the_documents_say(server: RunningServer) -> None:
    """The token address of the documents, called as Swagger UI calls it, gives a token."""
    async with server.client() as client:
        await sign_up(client)
        schema = (await client.get("/openapi.json")).json()
        scheme = schema["components"]["securitySchemes"]["OAuth2PasswordBearer"]
        address = urljoin(f"{server.url}/docs", scheme["flows"]["password"]["tokenUrl"])
        assert urlsplit(address).path in schema["paths"]
        answer = await client.post(
            address,
            data={"grant_type": "password", "username": ADDRESS, "password": PASSWORD},
            headers={"Authorization": "Basic Og=="},  # its empty client id and secret
        )
        assert answer.json()["token_type"] == "bearer"
        assert (await me(client, answer.json()["access_token"])).status_code == 200


async def test_passwords_are_stored_as_argon2id_with_a_salt_each(
    server: RunningServer, database: SqlDatabase
) -> None:
    """19 MiB, two passes, one lane, as OWASP asks; the same password has another hash."""
    async with server.client() as client:
        await sign_up(client)
        await sign_up(client, "bob@example.com")
    async with database.reading() as session:
        stored = (await session.scalars(select(User.password_hash))).all()
    assert all(each.startswith(ARGON2) for each in stored)
    assert len(set(stored)) == 2


async def test_a_hash_that_is_out_of_date_is_renewed_at_log_in(
    server: RunningServer, database: SqlDatabase
) -> None:
    """Only the right password renews it, and goes on working."""
    weak = PasswordHash([Argon2Hasher(memory_cost=64, time_cost=1, parallelism=1)]).hash(PASSWORD)

    async def stored() -> str | None:
        async with database.reading() as session:
            return await session.scalar(select(User.password_hash))

    async with server.client() as client:
        await sign_up(client)
        async with database.unit_of_work() as uow:
            await uow.execute(update(User).values(password_hash=weak))
        assert (await log_in(client, password="wrong horse battery")).status_code == 401
        assert await stored() == weak
        assert (await log_in(client)).status_code == 200
        assert str(await stored()).startswith(ARGON2)
        assert (await log_in(client)).status_code == 200


async def test_passwords_are_verified_so_many_at_once_and_the_queue_ends(
    serve: Callable[..., RunningServer],
) -> None:
    """One at a time, 32 in the queue, and the next is told to come back later, at once."""
    server = serve(password_workers=1)
    async with server.client() as client:
        await sign_up(client)
        gate = Gate(server)
        with gate.closed():
            attempts = {asyncio.create_task(log_in(client)) for _ in range(36)}
            refused: set[asyncio.Task[httpx2.Response]] = set()
            async with asyncio.timeout(DEADLINE):
                while len(refused) < 3:
                    done, attempts = await asyncio.wait(
                        attempts, return_when=asyncio.FIRST_COMPLETED
                    )
                    refused |= done
            assert all(not task.done() for task in attempts)
        admitted = await asyncio.gather(*attempts)
    assert Counter(answer.status_code for answer in admitted) == {200: 33}
    assert gate.most_at_once == 1
    for answer in [task.result() for task in refused]:
        assert (answer.status_code, code(answer)) == (503, "overloaded")
        assert answer.headers["Retry-After"] == "5"
        assert answer.json()["retryable"] is True


async def test_others_are_served_while_passwords_are_hashed(server: RunningServer) -> None:
    """Eight log-ins under way hold up neither a request nor a new socket."""
    gate = Gate(server)
    async with server.client() as client, asyncio.timeout(DEADLINE / 2):
        pair = await begin(client)
        with gate.closed():
            attempts = [asyncio.create_task(log_in(client)) for _ in range(8)]
            assert await asyncio.to_thread(gate.entered.wait, DEADLINE)
            assert (await client.get("/health/live")).status_code == 200
            assert (await me(client, pair["access_token"])).status_code == 200
            assert not any(attempt.done() for attempt in attempts)
        answers = await asyncio.gather(*attempts)
    assert {answer.status_code for answer in answers} == {200}
    assert gate.most_at_once == 2


async def test_whoever_is_promoted_is_an_administrator_from_the_next_token_on(
    server: RunningServer, settings: Settings, operate: Callable[[str, str], Any]
) -> None:
    """The token of before is as it was; log-in and refresh give one with the role."""
    async with server.client() as client:
        before = await begin(client)
        done = await asyncio.to_thread(operate, "promote", ADDRESS.upper())
        assert done.exit_code == 0, done.output
        again = await asyncio.to_thread(operate, "promote", ADDRESS)
        assert again.exit_code == 0
        after = (await log_in(client)).json()
        refreshed = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": before["refresh_token"]}
        )
        assert (await me(client, before["access_token"])).json()["roles"] == ["admin"]
    verify = server.app.state.tokens.verify
    assert verify(before["access_token"]).roles == frozenset()
    assert verify(after["access_token"]).roles == {"admin"}
    assert verify(refreshed.json()["access_token"]).roles == {"admin"}


def test_nobody_is_promoted_who_has_no_account(operate: Callable[[str, str], Any]) -> None:
    """The command says what to do and fails."""
    done = operate("promote", "bob@example.com")
    assert done.exit_code == 1
    assert "sign up first" in done.stderr
