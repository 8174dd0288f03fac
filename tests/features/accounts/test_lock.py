"""Guessing a password: it is stopped, and whoever guesses is not told by what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import select, update

from app.core.audit import AuditRow
from app.core.db import SqlDatabase
from app.features.accounts.locks import lock_after
from app.features.accounts.models import User
from tests.features.accounts.holders import Holder, holder, outcome, recorded
from tests.features.accounts.mailbox import API, Mailbox, ask, statements
from tests.features.accounts.people import PASSWORD, Gate, facts, log_in
from tests.server import DEADLINE, RunningServer

WRONG = "wrong horse battery staple"
WRONG_CREDENTIALS = (401, "accounts.wrong_credentials")
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


async def guess(person: Holder, times: int) -> httpx2.Response:
    """So many wrong passwords in a row; the answer to the last."""
    for _ in range(times - 1):
        await person.log_in(password=WRONG)
    return await person.log_in(password=WRONG)


@asynccontextmanager
async def row(database: SqlDatabase, person: Holder) -> AsyncIterator[User]:
    """What is counted of somebody, to look at and to change."""
    async with database.unit_of_work() as uow:
        yield await uow.get_one(User, person.id)


async def test_ten_wrong_passwords_in_a_row_lock_the_account_and_nothing_tells(
    stored: SqlDatabase, ann: Holder
) -> None:
    """The right one is answered as a wrong one then, for a minute; after that it counts again."""
    answers = [await guess(ann, 9), await guess(ann, 1), await ann.log_in()]
    assert {outcome(answer) for answer in answers} == {WRONG_CREDENTIALS}
    assert facts(answers[0]) == facts(answers[1]) == facts(answers[2])
    assert len({tuple(sorted(a.headers.keys())) for a in answers}) == 1
    async with row(stored, ann) as user:
        assert user.locked_until
        assert timedelta(seconds=50) < user.locked_until - datetime.now(UTC) <= MINUTE
        user.locked_until = datetime.now(UTC)
    assert (await ann.log_in()).status_code == 200
    async with row(stored, ann) as user:
        assert (user.failures, user.locked_until) == (0, None)
    done = await recorded(stored, ann)
    assert done == ["log_in.failed"] * 10 + ["account.locked", "log_in.failed", "session.begun"]


async def test_nine_lock_nothing_and_the_right_one_begins_to_count_anew(
    stored: SqlDatabase, ann: Holder
) -> None:
    """A person who mistypes is let in."""
    for _ in range(2):
        await guess(ann, 9)
        assert (await ann.log_in()).status_code == 200
    async with row(stored, ann) as user:
        assert user.failures == 0


async def test_each_further_guess_locks_for_twice_as_long_up_to_an_hour(
    stored: SqlDatabase, ann: Holder
) -> None:
    """While it is locked nothing counts: nobody can keep somebody out by guessing on."""
    expected = [1, 2, 4, 8, 16, 32, 60, 60]
    assert [lock_after(number) for number in range(10, 18)] == [MINUTE * each for each in expected]
    async with row(stored, ann) as user:
        user.failures = 9
    for number, minutes in enumerate(expected, 10):
        before = datetime.now(UTC)
        await guess(ann, 1)
        async with row(stored, ann) as user:
            assert user.failures == number
            assert user.locked_until
            assert MINUTE * minutes <= user.locked_until - before < MINUTE * (minutes + 0.5)
            ends = user.locked_until
        await guess(ann, 2)
        async with row(stored, ann) as user:
            assert (user.failures, user.locked_until) == (number, ends)
            user.locked_until = datetime.now(UTC)


async def test_guesses_at_one_moment_all_count(stored: SqlDatabase, ann: Holder) -> None:
    """However many are verified at once, ten count, and the account is locked."""
    await asyncio.gather(*(ann.log_in(password=WRONG) for _ in range(20)))
    async with row(stored, ann) as user:
        assert user.failures == 10
        assert user.locked_until
    assert outcome(await ann.log_in()) == WRONG_CREDENTIALS


async def test_a_lock_counts_that_came_while_the_password_was_verified(
    common: RunningServer, stored: SqlDatabase, ann: Holder
) -> None:
    """Of many guesses at once the right one is no luckier for having begun before the lock."""
    gate = Gate(common)
    try:
        with gate.closed():
            attempt = asyncio.create_task(ann.log_in())
            assert await asyncio.to_thread(gate.entered.wait, DEADLINE)
            async with row(stored, ann) as user:
                user.failures, user.locked_until = 10, datetime.now(UTC) + MINUTE
        assert outcome(await attempt) == WRONG_CREDENTIALS
    finally:
        gate.leave()


async def test_a_wrong_password_an_unknown_address_and_a_locked_account_are_as_much_work(
    common: RunningServer, stored: SqlDatabase, ann: Holder
) -> None:
    """The same statements in the same order, up to the commit."""
    locked, nobody = await holder(common, stored), f"{uuid4().hex}@example.com"
    async with row(stored, locked) as user:
        user.failures, user.locked_until = 10, datetime.now(UTC) + MINUTE
    done = []
    for email, password in (
        *((ann.email, WRONG), (nobody, WRONG)),
        *((locked.email, WRONG), (locked.email, PASSWORD)),
    ):
        with statements(common, "the test") as seen:
            async with common.client() as client:
                client.headers["User-Agent"] = "the test"
                assert outcome(await log_in(client, email, password)) == WRONG_CREDENTIALS
        done.append(seen)
    assert len(done[0]) >= 3
    assert all(seen == done[0] for seen in done)


async def test_the_audit_log_has_no_address_of_whoever_has_no_account(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """It has a fingerprint, which is the same for each try and each spelling."""
    name = uuid4().hex
    async with common.client() as client:
        for email in (f"{name}@example.com", f"{name.upper()}@Example.com", "b" * 10_000):
            await log_in(client, email, WRONG)
    failed = select(AuditRow).where(AuditRow.action == "log_in.failed", AuditRow.subject.is_(None))
    async with stored.reading() as session:
        rows = (await session.scalars(failed.order_by(AuditRow.id.desc()).limit(3))).all()
    prints = [row.details["fingerprint"] for row in rows]
    assert prints[1] == prints[2] != prints[0]
    assert all(len(each) == 16 for each in prints)
    assert name not in str([row.details for row in rows])


async def test_wrong_passwords_beside_a_token_count_as_well(
    stored: SqlDatabase, ann: Holder
) -> None:
    """Whoever has somebody's session cannot guess on there; they are told, as they know of it."""
    pair = await ann.begin()
    async with row(stored, ann) as user:
        user.failures = 8
    bodies = [
        ("POST", "/me/password", {"current": WRONG, "new": "another battery of staples"}),
        ("DELETE", "/me", {"password": WRONG}),
    ]
    for method, path, json in bodies:
        answer = await ann.call(pair, method, API + path, json=json)
        assert outcome(answer) == (403, "accounts.wrong_password")
    wanted = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    for right in (
        await ann.call(pair, "DELETE", f"{API}/me", json={"password": PASSWORD}),
        await ann.call(pair, "POST", f"{API}/me/email", json=wanted),
    ):
        assert outcome(right) == (429, "accounts.locked")
        assert 50 <= int(right.headers["Retry-After"]) <= 60
    assert outcome(await ann.log_in()) == WRONG_CREDENTIALS
    done = await recorded(stored, ann)
    assert done.count("password.wrong") == 2
    assert "account.locked" in done


async def test_a_reset_unlocks_the_account(
    common: RunningServer, stored: SqlDatabase, ann: Holder
) -> None:
    """Whoever is locked out by somebody's guesses has a way in."""
    mailbox = Mailbox(common)
    async with row(stored, ann) as user:
        user.failures, user.locked_until = 20, datetime.now(UTC) + MINUTE
    async with common.client() as client:
        await ask(client, "password/forgot", email=ann.email)
        token = await mailbox.token(ann.email)
        done = await ask(client, "password/reset", token=token, password="x" + PASSWORD)
        assert done.status_code == 200
    assert (await ann.log_in(password="x" + PASSWORD)).status_code == 200


async def test_an_account_without_a_password_has_none_that_is_right(
    stored: SqlDatabase, ann: Holder
) -> None:
    """Who signs in with a provider alone; neither is it what is verified for nobody."""
    async with stored.unit_of_work() as uow:
        await uow.execute(update(User).where(User.id == ann.id).values(password_hash=""))
    for password in (PASSWORD, "nobody has this password", ""):
        answer = await ann.log_in(password=password)
        assert answer.status_code in (401, 422)


async def test_log_ins_at_one_address_are_counted_too(common: RunningServer) -> None:
    """Sixty in a minute, whether there is an account or not."""
    email = f"{uuid4().hex}@example.com"
    throttle = common.app.state.limits
    from app.features.accounts.throttles import LOG_INS_OF_ONE

    fingerprint = common.app.state.fingerprints.of(email)
    for _ in range(60):
        await throttle.hit(LOG_INS_OF_ONE, fingerprint)
    async with common.client() as client:
        assert outcome(await log_in(client, email)) == (429, "rate_limited")
