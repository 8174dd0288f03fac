"""What people prove who they are with: taken as it was typed, never foretold, nobody's at first."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import APIRouter
from sqlalchemy import func, select, update
from websockets.exceptions import InvalidStatus

from app.core.auth import CurrentUser
from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features.accounts.models import User
from app.realtime import Channel
from tests.features.accounts.holders import Holder, enrolled, holder, outcome
from tests.features.accounts.mailbox import API, Mailbox, ask, text_of, token_in
from tests.features.accounts.people import PASSWORD
from tests.server import RunningServer

WRONG_CREDENTIALS = (401, "accounts.wrong_credentials")
REFUSED = (401, "authentication_failed")
#: Letters in two normal forms and two cases, blanks at both ends, and as long as may be.
TYPED = " Caf\u00e9 Stra\u00dfe \ufb01ve STAPLES\t" + "x7" * 86 + "Q! "
OTHERWISE = [
    TYPED.strip(),
    TYPED.rstrip(),
    TYPED.casefold(),
    TYPED.swapcase(),
    TYPED.replace("\u00e9", "e\u0301"),
    TYPED.replace("\ufb01", "fi"),
    TYPED.replace("\t", " "),
    TYPED[:-1],
    TYPED[:72],
    TYPED[:64],
    TYPED + " ",
]
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

router = APIRouter()


@router.websocket("/credentials")
class Own(Channel):
    """Open to whoever is signed in."""

    user: CurrentUser


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


@pytest.fixture
async def empty(settings: Settings) -> AsyncIterator[SqlDatabase]:
    """A database that nobody has used yet."""
    database = SqlDatabase(settings.database)
    yield database
    await database.dispose()


async def by_cookie(person: Holder, password: str) -> Any:
    """The answer to a log-in by cookie."""
    form = {"username": person.email, "password": password}
    async with person.server.client() as client:
        return await client.post("/api/v1/auth/cookie", data=form)


async def linked(mailbox: Mailbox, person: Holder, links: int = 1) -> str:
    """The token of the link of this number that somebody is mailed, among all else."""
    number = 0
    while True:
        number += 1
        mail = await mailbox.mail(person.email, number)
        links -= "#reset?token=" in text_of(mail)
        if not links:
            return token_in(mail)


async def test_a_password_is_verified_as_it_was_typed(ann: Holder) -> None:
    """Nothing is cut, trimmed, folded or normalised, at each log-in."""
    assert len(TYPED) == 200
    change = {"current": PASSWORD, "new": TYPED}
    changed = await ann.call(await ann.begin(), "POST", f"{API}/me/password", json=change)
    assert changed.status_code == 204, changed.text
    for wrong in OTHERWISE[:6]:
        assert outcome(await ann.log_in(password=wrong)) == WRONG_CREDENTIALS, ascii(wrong)
    assert (await ann.log_in(password=TYPED)).status_code == 200
    for wrong in OTHERWISE[6:]:
        assert outcome(await by_cookie(ann, wrong)) == WRONG_CREDENTIALS, ascii(wrong)
    assert (await by_cookie(ann, TYPED)).status_code == 201


async def test_a_password_does_not_get_old(stored: SqlDatabase, ann: Holder) -> None:
    """Nobody has to change it from time to time."""
    async with stored.unit_of_work() as uow:
        await uow.execute(update(User).where(User.id == ann.id).values(created_at=LONG_AGO))
    assert (await ann.log_in()).status_code == 200


async def test_a_mailed_link_is_no_way_round_the_second_factor(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """It sets a password, and begins no session; the log-in asks for the code as ever."""
    mailbox = Mailbox(common)
    ann, _ = await enrolled(common, stored)
    async with common.client() as client:
        await ask(client, "password/forgot", email=ann.email)
        token = await linked(mailbox, ann)
        done = await ask(client, "password/reset", token=token, password="x" + PASSWORD)
    assert done.is_success
    assert "token" not in done.text
    assert "set-cookie" not in done.headers
    without = await ann.log_in(password="x" + PASSWORD)
    assert outcome(without) == (401, "accounts.second_factor_required")
    assert (await ann.log_in(ann.code(1), "x" + PASSWORD)).status_code == 200


async def test_nobody_gives_themselves_more_than_a_name(ann: Holder) -> None:
    """What else an account holds is not among the fields that are taken."""
    pair = await ann.begin()
    for more in (
        {"roles": ["admin"]},
        {"email": "eve@example.com"},
        {"id": 1},
        {"disabled_at": None},
        {"password_hash": "x"},
    ):
        answer = await ann.call(pair, "PATCH", f"{API}/me", json={"name": "Ann"} | more)
        assert outcome(answer) == (422, "invalid_parameter")
    assert (await ann.call(pair, "GET", f"{API}/me")).json()["roles"] == []


async def test_no_two_secrets_are_alike_or_short(common: RunningServer, ann: Holder) -> None:
    """Refresh tokens, cookies, tickets, keys and links have 256 random bits each."""
    mailbox, made = Mailbox(common), []
    for number in (1, 2):
        pair = await ann.begin()
        cookie = (await by_cookie(ann, PASSWORD)).headers["set-cookie"]
        ticket = await ann.call(pair, "POST", "/api/v1/tickets", json={"path": "/x"})
        body = {"name": "key", "scopes": ["admin"], "expires_in_days": 1}
        key = await ann.call(pair, "POST", "/api/v1/api-keys", json=body)
        async with common.client() as client:
            await ask(client, "password/forgot", email=ann.email)
        made += [
            pair["refresh_token"],
            cookie.partition("=")[2].partition(";")[0],
            ticket.json()["ticket"],
            key.json()["key"].rpartition("_")[2][:43],
            await linked(mailbox, ann, number),
        ]
    assert [each for each in made if not re.fullmatch(r"[A-Za-z0-9_-]{43,}", each)] == []
    assert len({each[:22] for each in made}) == len({each[-22:] for each in made}) == 10


async def test_a_refresh_token_opens_nothing(common: RunningServer, ann: Holder) -> None:
    """Neither a route nor a socket, of a program or a page; nor does an open socket take it."""
    pair = await ann.begin()
    secret = pair["refresh_token"]
    async with common.client(secret) as client:
        assert outcome(await client.get(f"{API}/me")) == REFUSED
    with pytest.raises(InvalidStatus) as denied:
        async with common.socket("/credentials", secret):
            pass
    assert json.loads(denied.value.response.body or b"")["code"] == REFUSED[1]
    async with common.browser_socket("/credentials", secret) as page:
        assert (await page.ending())[:2] == (4401, REFUSED[1])
    async with common.socket("/credentials", pair["access_token"]) as socket:
        await socket.until("welcome")
        answer = await socket.ask("auth.refresh", {"token": secret})
        assert answer["data"]["code"] == REFUSED[1]


async def test_a_new_service_has_nobodys_account(empty: SqlDatabase) -> None:
    """No `admin`, no `root`: who administers first is made by an operator."""
    async with empty.reading() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 0
