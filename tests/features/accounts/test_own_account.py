"""What people change of their own: password, address, name; and the end of an account."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import APIRouter
from sqlalchemy import select, update

from app.core.auth import CurrentUser
from app.core.db import SqlDatabase
from app.features.accounts.models import ApiKey, IssuedRefreshToken, MailedLink, Session, User
from app.realtime import Channel
from tests.features.accounts.holders import Holder, holder, outcome, recorded
from tests.features.accounts.mailbox import API, Mailbox, ask, text_of
from tests.features.accounts.people import PASSWORD, Gate, log_in, refresh
from tests.server import RunningServer

NEW = "another battery of staples"
REFUSED = (410, "accounts.link_refused")
WRONG_PASSWORD = (403, "accounts.wrong_password")
WRONG_CREDENTIALS = (401, "accounts.wrong_credentials")
REVOKED = (401, "session_revoked")

router = APIRouter()


@router.websocket("/own")
class Own(Channel):
    """Open to whoever is signed in."""

    user: CurrentUser


@pytest.fixture
def mailbox(common: RunningServer) -> Mailbox:
    """What is mailed."""
    return Mailbox(common)


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


async def status(person: Holder, pair: dict[str, Any]) -> int:
    """What the account answers to an access token."""
    return (await person.call(pair, "GET", f"{API}/me")).status_code


async def change(person: Holder, pair: dict[str, Any], what: str, **json: Any) -> tuple[int, str]:
    """The outcome of a change; the code is empty where it has succeeded."""
    method, path = {"name": ("PATCH", ""), "delete": ("DELETE", "")}.get(what, ("POST", f"/{what}"))
    answer = await person.call(pair, method, f"{API}/me{path}", json=json)
    return (answer.status_code, "") if answer.is_success else outcome(answer)


async def test_a_forgotten_password_is_chosen_anew_and_all_sessions_end(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """Their sockets too; the link is good once, and the account is told of it."""
    pairs = [await ann.begin() for _ in range(2)]
    async with common.client() as client, common.socket("/own", pairs[0]["access_token"]) as own:
        await own.until("welcome")
        # The mail goes to the address that the account has, however it was written here.
        await ask(client, "password/forgot", email=ann.email.upper())
        assert (await mailbox.mail(ann.email))["To"] == ann.email
        token = await mailbox.token(ann.email)
        weak = await ask(client, "password/reset", token=token, password=f"{ann.email}1")
        assert outcome(weak) == (422, "invalid_parameter")
        done = await ask(client, "password/reset", token=token, password=NEW)
        assert (done.status_code, done.json()) == (200, {"api_keys": 0})
        assert (await own.ending())[:2] == (4401, "session_revoked")
        for pair in pairs:
            assert await status(ann, pair) == 401
            assert (await refresh(client, pair["refresh_token"])).status_code == 401
        assert outcome(await ann.log_in()) == WRONG_CREDENTIALS
        assert (await ann.log_in(password=NEW)).status_code == 200
        again = await ask(client, "password/reset", token=token, password=PASSWORD)
        assert outcome(again) == REFUSED
    told = await mailbox.mail(ann.email, 2)
    assert "was changed" in told["Subject"]
    assert token not in text_of(told)
    assert "password.reset" in await recorded(stored, ann)


async def test_of_two_resets_at_once_one_succeeds(
    common: RunningServer, mailbox: Mailbox, ann: Holder
) -> None:
    """The password is that of the one which did."""
    async with common.client() as client:
        await ask(client, "password/forgot", email=ann.email)
        token = await mailbox.token(ann.email)
        chosen = [f"{NEW} {number}" for number in range(4)]
        answers = await asyncio.gather(
            *(ask(client, "password/reset", token=token, password=each) for each in chosen)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 410, 410, 410]
        right = chosen[[answer.status_code for answer in answers].index(200)]
        assert (await log_in(client, ann.email, right)).status_code == 200


async def test_a_reset_link_is_good_for_an_hour(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """And until another was used, or the password was changed."""
    async with common.client() as client:
        for _ in range(3):
            await ask(client, "password/forgot", email=ann.email)
        tokens = [await mailbox.token(ann.email, number) for number in (1, 2, 3)]
        async with stored.unit_of_work() as uow:
            links = (await uow.scalars(select(MailedLink).filter_by(user_id=ann.id))).all()
            assert all(
                timedelta(minutes=59) < link.expires_at - datetime.now(UTC) <= timedelta(hours=1)
                for link in links
            )
            over = update(MailedLink).values(expires_at=datetime.now(UTC))
            digest = links[0].digest
            await uow.execute(over.where(MailedLink.digest == digest))
        answers = [await ask(client, "password/reset", token=t, password=NEW) for t in tokens]
    assert sorted(answer.status_code for answer in answers) == [200, 410, 410]


async def test_a_log_in_under_way_begins_nothing_with_the_password_of_before(
    common: RunningServer, mailbox: Mailbox, ann: Holder
) -> None:
    """What is right is decided as the session begins, not when the password was looked up."""
    gate = Gate(common)
    try:
        async with common.client() as client:
            await ask(client, "password/forgot", email=ann.email)
            token = await mailbox.token(ann.email)
            with gate.closed():
                attempt = asyncio.create_task(ann.log_in())
                assert await asyncio.to_thread(gate.entered.wait, 10)
                done = await ask(client, "password/reset", token=token, password=NEW)
                assert done.status_code == 200
            assert outcome(await attempt) == WRONG_CREDENTIALS
    finally:
        gate.leave()


async def test_a_changed_password_ends_the_other_sessions(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """The one that changed it goes on, and its socket stays open; links of before are void."""
    mine, other = await ann.begin(), await ann.begin()
    async with (
        common.client() as client,
        common.socket("/own", mine["access_token"]) as stays,
        common.socket("/own", other["access_token"]) as ends,
    ):
        await stays.until("welcome")
        await ask(client, "password/forgot", email=ann.email)
        token = await mailbox.token(ann.email)
        assert await change(ann, mine, "password", current="wrong", new=NEW) == WRONG_PASSWORD
        weak = await change(ann, mine, "password", current=PASSWORD, new="qwertyuiop")
        assert weak == (422, "invalid_parameter")
        assert await change(ann, mine, "password", current=PASSWORD, new=NEW) == (204, "")
        assert (await ends.ending())[:2] == (4401, "session_revoked")
        assert (await stays.ask("ping"))["type"] == "pong"
        assert (await status(ann, mine), await status(ann, other)) == (200, 401)
        assert (await refresh(client, mine["refresh_token"])).status_code == 200
        void = await ask(client, "password/reset", token=token, password=PASSWORD)
        assert outcome(void) == REFUSED
    assert "was changed" in (await mailbox.mail(ann.email, 2))["Subject"]
    assert "password.changed" in await recorded(stored, ann)


async def test_an_address_is_another_once_it_is_confirmed_there(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """Until then it is the one of before, which is told at last."""
    pair, new = await ann.begin(), f"new.{uuid4().hex}@example.com"
    assert await change(ann, pair, "email", email=new, password="wrong") == WRONG_PASSWORD
    assert await change(ann, pair, "email", email=new, password=PASSWORD) == (202, "")
    token = await mailbox.token(new)
    async with common.client() as client:
        assert outcome(await log_in(client, new)) == WRONG_CREDENTIALS
        assert (await ask(client, "email/confirm", token=token)).status_code == 204
        assert (await log_in(client, new)).status_code == 200
        assert outcome(await log_in(client, ann.email)) == WRONG_CREDENTIALS
        assert outcome(await ask(client, "email/confirm", token=token)) == REFUSED
    told = await mailbox.mail(ann.email)
    assert "address" in told["Subject"]
    assert new not in str(told)
    assert (await ann.call(pair, "GET", f"{API}/me")).json()["email"] == new
    assert "email.changed" in await recorded(stored, ann)


async def test_another_spelling_of_ones_own_address_can_be_confirmed(
    common: RunningServer, mailbox: Mailbox, ann: Holder
) -> None:
    """It is nobody else's."""
    pair, spelled = await ann.begin(), ann.email.upper()
    assert await change(ann, pair, "email", email=spelled, password=PASSWORD) == (202, "")
    async with common.client() as client:
        token = await mailbox.token(spelled)
        assert (await ask(client, "email/confirm", token=token)).status_code == 204
    assert (await ann.call(pair, "GET", f"{API}/me")).json()["email"] == spelled


async def test_nothing_tells_whether_an_address_that_is_wanted_is_somebodys(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """The answer is the same; whoever has it is mailed, and no link. Nor can it be taken later."""
    bob, pair, free = await holder(common, stored), await ann.begin(), f"{uuid4().hex}@example.com"
    for email in (bob.email, free):
        assert await change(ann, pair, "email", email=email, password=PASSWORD) == (202, "")
    assert "#" not in text_of(await mailbox.mail(bob.email))
    token = await mailbox.token(free)
    async with stored.unit_of_work() as uow:
        taken = update(User).where(User.id == bob.id).values(email=free, email_key=free)
        await uow.execute(taken)
    async with common.client() as client:
        answer = await ask(client, "email/confirm", token=token)
    assert outcome(answer) == (409, "accounts.email_taken")
    assert (await ann.call(pair, "GET", f"{API}/me")).json()["email"] == ann.email


async def test_what_cannot_be_undone_takes_a_fresh_proof(stored: SqlDatabase, ann: Holder) -> None:
    """Who signed in long ago is asked again before the address changes or the account goes."""
    pair = await ann.begin()
    long_ago = datetime.now(UTC) - timedelta(minutes=11)
    async with stored.unit_of_work() as uow:
        await uow.execute(
            update(Session).where(Session.user_id == ann.id).values(authenticated_at=long_ago)
        )
    async with ann.server.client() as client:
        old = (await refresh(client, pair["refresh_token"])).json()
    wanted = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    assert await change(ann, old, "email", **wanted) == (401, "step_up_required")
    assert await change(ann, old, "delete", password=PASSWORD) == (401, "step_up_required")
    fresh = (await ann.step_up(old, password=PASSWORD)).json()
    assert await change(ann, fresh, "email", **wanted) == (202, "")


async def test_a_name_is_another_in_the_next_token(common: RunningServer, ann: Holder) -> None:
    """The answer has it at once; a name that none could have is refused."""
    pair = await ann.begin()
    renamed = await ann.call(pair, "PATCH", f"{API}/me", json={"name": " Ann Lee "})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Ann Lee")
    for wrong in ("", " ", "a" * 81, "Ann\nLee", None):
        assert await change(ann, pair, "name", name=wrong) == (422, "invalid_parameter")
    async with common.client() as client:
        after = (await refresh(client, pair["refresh_token"])).json()
    claims = common.app.state.tokens.verify(after["access_token"])
    assert claims.name == "Ann Lee"


async def test_a_deleted_account_is_gone_with_all_that_is_its_own(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox, ann: Holder
) -> None:
    """Sessions and sockets end, the rows go, the audit log stays, and the address is free."""
    pair, other = await ann.begin(), await ann.begin()
    now = datetime.now(UTC)
    key = ApiKey(
        user_id=ann.id,
        name="key",
        prefix="x",
        digest=uuid4().hex,
        scopes=[],
        created_at=now,
        expires_at=now,
    )
    async with stored.unit_of_work() as uow:
        uow.add(key)
    assert await change(ann, pair, "delete", password="wrong") == WRONG_PASSWORD
    assert await change(ann, pair, "delete") == (422, "invalid_parameter")
    async with common.client() as client, common.socket("/own", other["access_token"]) as own:
        await own.until("welcome")
        await ask(client, "password/forgot", email=ann.email)
        await mailbox.token(ann.email)
        assert await change(ann, pair, "delete", password=PASSWORD) == (204, "")
        assert (await own.ending())[:2] == (4401, "session_revoked")
        assert await status(ann, pair) == 401
        assert outcome(await log_in(client, ann.email)) == WRONG_CREDENTIALS
        assert "deleted" in (await mailbox.mail(ann.email, 2))["Subject"]
        await ask(client, "sign-up", email=ann.email, name="Ann")
        assert "Choose a password" in (await mailbox.mail(ann.email, 3))["Subject"]
    async with stored.reading() as session:
        for table in (ApiKey, Session, MailedLink):
            rows = select(table).where(table.user_id == ann.id)
            assert (await session.scalars(rows)).all() == []
        tokens = select(IssuedRefreshToken).where(
            ~IssuedRefreshToken.session_id.in_(select(Session.id))
        )
        assert (await session.scalars(tokens)).all() == []
    assert "account.deleted" in await recorded(stored, ann)


async def test_a_refresh_races_a_deletion_and_neither_fails(
    common: RunningServer, ann: Holder
) -> None:
    """Whichever is first: nobody waits for the other for ever, and nothing is left to use."""
    pair = await ann.begin()
    others = [await ann.begin() for _ in range(4)]
    async with common.client() as client:
        racing = [asyncio.create_task(refresh(client, each["refresh_token"])) for each in others]
        assert await change(ann, pair, "delete", password=PASSWORD) == (204, "")
        answers = await asyncio.gather(*racing)
        assert {answer.status_code for answer in answers} <= {200, 401}
        for answer in answers:
            if answer.is_success:
                assert await status(ann, answer.json()) == 401


async def test_an_account_that_is_gone_can_change_nothing(common: RunningServer) -> None:
    """Its token is still signed."""
    nobody = Holder(common, 0, "")
    token = common.token("9999999", authenticated_at=datetime.now(UTC))
    pair = {"access_token": token}
    gone = (404, "accounts.gone")
    assert await change(nobody, pair, "password", current=PASSWORD, new=NEW) == gone
    assert await change(nobody, pair, "name", name="Ann") == gone
    assert await change(nobody, pair, "delete", password=PASSWORD) == gone
    wanted = {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}
    assert await change(nobody, pair, "email", **wanted) == gone
