"""Step-up: a session proves again whose it is, and is as fresh then as after its log-in."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, update

from app.core.db import SqlDatabase
from app.features.accounts.models import Session, User
from tests.features.accounts.holders import (
    FACTOR,
    claims,
    enrolled,
    failures,
    holder,
    outcome,
    recorded,
)
from tests.features.accounts.people import PASSWORD, Gate, log_out, me, refresh
from tests.server import RunningServer

STEP_UP = (401, "step_up_required")
WRONG_PASSWORD = (403, "accounts.wrong_password")
LOCKED = (429, "accounts.locked")


async def grown_old(
    server: RunningServer, database: SqlDatabase, pair: dict[str, Any]
) -> dict[str, Any]:
    """The next pair of a session that was logged in to yesterday."""
    async with database.unit_of_work() as uow:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        mine = update(Session).where(Session.id == claims(pair)["sid"])
        await uow.execute(mine.values(authenticated_at=yesterday))
    async with server.client() as client:
        answer = await refresh(client, pair["refresh_token"])
    aged: dict[str, Any] = answer.json()
    return aged


async def test_the_password_makes_a_session_fresh_again(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """What it was refused is done then, also after the next refresh; it is the same session."""
    ann = await holder(common, stored)
    old = await grown_old(common, stored, await ann.begin())
    refused = await ann.call(old, "POST", FACTOR)
    assert outcome(refused) == STEP_UP
    assert 'error="insufficient_user_authentication"' in refused.headers["WWW-Authenticate"]
    answer = await ann.step_up(old, password=PASSWORD)
    assert answer.status_code == 200
    fresh = answer.json()
    assert fresh.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert answer.headers["Cache-Control"] == "no-store"
    async with common.client() as client:
        later = (await refresh(client, fresh["refresh_token"])).json()
    for pair in (fresh, later):
        said = claims(pair)
        assert said["sid"] == claims(old)["sid"]
        assert said["amr"] == ["pwd"]
        assert time.time() - said["auth_time"] < 60
        assert (await ann.call(pair, "POST", FACTOR)).status_code == 201
    assert outcome(await ann.call(old, "POST", FACTOR)) == STEP_UP
    assert "step_up.proved" in await recorded(stored, ann)


async def test_whoever_has_a_second_factor_gives_a_code(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The password alone is not enough; a code is, of either kind, and is used up."""
    ann, pair = await enrolled(common, stored)
    required = (401, "accounts.second_factor_required")
    assert outcome(await ann.step_up(pair, password=PASSWORD)) == required
    assert outcome(await ann.step_up(pair)) == required
    assert outcome(await ann.call(pair, "DELETE", FACTOR)) == STEP_UP
    assert await failures(stored, ann) == 0
    good = ann.code(1)
    fresh = (await ann.step_up(pair, code=good)).json()
    assert claims(fresh)["amr"] == ["otp", "pwd"]
    assert outcome(await ann.log_in(good)) == (401, "accounts.wrong_code")
    again = await ann.step_up(fresh, code=ann.recovery_codes[0], password="whatever")
    assert outcome(await ann.log_in(ann.recovery_codes[0])) == (401, "accounts.wrong_code")
    assert (await ann.call(again.json(), "DELETE", FACTOR)).status_code == 204


async def test_a_factor_that_was_removed_is_proved_by_no_password(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The session says by what it was proved the last time."""
    ann, _ = await enrolled(common, stored)
    pair = await ann.begin(ann.code(1))
    await ann.call(pair, "DELETE", FACTOR)
    assert claims((await ann.step_up(pair, password=PASSWORD)).json())["amr"] == ["pwd"]


async def test_refresh_tokens_of_before_are_used_up(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whoever has a copy does not share in the proof: its use ends the session."""
    ann = await holder(common, stored)
    old = await ann.begin()
    fresh = (await ann.step_up(old, password=PASSWORD)).json()
    async with common.client() as client:
        stolen = await refresh(client, old["refresh_token"])
        assert outcome(stolen) == (401, "accounts.refresh_reused")
        assert outcome(await me(client, fresh["access_token"])) == (401, "session_revoked")


async def test_what_is_wrong_changes_nothing_but_is_counted(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The session is as old as it was and its tokens as good; the right proof counts anew."""
    ann = await holder(common, stored)
    old = await grown_old(common, stored, await ann.begin())
    for wrong in ("wrong horse battery", "short", "x" * 200, ""):
        assert outcome(await ann.step_up(old, password=wrong)) == WRONG_PASSWORD
    assert await failures(stored, ann) == 4
    for proof in ({}, {"code": "123456"}, {"password": "x" * 201}, {"passwort": "x"}):
        answer = await ann.step_up(old, **proof)
        assert outcome(answer) == (422, "invalid_parameter")
        assert "xxx" not in answer.text
    assert await failures(stored, ann) == 4
    async with common.client() as client:
        same = (await refresh(client, old["refresh_token"])).json()
    assert claims(same)["auth_time"] == claims(old)["auth_time"]
    assert (await ann.step_up(same, password=PASSWORD)).status_code == 200
    assert await failures(stored, ann) == 0
    assert (await recorded(stored, ann)).count("step_up.failed") == 4


async def test_a_locked_account_takes_no_proof(common: RunningServer, stored: SqlDatabase) -> None:
    """Not the right one either, until the time is over that it says; tokens are good meanwhile."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    answers = [await ann.step_up(pair, password="wrong horse battery") for _ in range(11)]
    assert [outcome(answer) for answer in answers] == [WRONG_PASSWORD] * 10 + [LOCKED]
    right = await ann.step_up(pair, password=PASSWORD)
    assert outcome(right) == LOCKED
    assert right.json()["retryable"] is True
    assert 0 < int(right.headers["Retry-After"]) == right.json()["retry_after"] <= 60
    assert outcome(await ann.log_in()) == (401, "accounts.wrong_credentials")
    assert (await ann.call(pair, "GET", FACTOR)).status_code == 200
    async with stored.unit_of_work() as uow:
        over = update(User).where(User.id == ann.id)
        await uow.execute(over.values(locked_until=datetime.now(UTC)))
    assert (await ann.step_up(pair, password=PASSWORD)).status_code == 200


async def test_guesses_at_one_moment_are_all_counted(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Twenty at once are ten, and a locked account."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    guesses = (ann.step_up(pair, password="wrong horse battery") for _ in range(20))
    answers = await asyncio.gather(*guesses)
    assert Counter(answer.status_code for answer in answers) == {403: 10, 429: 10}


async def test_a_password_that_is_changed_meanwhile_proves_nothing(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whether it is right is decided when the session becomes fresh."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    gate = Gate(common)
    with gate.closed():
        attempt = asyncio.create_task(ann.step_up(pair, password=PASSWORD))
        assert await asyncio.to_thread(gate.entered.wait, 10)
        async with stored.unit_of_work() as uow:
            changed = update(User).where(User.id == ann.id)
            await uow.execute(changed.values(password_hash="another"))
    assert outcome(await attempt) == WRONG_PASSWORD


async def test_a_session_that_ends_meanwhile_becomes_fresh_no_more(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The password is verified for nothing."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    gate = Gate(common)
    async with common.client() as client:
        with gate.closed():
            attempt = asyncio.create_task(ann.step_up(pair, password=PASSWORD))
            assert await asyncio.to_thread(gate.entered.wait, 10)
            assert (await log_out(client, pair["refresh_token"])).status_code == 204
    assert outcome(await attempt) == (401, "session_revoked")


async def test_of_step_ups_and_refreshes_at_once_one_pair_is_left(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whichever is first: no refresh token of before is good, and nothing waits for ever."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    async with common.client() as client:
        stepped, refreshed = await asyncio.gather(
            ann.step_up(pair, password=PASSWORD), refresh(client, pair["refresh_token"])
        )
        if refreshed.status_code == 200:
            assert stepped.status_code == 200
            used = await refresh(client, refreshed.json()["refresh_token"])
            assert outcome(used) == (401, "accounts.refresh_reused")
        else:
            assert outcome(refreshed) == (401, "accounts.refresh_reused")


async def test_only_a_session_of_a_person_is_stepped_up(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Not a key, not a token without a session, nobody's, and none of an account that is gone."""
    ann = await holder(common, stored)
    for token, expected in (
        (common.token(str(ann.id), scopes=[]), (403, "insufficient_scope")),
        (common.token(str(ann.id)), (401, "session_revoked")),
        (None, (401, "authentication_failed")),
        ("nonsense", (401, "authentication_failed")),
    ):
        async with common.client(token) as client:
            answer = await client.post("/api/v1/auth/step-up", json={"password": PASSWORD})
            assert outcome(answer) == expected
    pair = await ann.begin()
    async with stored.unit_of_work() as uow:
        await uow.execute(delete(User).where(User.id == ann.id))
    for proof in ({"password": PASSWORD}, {"code": "123456"}):
        assert outcome(await ann.step_up(pair, **proof)) == (404, "accounts.gone")


async def test_a_session_in_a_cookie_is_stepped_up_without_tokens(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The cookie stays what it was, and is as fresh as after its log-in."""
    ann, _ = await enrolled(common, stored)
    async with common.client() as client:
        form = {"username": ann.email, "password": PASSWORD, "otp": ann.code(1)}
        begun = await client.post("/api/v1/auth/cookie", data=form)
        assert begun.status_code == 201, begun.text
        secret = begun.headers["Set-Cookie"].partition(";")[0]
        headers = {"Cookie": secret, "X-CSRF-Token": begun.json()["csrf_token"]}
        async with stored.unit_of_work() as uow:
            yesterday = datetime.now(UTC) - timedelta(days=1)
            theirs = update(Session).where(Session.cookie_digest.is_not(None))
            await uow.execute(theirs.values(authenticated_at=yesterday))
        assert outcome(await client.delete(FACTOR, headers=headers)) == STEP_UP
        proof = {"code": ann.recovery_codes[0]}
        answer = await client.post("/api/v1/auth/step-up", json=proof, headers=headers)
        assert (answer.status_code, answer.json()) == (200, None)
        assert (await client.delete(FACTOR, headers=headers)).status_code == 204
