"""The second factor: in force once it is confirmed, each code good once, and how it is lost."""

import asyncio
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pyotp
from sqlalchemy import func, select, update

from app.core.db import SqlDatabase
from app.features.accounts.models import RecoveryCode, SecondFactor, User
from tests.features.accounts.holders import (
    FACTOR,
    claims,
    enrolled,
    failures,
    holder,
    outcome,
    recorded,
)
from tests.features.accounts.people import Gate, code, me, refresh
from tests.server import RunningServer

REQUIRED = (401, "accounts.second_factor_required")
WRONG_CODE = (401, "accounts.wrong_code")
WRONG_CREDENTIALS = (401, "accounts.wrong_credentials")
STEP_UP = (401, "step_up_required")


async def test_a_factor_that_is_set_up_is_not_in_force_before_a_code_confirms_it(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Until then nobody is asked for it, and to set it up again replaces it."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    first = await ann.call(pair, "POST", FACTOR)
    assert first.status_code == 201
    assert first.json().keys() == {"secret", "uri", "qr"}
    assert first.headers["Cache-Control"] == "no-store"
    parsed = pyotp.parse_uri(first.json()["uri"])
    assert (parsed.name, parsed.issuer) == (ann.email, "Duplex")
    assert parsed.secret == first.json()["secret"]
    assert first.json()["qr"].startswith("<svg ")
    status = (await ann.call(pair, "GET", FACTOR)).json()
    assert status == {"enabled": False, "created_at": None, "recovery_codes_left": 0}
    await ann.begin()
    second = (await ann.call(pair, "POST", FACTOR)).json()
    assert second["secret"] != first.json()["secret"]
    ann.secret = first.json()["secret"]
    replaced = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": ann.code()})
    assert outcome(replaced) == (422, "invalid_parameter")
    ann.secret = second["secret"]
    spaced = f"{ann.code()[:3]} {ann.code()[3:]}"
    confirmed = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": spaced})
    assert confirmed.status_code == 200
    assert outcome(await ann.log_in()) == REQUIRED


async def test_the_secret_and_the_codes_cannot_be_read_from_the_database(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The secret is encrypted for its user, the codes are digests."""
    ann, _ = await enrolled(common, stored)
    async with stored.reading() as session:
        kept = await session.get_one(SecondFactor, ann.id)
        digests = (
            await session.scalars(select(RecoveryCode.digest).where(RecoveryCode.user_id == ann.id))
        ).all()
    assert ann.secret not in kept.secret
    assert len(kept.secret) < 255
    assert len(digests) == 10
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)


async def test_a_confirmation_gives_codes_and_ends_all_other_sessions(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The one that confirms goes on; a wrong code changes nothing, and is no guess."""
    ann = await holder(common, stored)
    elsewhere, pair = await ann.begin(), await ann.begin()
    ann.secret = (await ann.call(pair, "POST", FACTOR)).json()["secret"]
    for wrong in (ann.wrong_code(), ann.code(2), "abcdef", "abcd-efgh-ijkl-mnop"):
        answer = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": wrong})
        assert outcome(answer) == (422, "invalid_parameter")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", "code"]]
    assert await failures(stored, ann) == 0
    done = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": ann.code()})
    assert done.json().keys() == {"recovery_codes"}
    assert len(done.json()["recovery_codes"]) == 10
    status = (await ann.call(pair, "GET", FACTOR)).json()
    assert (status["enabled"], status["recovery_codes_left"]) == (True, 10)
    age = datetime.now(UTC) - datetime.fromisoformat(status["created_at"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    async with common.client() as client:
        assert outcome(await me(client, elsewhere["access_token"])) == (401, "session_revoked")
        refused = await refresh(client, elsewhere["refresh_token"])
        assert outcome(refused) == (401, "accounts.refresh_refused")
        assert (await refresh(client, pair["refresh_token"])).status_code == 200
    expected = ["session.begun", "session.begun", "second_factor.added", "session.ended"]
    assert await recorded(stored, ann) == expected


async def test_a_factor_in_force_is_not_replaced(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whoever has a session cannot put another authenticator in its place."""
    ann, pair = await enrolled(common, stored)
    in_force = (409, "accounts.second_factor_in_force")
    assert outcome(await ann.call(pair, "POST", FACTOR)) == in_force
    again = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": ann.code(1)})
    assert outcome(again) == in_force
    assert (await ann.log_in(ann.code(1))).status_code == 200


async def test_of_ten_confirmations_at_once_one_succeeds(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """So there is one set of recovery codes."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    ann.secret = (await ann.call(pair, "POST", FACTOR)).json()["secret"]
    body = {"code": ann.code()}
    calls = (ann.call(pair, "POST", f"{FACTOR}/confirm", json=body) for _ in range(10))
    answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 9}


async def test_there_is_nothing_to_confirm_remove_or_renew_without_a_factor(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whoever has none is told so, also in a session that proved the one there was."""
    ann, _ = await enrolled(common, stored)
    pair = await ann.begin(ann.code(1))
    assert (await ann.call(pair, "DELETE", FACTOR)).status_code == 204
    none = (404, "accounts.no_second_factor")
    assert outcome(await ann.call(pair, "DELETE", FACTOR)) == none
    assert outcome(await ann.call(pair, "POST", f"{FACTOR}/recovery-codes")) == none
    confirm = await ann.call(pair, "POST", f"{FACTOR}/confirm", json={"code": "123456"})
    assert outcome(confirm) == none


async def test_a_log_in_takes_the_password_and_then_a_code(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Without the password nothing is told of the factor, and no code is used up."""
    ann, _ = await enrolled(common, stored)
    bob = await holder(common, stored)
    good = ann.code(1)
    without = await ann.log_in()
    assert outcome(without) == REQUIRED
    assert without.headers["WWW-Authenticate"] == "Bearer"
    assert outcome(await ann.log_in(good, "wrong horse battery")) == WRONG_CREDENTIALS
    assert outcome(await ann.log_in(None, "wrong horse battery")) == WRONG_CREDENTIALS
    for wrong in (ann.wrong_code(), "abcdef", "\u0661" * 6, "0" * 64, " "):
        assert outcome(await ann.log_in(wrong)) == WRONG_CODE
    assert outcome(await ann.log_in("0" * 65)) == (422, "invalid_parameter")
    said = claims(await ann.begin(good))
    assert said["amr"] == ["otp", "pwd"]
    assert time.time() - said["auth_time"] < 60
    # Whoever has no factor may send a code all the same.
    assert claims(await bob.begin("123456"))["amr"] == ["pwd"]


async def test_a_code_is_good_once_and_so_is_all_before_it(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Also a code of a step before the one that was used, which was never seen."""
    ann, _ = await enrolled(common, stored)
    common.app.state.second_factors.clock.move(4)
    before, now, after = ann.code(-1), ann.code(), ann.code(1)
    await ann.begin(now)
    assert outcome(await ann.log_in(now)) == WRONG_CODE
    assert outcome(await ann.log_in(before)) == WRONG_CODE
    await ann.begin(after)
    assert outcome(await ann.log_in(after)) == WRONG_CODE
    common.app.state.second_factors.clock.move(4)
    for steps in (2, -2):
        assert outcome(await ann.log_in(ann.code(steps))) == WRONG_CODE
    await ann.begin(ann.code(-1))


async def test_of_ten_requests_with_one_code_one_succeeds(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The code of the authenticator and a recovery code alike, whichever way they come."""
    ann, pair = await enrolled(common, stored)
    for good in (ann.code(1), ann.recovery_codes[0]):
        answers = await asyncio.gather(
            *(ann.log_in(good) for _ in range(5)),
            *(ann.step_up(pair, code=good) for _ in range(4)),
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 401: 8}
        refused = {code(answer) for answer in answers if answer.status_code == 401}
        assert refused == {"accounts.wrong_code"}
        pair = await ann.begin(ann.recovery_codes.pop())


async def test_a_recovery_code_stands_in_for_the_authenticator_once(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """In any spelling, for whom it was made, as an authenticator's code would."""
    ann, pair = await enrolled(common, stored)
    bob, _ = await enrolled(common, stored)
    first, second = ann.recovery_codes[:2]
    assert outcome(await bob.log_in(first)) == WRONG_CODE
    said = claims(await ann.begin(f" {first.upper().replace('-', '')} "))
    assert said["amr"] == ["otp", "pwd"]
    assert outcome(await ann.log_in(first)) == WRONG_CODE
    assert (await ann.call(pair, "GET", FACTOR)).json()["recovery_codes_left"] == 9
    await ann.begin(second)
    assert (await ann.call(pair, "GET", FACTOR)).json()["recovery_codes_left"] == 8
    assert (await recorded(stored, ann)).count("recovery_code.used") == 2
    await ann.begin(ann.code(1))


async def test_new_recovery_codes_take_the_place_of_the_old(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """It takes a session that has given a code."""
    ann, before = await enrolled(common, stored)
    path = f"{FACTOR}/recovery-codes"
    assert outcome(await ann.call(before, "POST", path)) == STEP_UP
    pair = await ann.begin(ann.recovery_codes[0])
    new = (await ann.call(pair, "POST", path)).json()["recovery_codes"]
    assert len({*new, *ann.recovery_codes}) == 20
    assert outcome(await ann.log_in(ann.recovery_codes[1])) == WRONG_CODE
    assert (await ann.call(pair, "GET", FACTOR)).json()["recovery_codes_left"] == 10
    await ann.begin(new[0])
    assert "recovery_codes.renewed" in await recorded(stored, ann)


async def test_a_factor_that_is_removed_is_asked_for_no_more(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """It takes a session that has given a code; the recovery codes go with it."""
    ann, before = await enrolled(common, stored)
    assert outcome(await ann.call(before, "DELETE", FACTOR)) == STEP_UP
    pair = await ann.begin(ann.code(1))
    assert (await ann.call(pair, "DELETE", FACTOR)).status_code == 204
    status = (await ann.call(pair, "GET", FACTOR)).json()
    assert status == {"enabled": False, "created_at": None, "recovery_codes_left": 0}
    assert "second_factor.removed" in await recorded(stored, ann)
    async with stored.reading() as session:
        for table in (SecondFactor, RecoveryCode):
            left = select(func.count()).where(table.user_id == ann.id)
            assert await session.scalar(left) == 0
    old, pair = ann.recovery_codes, await ann.begin()
    common.app.state.second_factors.clock.move()
    await ann.enrol(pair)
    assert outcome(await ann.log_in(old[0])) == WRONG_CODE


async def test_what_changes_the_factor_takes_a_fresh_session_of_a_person(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Not one that was proved long ago, and no key; nobody else sees anything of it."""
    ann, _ = await enrolled(common, stored)
    long_ago = datetime.now(UTC) - timedelta(minutes=11)
    methods = ["otp", "pwd"]
    old = common.token(str(ann.id), authenticated_at=long_ago, methods=methods)
    key = common.token(str(ann.id), authenticated_at=datetime.now(UTC), methods=methods, scopes=[])
    for token, expected in ((old, STEP_UP), (key, (403, "insufficient_scope"))):
        async with common.client(token) as client:
            assert outcome(await client.post(FACTOR)) == expected
            assert outcome(await client.delete(FACTOR)) == expected
            assert outcome(await client.post(f"{FACTOR}/recovery-codes")) == expected
            body = {"code": ann.code(1)}
            assert outcome(await client.post(f"{FACTOR}/confirm", json=body)) == expected
    async with common.client() as client:
        assert outcome(await client.get(FACTOR)) == (401, "authentication_failed")
        assert outcome(await client.post(FACTOR)) == (401, "authentication_failed")


async def test_an_account_that_is_gone_gets_no_factor(common: RunningServer) -> None:
    """Its token may still be good."""
    token = common.token("999999", authenticated_at=datetime.now(UTC), methods=["pwd"])
    async with common.client(token) as client:
        assert outcome(await client.post(FACTOR)) == (404, "accounts.gone")


async def test_wrong_codes_lock_as_wrong_passwords_do(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """The tenth in a row does; the right password alone begins no new row."""
    ann, pair = await enrolled(common, stored)

    async def missed(times: int) -> None:
        async with stored.unit_of_work() as uow:
            missed = update(User).where(User.id == ann.id)
            await uow.execute(missed.values(failures=times, locked_until=None))

    await missed(8)
    assert outcome(await ann.log_in()) == REQUIRED
    assert await failures(stored, ann) == 8
    await ann.begin(ann.recovery_codes[0])
    assert await failures(stored, ann) == 0
    await missed(8)
    assert outcome(await ann.log_in(ann.wrong_code())) == WRONG_CODE
    assert await failures(stored, ann) == 9
    assert outcome(await ann.log_in(ann.wrong_code())) == WRONG_CODE
    assert outcome(await ann.log_in(ann.code(1))) == WRONG_CREDENTIALS
    locked = await ann.step_up(pair, code=ann.code(1))
    assert outcome(locked) == (429, "accounts.locked")
    assert 0 < int(locked.headers["Retry-After"]) == locked.json()["retry_after"] <= 60
    assert (await recorded(stored, ann))[-3:] == [
        "log_in.failed",
        "account.locked",
        "log_in.failed",
    ]


async def test_wrong_codes_at_one_moment_are_all_counted(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """A hundred guesses at once are ten, and then a locked account."""
    ann, pair = await enrolled(common, stored)
    guesses = (ann.step_up(pair, code=ann.wrong_code()) for _ in range(20))
    answers = await asyncio.gather(*guesses)
    assert Counter(answer.status_code for answer in answers) == {401: 10, 429: 10}


async def test_a_log_in_under_way_meets_the_factor_that_is_confirmed_meanwhile(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whether there is one is decided when the session begins."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    gate = Gate(common)
    with gate.closed():
        attempt = asyncio.create_task(ann.log_in())
        assert await asyncio.to_thread(gate.entered.wait, 10)
        await ann.enrol(pair)
    assert outcome(await attempt) == REQUIRED
