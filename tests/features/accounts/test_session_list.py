"""The list of sessions: where somebody is signed in, and ending it there."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import APIRouter
from sqlalchemy import update

from app.core.db import SqlDatabase
from app.features.accounts.models import Session
from app.features.accounts.session_list.devices import device
from tests import doors
from tests.features.accounts.holders import Holder, claims, holder, outcome, recorded
from tests.features.accounts.people import me, refresh
from tests.server import RunningServer, Socket

SESSIONS = "/api/v1/sessions"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
REVOKED = (401, "session_revoked")

router = APIRouter()
router.include_router(doors.router)


async def listed(person: Holder, pair: dict[str, Any]) -> list[dict[str, Any]]:
    """The sessions that somebody sees."""
    answer = await person.call(pair, "GET", SESSIONS)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def is_over(client: httpx2.AsyncClient, pair: dict[str, Any]) -> bool:
    """Whether neither token of a pair is good any more."""
    answer = await me(client, pair["access_token"])
    if answer.is_success:
        return False
    assert outcome(answer) == REVOKED
    refused = await refresh(client, pair["refresh_token"])
    return outcome(refused) == (401, "accounts.refresh_refused")


async def closed_within(seconds: float, *sockets: Socket) -> None:
    """All are closed in this time, with 4401."""
    async with asyncio.timeout(seconds):
        for socket in sockets:
            close_code, reason, _ = await socket.ending()
            assert (close_code, reason) == (4401, "session_revoked")


async def answers(socket: Socket) -> None:
    """A socket is open."""
    async with asyncio.timeout(5):
        await (await socket.connection.ping())


async def test_somebody_sees_where_they_are_signed_in(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Each session with its device, address, times and methods; the one that asks first."""
    ann, bob = await holder(common, stored), await holder(common, stored)
    phone, desk = await ann.begin(**{"User-Agent": "curl/8.9.1"}), await ann.begin()
    await bob.begin()
    async with common.client() as client:
        client.headers["User-Agent"] = FIREFOX
        desk = (await refresh(client, desk["refresh_token"])).json()
    first, second = await listed(ann, phone)
    assert first.keys() == {
        "id",
        "device",
        "address",
        "created_at",
        "used_at",
        "methods",
        "current",
    }
    assert [each["id"] for each in (first, second)] == [claims(phone)["sid"], claims(desk)["sid"]]
    assert [each["current"] for each in (first, second)] == [True, False]
    assert [each["device"] for each in (first, second)] == ["curl", "Firefox on Linux"]
    assert {each["address"] for each in (first, second)} == {"127.0.0.1"}
    assert first["methods"] == ["pwd"]
    assert first["used_at"] == first["created_at"]
    assert second["used_at"] > second["created_at"]
    assert [each["current"] for each in await listed(ann, desk)] == [True, False]


async def test_what_has_ended_or_expired_is_not_listed(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Of a hundred and more, those that were used last are."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    now = datetime.now(UTC)
    made = {"user_id": ann.id, "created_at": now, "expires_at": now + timedelta(days=1)}
    async with stored.unit_of_work() as uow:
        # A session from before these columns says little of itself.
        uow.add(Session(id=uuid4().hex, **made))
        uow.add(Session(id=uuid4().hex, **made, ended_at=now))
        uow.add(Session(id=uuid4().hex, **made | {"expires_at": now}))
    current, old = await listed(ann, pair)
    assert current["current"]
    assert (old["device"], old["address"], old["methods"]) == ("Unknown device", None, [])
    assert old["used_at"] == old["created_at"]
    async with stored.unit_of_work() as uow:
        for minutes in range(1, 101):
            used_at = now + timedelta(minutes=minutes)
            uow.add(Session(id=f"{ann.id:030}{minutes:02x}", **made, used_at=used_at))
    found = [each["id"] for each in await listed(ann, pair)]
    assert found[0] == current["id"]
    assert found[1:] == [f"{ann.id:030}{minutes:02x}" for minutes in range(100, 1, -1)]


async def test_a_session_that_is_ended_elsewhere_is_over_at_once(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Its sockets are closed within a second, its tokens refused; the others go on."""
    ann = await holder(common, stored)
    gone, stays = await ann.begin(), await ann.begin()
    async with (
        common.client() as client,
        common.socket("/channel", gone["access_token"]) as channel,
        common.browser_socket("/bare", gone["access_token"]) as page,
        common.socket("/channel", stays["access_token"]) as other,
    ):
        for socket in (channel, page, other):
            await answers(socket)
        done = await ann.call(stays, "DELETE", f"{SESSIONS}/{claims(gone)['sid']}")
        assert (done.status_code, done.content) == (204, b"")
        await closed_within(1, channel, page)
        await answers(other)
        assert await is_over(client, gone)
        assert (await refresh(client, stays["refresh_token"])).status_code == 200
    assert [each["id"] for each in await listed(ann, stays)] == [claims(stays)["sid"]]
    assert (await recorded(stored, ann))[-1] == "session.ended"


async def test_somebody_may_end_the_session_they_ask_from(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """That is a log-out."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    path = f"{SESSIONS}/{claims(pair)['sid']}"
    assert (await ann.call(pair, "DELETE", path)).status_code == 204
    assert outcome(await ann.call(pair, "DELETE", path)) == REVOKED


async def test_what_is_nobodys_session_or_somebody_elses_is_not_found(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Nothing tells one from the other, and theirs goes on."""
    ann, bob = await holder(common, stored), await holder(common, stored)
    pair, ended, theirs = await ann.begin(), await ann.begin(), await bob.begin()
    over = f"{SESSIONS}/{claims(ended)['sid']}"
    assert (await ann.call(pair, "DELETE", over)).status_code == 204
    for path in (
        f"{SESSIONS}/{claims(theirs)['sid']}",
        f"{SESSIONS}/{claims(theirs)['sid'].upper()}",
        over,
        f"{SESSIONS}/{uuid4().hex}",
        f"{SESSIONS}/{uuid4()}",
        f"{SESSIONS}/key:7",
        f"{SESSIONS}/%00",
        f"{SESSIONS}/{'0' * 1000}",
    ):
        answer = await ann.call(pair, "DELETE", path)
        assert outcome(answer) == (404, "not_found"), path
        assert "detail" not in answer.json()
    async with common.client() as client:
        assert (await me(client, theirs["access_token"])).status_code == 200
        assert (await refresh(client, theirs["refresh_token"])).status_code == 200


async def test_all_others_are_ended_and_the_one_that_asks_goes_on(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """And those of somebody else; asked again there is nothing left to do."""
    ann, bob = await holder(common, stored), await holder(common, stored)
    gone = [await ann.begin() for _ in range(3)]
    stays, theirs = await ann.begin(), await bob.begin()
    async with (
        common.client() as client,
        common.socket("/channel", gone[0]["access_token"]) as first,
        common.socket("/bare", gone[1]["access_token"]) as second,
        common.socket("/channel", stays["access_token"]) as other,
    ):
        for socket in (first, second, other):
            await answers(socket)
        for _ in "12":
            done = await ann.call(stays, "DELETE", SESSIONS)
            assert (done.status_code, done.content) == (204, b"")
        await closed_within(1, first, second)
        await answers(other)
        for pair in gone:
            assert await is_over(client, pair)
        for pair in (stays, theirs):
            assert (await me(client, pair["access_token"])).status_code == 200
    assert [each["id"] for each in await listed(ann, stays)] == [claims(stays)["sid"]]
    assert (await recorded(stored, ann)).count("session.ended") == 1


async def test_no_refresh_outlives_the_end_of_its_session(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Whatever pair comes out of one that was under way is of a session that has ended."""
    ann = await holder(common, stored)
    stays, others = await ann.begin(), [await ann.begin() for _ in range(5)]
    async with common.client() as client:
        racing = [asyncio.create_task(refresh(client, each["refresh_token"])) for each in others]
        assert (await ann.call(stays, "DELETE", SESSIONS)).status_code == 204
        for answer in await asyncio.gather(*racing):
            if answer.is_success:
                assert await is_over(client, answer.json())
            else:
                assert outcome(answer) == (401, "accounts.refresh_refused")


async def test_sessions_are_a_matter_of_the_person_alone(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """No key sees or ends any, and nobody else."""
    ann = await holder(common, stored)
    pair = await ann.begin()
    path = f"{SESSIONS}/{claims(pair)['sid']}"
    for token, expected in (
        (common.token(str(ann.id), scopes=[]), (403, "insufficient_scope")),
        (None, (401, "authentication_failed")),
    ):
        async with common.client(token) as client:
            assert outcome(await client.get(SESSIONS)) == expected
            assert outcome(await client.delete(SESSIONS)) == expected
            assert outcome(await client.delete(path)) == expected


async def test_an_agent_is_whatever_the_client_says(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """Nothing of it is more than a few plain words."""
    ann = await holder(common, stored)
    pair = await ann.begin(**{"User-Agent": "<script>alert(1)</script>" * 100})
    (only,) = await listed(ann, pair)
    assert only["device"] == "Unknown device"
    async with stored.unit_of_work() as uow:
        agent = "x" * 200
        await uow.execute(update(Session).where(Session.user_id == ann.id).values(agent=agent))
    (only,) = await listed(ann, pair)
    assert only["device"] == "Unknown device"


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/128.0.0.0 Safari/537.36",
            "Chrome on Windows",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/128.0.0.0 Safari/537.36 Edg/128.0.0.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like "
            "Gecko) Version/17.6 Safari/605.1.15",
            "Safari on macOS",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, "
            "like Gecko) Version/17.6 Mobile/15E148 Safari/604.1",
            "Safari on an iPhone",
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
            "Gecko) CriOS/128.0 Mobile/15E148 Safari/604.1",
            "Chrome on an iPad",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) "
            "SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
        ),
        (
            "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/128.0.0.0 Safari/537.36 OPR/113.0.0.0",
            "Opera on ChromeOS",
        ),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "HeadlessChrome/128.0.0.0 Safari/537.36",
            "Chrome on Linux",
        ),
        ("Mozilla/5.0 (Linux; U) Something/1.0", "A browser on Linux"),
        ("Mozilla/5.0", "Unknown device"),
        ("curl/8.9.1", "curl"),
        ("python-httpx2/2.0", "python-httpx2"),
        ("okhttp/4.12.0", "okhttp"),
        ("", "Unknown device"),
        (None, "Unknown device"),
        ("\u2603", "Unknown device"),
        ("<b>", "Unknown device"),
    ],
)
def test_a_device_is_told_in_a_few_words(agent: str | None, name: str) -> None:
    """Browsers that call themselves like others are what they are."""
    assert device(agent) == name
