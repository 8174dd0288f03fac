"""How long a session lasts at most: its tokens, its cookie and its sockets end with it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import ValidationError
from sqlalchemy import select, update

from app.core.auth import CurrentUser
from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features.accounts.browser.cookie import COOKIE
from app.features.accounts.models import Session
from app.features.accounts.uses import Uses
from app.realtime import Channel
from tests.features.accounts.holders import Holder, holder, outcome
from tests.features.accounts.people import PASSWORD, refresh
from tests.server import RunningServer

LONGEST = timedelta(days=90)  # SESSION_MAX_DAYS, unless it is set
COOKIES = "/api/v1/auth/cookie"

router = APIRouter()


@router.websocket("/lasting")
class Lasting(Channel):
    """Open to whoever is signed in."""

    user: CurrentUser


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


async def has_lasted(database: SqlDatabase, person: Holder, left: timedelta) -> datetime:
    """Let somebody's sessions have begun so long ago that this is left of them; their end."""
    begun = datetime.now(UTC) + left - LONGEST
    async with database.unit_of_work() as uow:
        mine = update(Session).where(Session.user_id == person.id)
        await uow.execute(mine.values(created_at=begun, used_at=None))
    return begun + LONGEST


async def expiry(database: SqlDatabase, person: Holder) -> datetime:
    """When somebody's only session ends."""
    async with database.reading() as session:
        found = await session.scalars(select(Session.expires_at).filter_by(user_id=person.id))
    return found.one()


def set_cookie_of(answer: Any) -> tuple[str, int]:
    """The cookie that an answer sets, and its Max-Age."""
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    ages = [each.partition("=")[2] for each in attributes if each.lower().startswith("max-age=")]
    return cookie, int(ages[0])


async def test_a_session_that_is_refreshed_lasts_so_long_and_no_longer(
    common: RunningServer, stored: SqlDatabase, ann: Holder
) -> None:
    """Its last tokens end with it, and then it is told why there is no other."""
    pair = await ann.begin()
    end = await has_lasted(stored, ann, timedelta(seconds=60))
    async with common.client() as client:
        last = await refresh(client, pair["refresh_token"])
        assert last.status_code == 200
        assert 50 <= last.json()["expires_in"] <= 60
        claims = common.app.state.tokens.verify(last.json()["access_token"])
        assert claims.expires_at <= end
        assert await expiry(stored, ann) == end
        async with common.socket("/lasting", last.json()["access_token"]) as socket:
            welcome = await socket.until("welcome")
            assert datetime.fromisoformat(welcome["data"]["expires_at"]) <= end
        await has_lasted(stored, ann, timedelta(0))
        over = await refresh(client, last.json()["refresh_token"])
    assert outcome(over) == (401, "accounts.refresh_refused")
    assert over.json()["detail"] == "It has lasted for as long as a session may."


async def test_a_new_proof_does_not_make_it_last_longer(stored: SqlDatabase, ann: Holder) -> None:
    """It makes the session fresh, not new."""
    pair = await ann.begin()
    end = await has_lasted(stored, ann, timedelta(days=1))
    async with ann.server.client() as client:
        pair = (await refresh(client, pair["refresh_token"])).json()
    assert (await ann.step_up(pair, password=PASSWORD)).status_code == 200
    assert await expiry(stored, ann) == end


async def test_a_cookie_lasts_no_longer_than_its_session(
    common: RunningServer, stored: SqlDatabase, ann: Holder
) -> None:
    """Its Max-Age says so, its uses do not move it, and sockets close with it."""
    form = {"username": ann.email, "password": PASSWORD}
    async with common.client() as client:
        begun = await client.post(COOKIES, data=form)
        cookie, age = set_cookie_of(begun)
        assert (cookie.partition("=")[0], age) == (COOKIE, 30 * 86_400)
        headers = {"Cookie": cookie}
        end = await has_lasted(stored, ann, timedelta(seconds=60))
        _, age = set_cookie_of(await client.get(COOKIES, headers=headers))
        assert 50 <= age <= 60
        async with stored.reading() as session:
            id_ = (await session.scalars(select(Session.id).filter_by(user_id=ann.id))).one()
        noted = Uses(lambda: stored, common.app.state.lifetimes)
        noted.session(id_)
        await noted.write()
        assert await expiry(stored, ann) == end
        await has_lasted(stored, ann, timedelta(seconds=2))
        csrf = ["csrf", begun.json()["csrf_token"]]
        opening = common.socket("/lasting", headers=headers, origin=common.url, subprotocols=csrf)
        async with opening as socket:
            assert (await socket.ending())[:2] == (4401, "token_expired")
        over = await client.get(COOKIES, headers=headers)
    assert outcome(over) == (401, "authentication_failed")


def test_it_is_no_shorter_than_an_unused_session_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that could never be reached is a mistake, and said at start."""
    monkeypatch.setenv("SESSION_DAYS", "30")
    monkeypatch.setenv("SESSION_MAX_DAYS", "29")
    with pytest.raises(ValidationError, match="SESSION_MAX_DAYS: it may not be less than"):
        Settings(_env_file=None)
    monkeypatch.setenv("SESSION_MAX_DAYS", "30")
    assert Settings(_env_file=None).session_max_lifetime == timedelta(days=30)
