"""Notices: who owns an account hears by mail of what is changed in it, and in time."""

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest

from app.core.db import SqlDatabase
from app.core.secrets_at_rest import digest_of
from app.features.accounts.models import ApiKey
from app.features.accounts.notices import CHANGES
from tests.features.accounts.administering import administrator
from tests.features.accounts.holders import FACTOR, Clock, Holder, enrolled, holder, outcome
from tests.features.accounts.mailbox import API, Mailbox, ask, text_of
from tests.features.accounts.people import PASSWORD
from tests.server import RunningServer

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
KEY = {"name": "A <b>script</b>", "scopes": ["admin"], "expires_in_days": 7}


@pytest.fixture
def mailbox(common: RunningServer) -> Mailbox:
    """What is mailed."""
    return Mailbox(common)


async def told(mailbox: Mailbox, person: Holder, number: int = 1) -> str:
    """What the notice of this number says, with its subject; it says when, and opens nothing."""
    mail = await mailbox.mail(person.email, number)
    text = f"{mail['Subject']}\n{text_of(mail)}"
    assert f"{datetime.now(UTC):%B %Y}, " in text
    assert "token=" not in str(mail)
    return text


def html_of(mail: EmailMessage) -> str:
    """What a mail says to whoever reads HTML."""
    body = mail.get_body(("html",))
    assert body
    html: str = body.get_content()
    return html


async def good_key(database: SqlDatabase, person: Holder, **changed: Any) -> None:
    """An API key of somebody's, good unless it is changed."""
    now = datetime.now(UTC)
    values = {"created_at": now, "expires_at": now + timedelta(days=1)} | changed
    digest = digest_of(uuid4().hex)
    async with database.unit_of_work() as uow:
        uow.add(ApiKey(user_id=person.id, name="x", prefix="x", digest=digest, scopes=[], **values))


async def test_a_key_that_is_made_is_told(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """What it may do, from where it was made and by what; not the key. A refusal tells nothing."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    refused = await ann.call(pair, "POST", "/api/v1/api-keys", json=KEY | {"scopes": ["nothing"]})
    assert refused.status_code == 422
    headers = {"User-Agent": FIREFOX}
    made = await ann.call(pair, "POST", "/api/v1/api-keys", json=KEY, headers=headers)
    said = await told(mailbox, ann)
    assert "has a new API key" in said
    assert "A <b>script</b>" in said
    assert "for: admin." in said
    assert "from 127.0.0.1 (Firefox on Linux)." in said
    mail = await mailbox.mail(ann.email)
    assert made.json()["key"] not in str(mail)
    assert "A &lt;b&gt;script&lt;/b&gt;" in html_of(mail)


async def test_each_change_of_a_second_factor_is_told(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """That there is one, that its recovery codes are others, and that there is none."""
    ann, pair = await enrolled(common, stored)
    assert "has a second factor" in await told(mailbox, ann)
    clock: Clock = common.app.state.second_factors.clock
    clock.move()
    fresh = (await ann.step_up(pair, code=ann.code())).json()
    renewed = await ann.call(fresh, "POST", f"{FACTOR}/recovery-codes")
    said = await told(mailbox, ann, 2)
    assert "recovery codes" in said
    assert not any(each in said for each in renewed.json()["recovery_codes"])
    assert (await ann.call(fresh, "DELETE", FACTOR)).status_code == 204
    assert "no second factor any more" in await told(mailbox, ann, 3)


async def test_both_addresses_are_told_that_it_is_another(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """The one of before does not learn the new one."""
    ann = await holder(common, stored)
    before, new = ann.email, f"new.{uuid4().hex}@example.com"
    wanted = {"email": new, "password": PASSWORD}
    await ann.call(await ann.begin(), "POST", f"{API}/me/email", json=wanted)
    async with common.client() as client:
        token = await mailbox.token(new)
        assert (await ask(client, "email/confirm", token=token)).status_code == 204
    said = await told(mailbox, ann)
    assert f"Your address at {common.settings.public_url.partition('//')[2]} was changed" in said
    assert new not in str(await mailbox.mail(before))
    ann.email = new
    assert "This is the address of your account" in await told(mailbox, ann, 2)


async def test_who_resets_a_password_hears_which_keys_are_left(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """On the page and by mail, with where to revoke them; those that are over do not count."""
    ann, now = await holder(common, stored), datetime.now(UTC)
    for changed in ({}, {}, {"revoked_at": now}, {"expires_at": now}):
        await good_key(stored, ann, **changed)
    async with common.client() as client:
        await ask(client, "password/forgot", email=ann.email)
        token = await mailbox.token(ann.email)
        done = await ask(client, "password/reset", token=token, password=f"{PASSWORD} 2")
    assert done.json() == {"api_keys": 2}
    said = await told(mailbox, ann, 2)
    assert "2 of your API keys are still good" in said
    assert "http://localhost:8000/#accounts/programs" in said
    change = {"current": f"{PASSWORD} 2", "new": f"{PASSWORD} 3"}
    pair = (await ann.log_in(password=f"{PASSWORD} 2")).json()
    assert (await ann.call(pair, "POST", f"{API}/me/password", json=change)).status_code == 204
    assert "2 of your API keys are still good" in await told(mailbox, ann, 3)


async def test_what_an_administrator_does_is_told(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """That it was one, and not from where. What changes nothing is not told."""
    eve, bob = await administrator(common, stored), await holder(common, stored)
    for _ in range(2):
        await eve.ask("PUT", f"/{bob.id}/roles", json={"roles": ["admin"]})
        await eve.ask("POST", f"/{bob.id}/disable")
        await eve.ask("POST", f"/{bob.id}/enable")
        await eve.ask("PUT", f"/{bob.id}/roles", json={"roles": []})
    expected = ["now on: admin.", "was disabled", "was enabled", "now on: none."]
    said = [await told(mailbox, bob, number) for number in range(1, 9)]
    for text, what in zip(said, 2 * expected, strict=True):
        assert what in text
        assert "An administrator did it" in text
        assert "127.0.0.1" not in text
    await eve.ask("POST", f"/{bob.id}/enable")
    await eve.ask("POST", f"/{bob.id}/disable")
    assert "was disabled" in await told(mailbox, bob, 9)


async def test_notices_cannot_be_had_without_end(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """What could be done again and again is limited; its mail is not, and so none is lost."""
    ann = await holder(common, stored)
    pair, limit = await ann.begin(), CHANGES.rate.amount
    answers = [await ann.call(pair, "POST", "/api/v1/api-keys", json=KEY) for _ in range(limit + 1)]
    assert [answer.status_code for answer in answers[:-1]] == [201] * limit
    assert outcome(answers[-1]) == (429, "rate_limited")
    await mailbox.mail(ann.email, limit)
