"""Sessions: refresh tokens that are good for once, and families that end as one."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, update

from app.core.db import SqlDatabase
from app.features.accounts.models import IssuedRefreshToken, Session, User
from tests.features.accounts.people import begin, code, log_in, log_out, me, refresh
from tests.server import RunningServer

pytestmark = pytest.mark.usefixtures("engine")


async def test_a_refresh_gives_a_new_pair_of_the_same_session(server: RunningServer) -> None:
    """Each token follows from the one before, and every access token is good."""
    verify = server.app.state.tokens.verify
    async with server.client() as client:
        pairs = [await begin(client)]
        for _ in range(3):
            pairs.append((await refresh(client, pairs[-1]["refresh_token"])).json())
        for pair in pairs:
            assert (await me(client, pair["access_token"])).status_code == 200
    assert len({pair["refresh_token"] for pair in pairs}) == 4
    claims = [verify(pair["access_token"]) for pair in pairs]
    assert len({claim.session for claim in claims}) == 1
    assert len({claim.token_id for claim in claims}) == 4


async def test_a_token_that_is_used_twice_ends_its_session_and_no_other(
    server: RunningServer,
) -> None:
    """Neither the thief's next token nor the owner's is good after that."""
    async with server.client() as client:
        first = await begin(client)
        elsewhere = (await log_in(client)).json()
        second = (await refresh(client, first["refresh_token"])).json()
        reused = await refresh(client, first["refresh_token"])
        assert (reused.status_code, code(reused)) == (401, "accounts.refresh_reused")
        assert reused.headers["WWW-Authenticate"] == "Bearer"
        for ended in (second, first):
            answer = await refresh(client, ended["refresh_token"])
            assert (answer.status_code, code(answer)) == (401, "accounts.refresh_refused")
        assert (await refresh(client, elsewhere["refresh_token"])).status_code == 200


async def test_of_two_refreshes_at_once_one_gets_a_pair(server: RunningServer) -> None:
    """The other is a reuse, and so the pair is of a session that has ended."""
    async with server.client() as client:
        first = await begin(client)
        answers = await asyncio.gather(*(refresh(client, first["refresh_token"]) for _ in "ab"))
        good, bad = sorted(answers, key=lambda answer: answer.status_code)
        assert (good.status_code, bad.status_code) == (200, 401)
        assert code(bad) == "accounts.refresh_reused"
        after = await refresh(client, good.json()["refresh_token"])
        assert code(after) == "accounts.refresh_refused"


async def test_a_session_that_is_not_refreshed_in_time_ends(
    server: RunningServer, database: SqlDatabase
) -> None:
    """It lasts 30 days from the last refresh, and not a moment longer."""
    async with server.client() as client:
        pair = await begin(client)
        async with database.unit_of_work() as uow:
            past = datetime.now(UTC) + timedelta(minutes=1)
            await uow.execute(update(Session).values(expires_at=past))
        pair = (await refresh(client, pair["refresh_token"])).json()
        async with database.reading() as session:
            expires_at = await session.scalar(select(Session.expires_at))
        assert expires_at is not None
        assert timedelta(days=29) < expires_at - datetime.now(UTC) <= timedelta(days=30)
        async with database.unit_of_work() as uow:
            await uow.execute(update(Session).values(expires_at=datetime.now(UTC)))
        late = await refresh(client, pair["refresh_token"])
    assert (late.status_code, code(late)) == (401, "accounts.refresh_refused")


async def test_what_is_no_refresh_token_is_refused(server: RunningServer) -> None:
    """An access token, an unknown one and one cut short open nothing."""
    async with server.client() as client:
        pair = await begin(client)
        for token in ("nonsense", pair["refresh_token"][:-1], "\u0430\U0001f600"):
            answer = await refresh(client, token)
            assert (answer.status_code, code(answer)) == (401, "accounts.refresh_refused")
        for wrong in (pair["access_token"], "", "a" * 201, "a\0", None, 7):
            answer = await client.post("/api/v1/auth/refresh", json={"refresh_token": wrong})
            assert (answer.status_code, code(answer)) == (422, "invalid_parameter")
            assert str(pair["access_token"]) not in answer.text
        assert (await refresh(client, pair["refresh_token"])).status_code == 200


async def test_a_refresh_token_is_no_access_token(server: RunningServer) -> None:
    """It proves nothing to a guard."""
    async with server.client() as client:
        pair = await begin(client)
        answer = await me(client, pair["refresh_token"])
    assert (answer.status_code, code(answer)) == (401, "authentication_failed")


async def test_a_log_out_ends_the_session_however_often_it_comes(server: RunningServer) -> None:
    """Any token of the family ends it; one that nobody knows changes nothing (RFC 7009)."""
    async with server.client() as client:
        first = await begin(client)
        elsewhere = (await log_in(client)).json()
        second = (await refresh(client, first["refresh_token"])).json()
        for token in (first["refresh_token"], first["refresh_token"], "nonsense"):
            answer = await log_out(client, token)
            assert (answer.status_code, answer.content) == (204, b"")
        answer = await refresh(client, second["refresh_token"])
        assert code(answer) == "accounts.refresh_refused"
        assert (await refresh(client, elsewhere["refresh_token"])).status_code == 200


async def test_refresh_tokens_are_stored_as_digests(
    server: RunningServer, database: SqlDatabase
) -> None:
    """Whoever reads the database gets no token that could be used."""
    async with server.client() as client:
        pair = await begin(client)
    async with database.reading() as session:
        digests = (await session.scalars(select(IssuedRefreshToken.digest))).all()
    assert len(digests) == 1
    assert pair["refresh_token"] not in digests


async def test_an_account_that_is_gone_is_not_found(
    server: RunningServer, database: SqlDatabase
) -> None:
    """Its token is still signed; its sessions went with it, and its id is nobody else's, ever."""
    async with server.client() as client:
        pair = await begin(client)
        gone = (await me(client, pair["access_token"])).json()["id"]
        async with database.unit_of_work() as uow:
            await uow.execute(delete(User))
        answer = await me(client, pair["access_token"])
        assert (answer.status_code, code(answer)) == (404, "accounts.gone")
        assert code(await refresh(client, pair["refresh_token"])) == "accounts.refresh_refused"
        assert code(await log_in(client)) == "accounts.wrong_credentials"
        pair = await begin(client)
        assert (await me(client, pair["access_token"])).json()["id"] > gone
