"""Sessions in a cookie: what a page has to show beside it, at both doors, and how they end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, WebSocket
from sqlalchemy import select, update
from websockets.exceptions import InvalidStatus

from app.core.auth import Admin, CurrentUser, Principal
from app.core.db import SqlDatabase
from app.core.limits import Limit
from app.core.secrets_at_rest import digest_of
from app.features.accounts.browser import credential
from app.features.accounts.browser.cookie import COOKIE, csrf_token
from app.features.accounts.models import IssuedRefreshToken, Session, User
from app.realtime import Channel
from tests.conftest import settings_for
from tests.features.accounts.holders import CHEAP, Holder, enrolled, holder, outcome, recorded
from tests.features.accounts.people import PASSWORD, facts
from tests.server import RunningServer, Socket

PATH = "/api/v1/auth/cookie"
EVIL, FRIEND = "https://evil.example", "https://friend.example"
MINUTE = timedelta(minutes=1)

router = APIRouter(prefix="/jar")
looked_in: list[str] = []


async def guard(user: CurrentUser) -> Principal:
    """A guard that leaves a trace."""
    looked_in.append(user.session)
    return user


Guarded = Annotated[Principal, Depends(guard)]


@router.get("/rest")
@router.post("/rest")
async def rest(user: Guarded) -> str:
    """Who looks into the jar."""
    return user.subject


@router.get("/admin")
async def administer(user: Admin) -> None:
    """Nothing but to be an administrator."""


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: Guarded) -> None:
    """Who looks into the jar."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept("csrf" if "csrf" in offered else None)
    await websocket.send_json({"type": "welcome", "data": user.subject})
    await websocket.receive()


@router.websocket("/channel")
class Jar(Channel):
    """Somebody looks into the jar."""

    subprotocols = ("v1.jar",)
    user: Guarded


@router.websocket("/limited", dependencies=[Depends(Limit("1000/minute"))])
class Limited(Channel):
    """Counts who looks into the jar, before its guard is asked."""

    user: CurrentUser


@dataclass
class Page:
    """A page of the service in somebody's browser."""

    server: RunningServer
    person: Holder
    secret: str
    csrf: str

    @property
    def cookie(self) -> dict[str, str]:
        """What the browser sends by itself."""
        return {"Cookie": f"theme=dark; {COOKIE}={self.secret}"}

    async def do(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """The answer to a request with the cookie and these headers."""
        async with self.server.client() as client:
            return await client.request(method, path, headers=self.cookie | headers)

    async def post(self, **headers: str) -> httpx2.Response:
        """The answer to something that could change something."""
        return await self.do("POST", "/jar/rest", **headers)

    @asynccontextmanager
    async def socket(self, path: str = "/jar/channel", **kwargs: Any) -> AsyncIterator[Socket]:
        """A WebSocket, with the cookie and the page's Origin."""
        kwargs = {"origin": self.server.url} | kwargs
        headers = self.cookie | kwargs.pop("headers", {})
        async with self.server.socket(path, headers=headers, **kwargs) as socket:
            yield socket

    async def denied(self, path: str = "/jar/channel", **kwargs: Any) -> tuple[int, str]:
        """The status and the code that a handshake is denied with."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.socket(path, **kwargs):
                pass
        response = refused.value.response
        return response.status_code, json.loads(response.body or b"")["code"]


async def signed_in(person: Holder, **form: str) -> httpx2.Response:
    """The answer to a log-in by cookie."""
    form = {"username": person.email, "password": PASSWORD} | form
    async with person.server.client() as client:
        return await client.post(PATH, data=form)


async def opened(person: Holder) -> Page:
    """A page where somebody is signed in."""
    answer = await signed_in(person)
    assert answer.status_code == 201, answer.text
    return Page(person.server, person, secret_of(answer), answer.json()["csrf_token"])


def secret_of(answer: httpx2.Response) -> str:
    """What the cookie holds that an answer sets."""
    name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    assert name == COOKIE
    return value


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


@pytest.fixture
async def page(ann: Holder) -> Page:
    """A page where Ann is signed in."""
    return await opened(ann)


async def _set(database: SqlDatabase, page: Page, **values: Any) -> None:
    async with database.unit_of_work() as uow:
        mine = Session.cookie_digest == digest_of(page.secret)
        await uow.execute(update(Session).where(mine).values(values))


async def test_a_log_in_sets_a_cookie_that_no_script_reads(
    ann: Holder, stored: SqlDatabase
) -> None:
    """Over TLS alone, for this host alone, to no page of elsewhere; it is stored as a digest."""
    answer = await signed_in(ann)
    assert answer.status_code == 201
    secret = secret_of(answer)
    kept = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert kept == {"httponly", "secure", "path=/", "samesite=strict", "max-age=2592000"}
    body = answer.json()
    assert body["account"]["email"] == ann.email
    assert secret not in answer.text
    assert len(secret) == 43
    async with stored.reading() as session:
        row = (await session.scalars(select(Session).where(Session.user_id == ann.id))).one()
        tokens = select(IssuedRefreshToken).where(IssuedRefreshToken.session_id == row.id)
        assert (await session.scalars(tokens)).all() == []
    assert row.cookie_digest == digest_of(secret)
    assert secret not in str(vars(row))
    assert (await recorded(stored, ann))[-1] == "session.begun"


async def test_a_page_asks_who_is_signed_in(page: Page) -> None:
    """The answer is the log-in's, and the cookie is kept for longer."""
    answer = await page.do("GET", PATH)
    assert answer.json()["csrf_token"] == page.csrf
    assert answer.json()["account"]["id"] == page.person.id
    assert secret_of(answer) == page.secret
    async with page.server.client() as client:
        assert outcome(await client.get(PATH)) == (401, "authentication_failed")
    token = {"Authorization": f"Bearer {page.server.token(str(page.person.id))}"}
    assert outcome(await page.do("GET", PATH, **token)) == (401, "authentication_failed")


async def test_a_wrong_password_is_as_wrong_here(ann: Holder) -> None:
    """The answer is the one of the log-in for tokens, and sets no cookie."""
    answer = await signed_in(ann, password="wrong horse")
    assert facts(answer) == facts(await ann.log_in(password="wrong horse"))
    assert "set-cookie" not in answer.headers


async def test_a_second_factor_is_asked_for_here(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """It is one log-in, whatever it gives."""
    person, _ = await enrolled(common, stored)
    assert outcome(await signed_in(person)) == (401, "accounts.second_factor_required")
    common.app.state.second_factors.clock.move()
    assert (await signed_in(person, otp=person.code())).status_code == 201


async def test_each_log_in_has_a_cookie_of_its_own(ann: Holder) -> None:
    """So a cookie that somebody was given before is worth nothing."""
    pages = [await opened(ann) for _ in range(3)]
    assert len({each.secret for each in pages}) == len({each.csrf for each in pages}) == 3


async def test_what_could_change_something_takes_the_token(page: Page, ann: Holder) -> None:
    """What is only read does not; another session's token is none."""
    assert (await page.do("GET", "/jar/rest")).json() == str(ann.id)
    other = await opened(ann)
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": other.csrf}, {"X-CSRF-Token": "é"}):
        told = {**page.cookie, **wrong}
        headers = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
        async with page.server.client() as client:
            answer = await client.post("/jar/rest", headers=headers)
        assert outcome(answer) == (403, "csrf_failed")
    assert (await page.post(**{"X-CSRF-Token": page.csrf})).json() == str(ann.id)


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"Origin": "OWN"}, True),
        ({"Origin": "OWN", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": EVIL}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "OWN.evil.example"}, False),
        ({"Origin": "OWN", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
    ids=str,
)
async def test_a_page_of_elsewhere_changes_nothing(
    page: Page, headers: dict[str, str], taken: bool
) -> None:
    """Even if it had the token; nor does it sign anybody in or out."""
    told = {name: value.replace("OWN", page.server.url) for name, value in headers.items()}
    answer = await page.post(**told, **{"X-CSRF-Token": page.csrf})
    form = {"username": page.person.email, "password": PASSWORD}
    async with page.server.client() as client:
        log_in = await client.post(PATH, data=form, headers=told)
    log_out = await page.do("DELETE", PATH, **told, **{"X-CSRF-Token": page.csrf})
    if taken:
        assert (answer.status_code, log_in.status_code, log_out.status_code) == (200, 201, 204)
    else:
        assert {outcome(each) for each in (answer, log_in, log_out)} == {(403, "csrf_failed")}
        assert "set-cookie" not in log_in.headers
        assert (await page.do("GET", PATH)).status_code == 200


async def test_a_token_goes_before_the_cookie(page: Page) -> None:
    """And whoever sends another Authorization is not who the cookie says."""
    headers = {"Authorization": f"Bearer {page.server.token('77')}"}
    assert (await page.post(**headers)).json() == "77"
    for other in ("Basic eDp5", "Bearer", "Bearer a.b.c"):
        answer = await page.do("GET", "/jar/rest", Authorization=other)
        assert outcome(answer) == (401, "authentication_failed")


@pytest.mark.parametrize("path", ["/jar/channel", "/jar/bare"])
async def test_a_handshake_brings_the_token(page: Page, path: str) -> None:
    """As the subprotocols `csrf, <token>`, of which the first comes back."""
    async with page.socket(path, subprotocols=["csrf", page.csrf]) as socket:
        assert socket.connection.subprotocol == "csrf"
        await socket.until("welcome")
    for wrong in (["csrf", "nonsense"], ["csrf"], ["csrf", csrf_token("another")]):
        if path == "/jar/channel" and len(wrong) == 1:
            continue  # there it may come in a frame yet
        async with page.socket(path, subprotocols=wrong) as socket:
            code, reason, frames = await socket.ending()
        assert (code, reason) == (4403, "csrf_failed")
        assert [frame["type"] for frame in frames] == ["error"]


async def test_a_function_takes_it_in_the_handshake_alone(page: Page) -> None:
    """It accepts the handshake itself, and nothing can come before that."""
    async with page.socket("/jar/bare") as socket:
        assert (await socket.ending())[:2] == (4403, "csrf_failed")


async def test_the_first_frame_brings_the_token(page: Page) -> None:
    """Before that no guard has looked, and the client hears nothing; the subprotocol is chosen."""
    looked_in.clear()
    async with page.socket(subprotocols=["csrf", "v1.jar"], headers={}) as socket:
        # `v1.jar` follows `csrf`, and is no token: so it is refused, as it says.
        assert (await socket.ending())[:2] == (4403, "csrf_failed")
    async with page.socket(subprotocols=["v1.jar"]) as socket:
        assert socket.connection.subprotocol == "v1.jar"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await socket.connection.recv()
        assert looked_in == []
        await socket.send("auth.csrf", {"token": page.csrf})
        assert (await socket.frame())["type"] == "welcome"
        assert looked_in
        assert (await socket.ask("ping"))["type"] == "pong"
        late = await socket.ask("auth.csrf", {"token": page.csrf})
        assert late["data"]["code"] == "realtime.unknown_type"


@pytest.mark.parametrize(
    "frame",
    [
        '{"type": "ping"}',
        '{"type": "auth.csrf"}',
        '{"type": "auth.csrf", "data": {"token": "x"}}',
        '{"type": "auth.csrf", "data": {"token": 7}}',
        '{"type": "auth.csrf", "data": {"token": "\\u00e9"}}',
        '{"type": "auth.refresh", "data": {"token": "TOKEN"}}',
        '{"type": "auth.csrf", "data": {"token": "TOKEN", "x": 1}}',
        "{",
        b"\x00",
    ],
    ids=str,
)
async def test_anything_else_is_no_first_frame(page: Page, frame: str | bytes) -> None:
    """It ends the socket, and nothing was done."""
    looked_in.clear()
    sent = frame.replace("TOKEN", page.csrf) if isinstance(frame, str) else frame
    async with page.socket() as socket:
        await socket.raw(sent)
        code, reason, frames = await socket.ending()
    assert (code, reason, len(frames)) == (4403, "csrf_failed", 1)
    assert looked_in == []


async def test_the_first_frame_comes_once(page: Page) -> None:
    """However many ask who it is, and whatever they make of the answer."""
    async with page.socket("/jar/limited") as socket:
        await socket.send("auth.csrf", {"token": page.csrf})
        await socket.until("welcome")
    async with page.socket("/jar/limited") as socket:
        await socket.send("ping")
        assert (await socket.ending())[:2] == (4403, "csrf_failed")


async def test_the_first_frame_is_not_waited_for_for_ever(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends none is closed; who leaves is gone."""
    async with page.socket():
        pass
    monkeypatch.setattr(credential, "CSRF_SECONDS", 0.05)
    async with page.socket() as socket:
        assert (await socket.ending())[:2] == (4403, "csrf_failed")


async def test_a_session_that_ends_meanwhile_lets_nobody_in(page: Page) -> None:
    """Between the handshake and its first frame."""
    async with page.socket() as socket:
        await page.do("DELETE", PATH, **{"X-CSRF-Token": page.csrf})
        await socket.send("auth.csrf", {"token": page.csrf})
        assert (await socket.ending())[:2] == (4401, "session_revoked")


@pytest.mark.parametrize("path", ["/jar/channel", "/jar/bare"])
async def test_a_socket_says_which_page_opened_it(page: Page, path: str) -> None:
    """With a cookie a missing Origin is refused as well: it is no program that sends it."""
    protocols = ["csrf", page.csrf]
    for origin, code in (
        (None, "csrf_failed"),
        ("null", "origin_not_allowed"),
        (EVIL, "origin_not_allowed"),
        (page.server.url + ".evil.example", "origin_not_allowed"),
    ):
        assert await page.denied(path, origin=origin, subprotocols=protocols) == (403, code)


async def test_any_origin_does_not_mean_cookies(
    new_sqlite: Callable[[], str],
) -> None:
    """`*` lets pages of everywhere connect with a token; with the cookie, those that are named."""
    settings = settings_for(new_sqlite(), allowed_origins=f"*, {FRIEND}", ws_authorise_seconds=0.1)
    with RunningServer(settings, router) as server:
        server.app.state.passwords._hash = CHEAP
        database = SqlDatabase(settings.database)
        page = await opened(await holder(server, database))
        for origin in (EVIL, "null"):
            async with page.socket(origin=origin, subprotocols=["csrf", page.csrf]) as socket:
                assert (await socket.ending())[:2] == (4403, "csrf_failed")
        async with page.socket(origin=FRIEND, subprotocols=["csrf", page.csrf]) as socket:
            await socket.until("welcome")
        await _lasts_longer(page, database)
        await database.dispose()


async def _lasts_longer(page: Page, database: SqlDatabase) -> None:
    """A socket's end moves on with its session's."""
    now = datetime.now(UTC)
    await _set(database, page, expires_at=now + timedelta(seconds=0.5))
    async with page.socket(subprotocols=["csrf", page.csrf]) as socket:
        await socket.until("welcome")
        await _set(database, page, expires_at=now + timedelta(seconds=1))
        await asyncio.sleep(0.6)
        assert (await socket.ask("ping"))["type"] == "pong"
        assert (await socket.ending())[:2] == (4401, "token_expired")


async def test_a_log_out_ends_everything(page: Page, stored: SqlDatabase) -> None:
    """Cookie and sockets; it takes the token, and asked again it changes nothing."""
    assert outcome(await page.do("DELETE", PATH)) == (403, "csrf_failed")
    async with AsyncExitStack() as stack:
        sockets = []
        for path in ("/jar/channel", "/jar/bare"):
            opening = page.socket(path, subprotocols=["csrf", page.csrf])
            sockets.append(await stack.enter_async_context(opening))
            await sockets[-1].until("welcome")
        answer = await page.do("DELETE", PATH, **{"X-CSRF-Token": page.csrf})
        assert answer.status_code == 204
        assert answer.headers["set-cookie"].startswith(f'{COOKIE}=""; ')
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        async with asyncio.timeout(1):
            assert {(await each.ending())[1] for each in sockets} == {"session_revoked"}
    assert outcome(await page.do("GET", "/jar/rest")) == (401, "authentication_failed")
    assert (await page.do("DELETE", PATH)).status_code == 204
    assert (await recorded(stored, page.person))[-1] == "session.ended"


async def test_a_cookie_that_is_not_good_is_nobodys(
    common: RunningServer, ann: Holder, stored: SqlDatabase
) -> None:
    """Unknown, expired, its owner disabled: all are answered like a wrong token."""
    pages = [await opened(ann) for _ in range(2)]
    unknown = Page(common, ann, "x" * 43, csrf_token("x" * 43))
    await _set(stored, pages[0], expires_at=datetime.now(UTC))
    async with common.client("a.b.c") as client:
        expected = facts(await client.get("/jar/rest"))
    for page in (unknown, pages[0]):
        assert facts(await page.do("GET", "/jar/rest")) == expected
        assert await page.denied(origin=None) == (403, "csrf_failed")
        async with page.socket(subprotocols=["csrf", page.csrf]) as socket:
            assert (await socket.ending())[:2] == (4401, "authentication_failed")
    assert (await pages[1].do("GET", "/jar/rest")).status_code == 200
    async with stored.unit_of_work() as uow:
        mine = update(User).where(User.id == ann.id)
        await uow.execute(mine.values(disabled_at=datetime.now(UTC)))
    assert facts(await pages[1].do("GET", "/jar/rest")) == expected


async def test_a_cookie_has_the_roles_of_now(page: Page, stored: SqlDatabase) -> None:
    """No log-in is needed for a role that came, nor for one that went."""
    assert outcome(await page.do("GET", "/jar/admin")) == (403, "forbidden")
    for roles, status in ((["admin"], 200), ([], 403)):
        async with stored.unit_of_work() as uow:
            mine = update(User).where(User.id == page.person.id)
            await uow.execute(mine.values(roles=roles))
        assert (await page.do("GET", "/jar/admin")).status_code == status


async def test_a_session_lasts_longer_for_being_used(page: Page, stored: SqlDatabase) -> None:
    """That is written by no request, and once a minute at most."""
    server, now = page.server, datetime.now(UTC)
    await _set(stored, page, used_at=now - 2 * MINUTE, expires_at=now + MINUTE)
    await page.do("GET", "/jar/rest")
    await page.do("GET", "/jar/rest")
    uses = server.app.state.uses
    writing = asyncio.run_coroutine_threadsafe(uses.write(), server._server._loop)
    await asyncio.wrap_future(writing)
    async with stored.reading() as session:
        mine = select(Session).where(Session.cookie_digest == digest_of(page.secret))
        row = (await session.scalars(mine)).one()
    assert row.used_at is not None
    assert row.used_at >= now
    assert row.expires_at - row.used_at == timedelta(days=30)


async def test_a_ticket_needs_no_token_beside_the_cookie(page: Page) -> None:
    """The browser sends the cookie in any case; the ticket took the token when it was asked for."""
    body = {"path": "/jar/bare"}
    async with page.server.client() as client:
        refused = await client.post("/api/v1/tickets", json=body, headers=page.cookie)
        headers = {**page.cookie, "X-CSRF-Token": page.csrf}
        given = (await client.post("/api/v1/tickets", json=body, headers=headers)).json()
    assert outcome(refused) == (403, "csrf_failed")
    async with page.socket(f"/jar/bare?ticket={given['ticket']}") as socket:
        assert (await socket.until("welcome"))["data"] == str(page.person.id)
