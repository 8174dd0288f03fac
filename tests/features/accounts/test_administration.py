"""Administration: who may, what they see, and how soon it holds for whom it is about."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import pytest
from fastapi import APIRouter, Depends, WebSocket
from sqlalchemy import select

from app.core.auth import Admin, Principal, has_scope
from app.core.db import SqlDatabase
from app.core.revocations import RevocationRow
from app.core.secrets_at_rest import digest_of
from app.features.accounts.keys.secret import new_key
from app.features.accounts.models import ApiKey, RecoveryCode, SecondFactor, Session, User
from app.realtime import Channel
from tests.conftest import changed_settings
from tests.features.accounts.administering import (
    ACCOUNTS,
    Administrator,
    account,
    administrator,
    entries,
)
from tests.features.accounts.holders import enrolled
from tests.features.accounts.mailbox import Mailbox, text_of
from tests.features.accounts.people import PASSWORD, code, facts, log_in, me, refresh
from tests.server import RunningServer, Socket

DAY = timedelta(days=1)
SOON = 1.0  # second, at most, until something holds everywhere

Anybody = Annotated[Principal, Depends(has_scope())]

router = APIRouter(prefix="/administered")


@router.websocket("/channel")
class AnybodysChannel(Channel):
    """Open to whoever is signed in, and to every key."""

    user: Anybody


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: Anybody) -> None:
    """Stays open until the client leaves."""
    await websocket.accept()
    await websocket.receive()


@router.websocket("/admins")
class AdminsChannel(Channel):
    """Open to administrators."""

    user: Admin


@router.get("/rest")
async def rest(user: Anybody) -> list[str]:
    """The roles of whoever asks."""
    return sorted(user.roles)


@pytest.fixture(scope="module")
def other(common: RunningServer) -> Iterator[RunningServer]:
    """A second process on the same database; it does no jobs, so that mail comes from the first."""
    settings = changed_settings(common.settings, {"jobs_in_process": False})
    with RunningServer(settings, router) as server:
        yield server


@pytest.fixture
async def eve(common: RunningServer, stored: SqlDatabase) -> Administrator:
    """An administrator, who has just proved that it is her."""
    return await administrator(common, stored)


async def key_of(database: SqlDatabase, user: User) -> str:
    """A new API key of somebody's."""
    key, prefix = new_key()
    now = datetime.now(UTC)
    row = ApiKey(
        user_id=user.id,
        name="x",
        prefix=prefix,
        digest=digest_of(key),
        scopes=["admin"],
        created_at=now,
        expires_at=now + DAY,
    )
    async with database.unit_of_work() as uow:
        uow.add(row)
    return key


async def status(server: RunningServer, token: str) -> int:
    """How a token or a key is answered."""
    async with server.client(token) as client:
        return (await client.get("/administered/rest")).status_code


async def begins(server: RunningServer, user: User) -> dict[str, Any]:
    """Log in; the first pair of tokens of the session."""
    async with server.client() as client:
        answer = await log_in(client, user.email)
    assert answer.status_code == 200, answer.text
    pair: dict[str, Any] = answer.json()
    return pair


async def refreshed(server: RunningServer, pair: dict[str, Any]) -> Any:
    """The answer to a refresh."""
    async with server.client() as client:
        return await refresh(client, pair["refresh_token"])


async def opened(stack: AsyncExitStack, server: RunningServer, token: str) -> list[Socket]:
    """A channel's socket and a bare one."""
    paths = ("/administered/channel", "/administered/bare")
    return [await stack.enter_async_context(server.socket(path, token)) for path in paths]


async def all_closed(sockets: list[Socket], since: float) -> None:
    """All are closed, with 4401, soon after that moment."""
    endings = [await socket.ending() for socket in sockets]
    assert time.monotonic() - since < SOON + 0.5  # what this machine takes for the rest
    assert {ending[:2] for ending in endings} == {(4401, "session_revoked")}


async def next_second() -> None:
    """Wait until a token that is issued is of a later second: tokens tell whole ones."""
    await asyncio.sleep(1 - time.time() % 1)


CHANGES: list[tuple[str, str, Any]] = [
    ("POST", "disable", None),
    ("POST", "enable", None),
    ("PUT", "roles", {"roles": []}),
    ("POST", "sign-out", None),
    ("DELETE", "second-factor", None),
]


async def test_who_is_no_administrator_learns_nothing(
    common: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Their own account, another's and one that there is not are refused alike, by the role."""
    bob = await account(stored)
    pair = await begins(common, bob)
    async with common.client(pair["access_token"]) as client:
        for method, path in [
            ("GET", ""),
            *((method, f"/{{}}/{what}") for method, what, _ in CHANGES),
            ("GET", "/{}"),
        ]:
            for account_id in (bob.id, eve.id, 10**9):
                answer = await client.request(method, ACCOUNTS + path.format(account_id), json={})
                assert (answer.status_code, code(answer)) == (403, "forbidden"), path
    async with common.client() as client:
        assert code(await client.get(ACCOUNTS)) == "authentication_failed"
    assert await entries(stored, eve.id) == []


@pytest.mark.parametrize(("method", "what", "body"), CHANGES)
async def test_a_change_takes_a_fresh_proof(
    common: RunningServer, stored: SqlDatabase, method: str, what: str, body: Any
) -> None:
    """An administrator's session of this morning reads; to change something they prove anew."""
    bob = await account(stored)
    stale = await administrator(common, stored, proved=timedelta(minutes=11))
    answer = await stale.ask(method, f"/{bob.id}/{what}", json=body)
    assert (answer.status_code, code(answer)) == (401, "step_up_required")
    assert (await stale.ask("GET", f"/{bob.id}")).json()["id"] == bob.id
    key = await key_of(stored, await stored_user(stored, stale.id))
    by_key = Administrator(common, stale.id, key)
    assert code(await by_key.ask(method, f"/{bob.id}/{what}", json=body)) == "step_up_required"
    assert await by_key.found(search=bob.email) == [bob.id]
    assert await entries(stored, bob.id) == []


async def stored_user(database: SqlDatabase, user_id: int) -> User:
    """Somebody, as they are stored."""
    async with database.reading() as session:
        return await session.get_one(User, user_id)


async def test_an_account_that_there_is_not_is_not_found(eve: Administrator) -> None:
    """Whatever is to be done with it; an id is written in one way."""
    for method, path, body in [("GET", "", None), *((m, f"/{w}", b) for m, w, b in CHANGES)]:
        answer = await eve.ask(method, f"/{10**9}{path}", json=body)
        assert (answer.status_code, code(answer)) == (404, "accounts.not_found")
        assert code(await eve.ask(method, f"/007{path}", json=body)) == "not_found"


async def test_an_account_is_shown_as_it_is(
    common: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Its sessions that have not ended, its factor once that is confirmed; no secret."""
    bob = await account(stored, "Bob")
    first, _ = await begins(common, bob), await begins(common, bob)
    now = datetime.now(UTC)
    async with stored.unit_of_work() as uow:
        uow.add(Session(id=uuid4().hex, user_id=bob.id, created_at=now, expires_at=now))
        uow.add(SecondFactor(user_id=bob.id, secret="x", created_at=now))
    shown = (await eve.ask("GET", f"/{bob.id}")).json()
    assert shown == {
        "id": bob.id,
        "email": bob.email,
        "name": "Bob",
        "roles": [],
        "created_at": bob.created_at.isoformat().replace("+00:00", "Z"),
        "disabled": False,
        "locked": False,
        "second_factor": False,
        "sessions": 2,
    }
    async with common.client() as client:
        await client.post("/api/v1/auth/logout", json={"refresh_token": first["refresh_token"]})
    async with stored.unit_of_work() as uow:
        (await uow.get_one(SecondFactor, bob.id)).confirmed_at = now
        (await uow.get_one(User, bob.id)).locked_until = now + DAY
    again = (await eve.ask("GET", "", params={"search": bob.email})).json()["items"]
    assert again == [shown | {"sessions": 1, "second_factor": True, "locked": True}]


async def test_accounts_are_found_by_how_they_begin(
    stored: SqlDatabase, eve: Administrator
) -> None:
    """The address or the name, in capitals or not, in any script; no sign stands for another."""
    mark = uuid4().hex[:8]
    names = {
        "änne": f"{mark} Änne Öz",
        "strasse": f"{mark} Straße",
        "percent": f"{mark} 100%_/\\",
        "plain": f"{mark} 1000",
    }
    ids = {}
    for key, name in names.items():
        ids[key] = (await account(stored, name, email=f"{key[0]}.{uuid4().hex}@example.com")).id
    for search, keys in {
        mark: set(names),
        f"{mark.upper()} ÄNNE ö": {"änne"},
        f" {mark} STRASSE ": {"strasse"},
        f"{mark} 100%": {"percent"},
        f"{mark} 100%_/\\": {"percent"},
        f"{mark} 100": {"percent", "plain"},
        f"{mark}%": set(),
        f"{mark}_": set(),
        "Öz": set(),
    }.items():
        found = await eve.found(search=search)
        assert {key for key in names if ids[key] in found} == keys, search
    address = f"Zoë.{mark}@Bücher.example"
    zoe = await account(stored, "Zoë", email=f"zoë.{mark}@xn--bcher-kva.example")
    for search in (address, address.upper(), f"ZOË.{mark}", f"zoë.{mark}@xn--"):
        assert await eve.found(search=search) == [zoe.id], search
    assert await eve.found(search=mark, limit=1) == [ids["plain"]]


@pytest.mark.parametrize(
    "query",
    [
        {"search": " "},
        {"search": "a\0"},
        {"search": "a" * 255},
        {"limit": 0},
        {"limit": 101},
        {"after": 0},
        {"after": 2**63},
        {"serach": "bob"},
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(eve: Administrator, query: Any) -> None:
    """Also one whose filter is misspelt."""
    answer = await eve.ask("GET", params=query)
    assert (answer.status_code, code(answer)) == (422, "invalid_parameter")


async def test_pages_follow_one_another(stored: SqlDatabase, eve: Administrator) -> None:
    """The newest first; who comes meanwhile moves nobody to another page."""
    mark = uuid4().hex
    ids = [(await account(stored, mark)).id for _ in range(5)]
    pages: list[list[int]] = []
    query: dict[str, Any] = {"search": mark, "limit": 2}
    while True:
        page = (await eve.ask("GET", params=query)).json()
        pages.append([each["id"] for each in page["items"]])
        if page["next"] is None:
            break
        query["after"] = page["next"]
        await account(stored, mark)
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


async def test_who_is_disabled_is_out_at_once_everywhere(
    common: RunningServer, other: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Tokens, keys and sockets, in every process; and in again only by a new log-in."""
    bob = await account(stored)
    pair, key = await begins(common, bob), await key_of(stored, bob)
    async with AsyncExitStack() as stack:
        sockets = [
            socket
            for server in (common, other)
            for token in (pair["access_token"], key)
            for socket in await opened(stack, server, token)
        ]
        assert [await status(other, token) for token in (pair["access_token"], key)] == [200, 200]
        since = time.monotonic()
        disabled = (await eve.ask("POST", f"/{bob.id}/disable")).json()
        assert [await status(common, token) for token in (pair["access_token"], key)] == [401, 401]
        await all_closed(sockets, since)
    assert [await status(other, token) for token in (pair["access_token"], key)] == [401, 401]
    assert (disabled["disabled"], disabled["sessions"]) == (True, 0)
    async with common.client() as client:
        assert (await me(client, pair["access_token"])).json()["detail"] == (
            "The account was disabled."
        )
        refused = await log_in(client, bob.email)
        assert facts(refused) == facts(await log_in(client, bob.email, "something else"))
        assert code(refused) == "accounts.wrong_credentials"
    assert code(await refreshed(common, pair)) == "accounts.refresh_refused"
    assert (await eve.ask("POST", f"/{bob.id}/disable")).json() == disabled  # it was already
    enabled = (await eve.ask("POST", f"/{bob.id}/enable")).json()
    assert enabled == (await eve.ask("POST", f"/{bob.id}/enable")).json()
    assert enabled == disabled | {"disabled": False}
    assert code(await refreshed(common, pair)) == "accounts.refresh_refused"
    await next_second()
    assert await status(common, (await begins(common, bob))["access_token"]) == 200
    assert await status(common, key) == 401
    assert await revoked_by_name(stored, bob) == {"session", "key"}
    told = [(action, actor) for action, actor, _ in await entries(stored, bob.id)]
    by_eve = str(eve.id)
    assert [each for each in told if each[0].startswith("account.")] == [
        ("account.disabled", by_eve),
        ("account.enabled", by_eve),
    ]


async def revoked_by_name(database: SqlDatabase, user: User) -> set[str]:
    """What of somebody's is refused by its name: also where a clock that is ahead let it in."""
    async with database.reading() as session:
        revoked = set(await session.scalars(select(RevocationRow.key)))
        sessions = await session.scalars(select(Session.id).where(Session.user_id == user.id))
        keys = await session.scalars(select(ApiKey.id).where(ApiKey.user_id == user.id))
        named = [("session", each) for each in sessions] + [("key", f"key:{key}") for key in keys]
    return {kind for kind, name in named if name in revoked}


async def test_a_log_in_under_way_is_not_let_in(
    common: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Ten of them race it: no token that comes of them is good for anything."""
    bob = await account(stored)
    pairs = [await begins(common, bob) for _ in range(3)]
    racing = [asyncio.create_task(begun(common, bob)) for _ in range(10)]
    racing += [asyncio.create_task(again(common, pair)) for pair in pairs]
    assert (await eve.ask("POST", f"/{bob.id}/disable")).status_code == 200
    for token in await asyncio.gather(*racing):
        assert token is None or await status(common, token) == 401


async def begun(server: RunningServer, user: User) -> str | None:
    """The access token of a log-in, where it is let in."""
    async with server.client() as client:
        token: str | None = (await log_in(client, user.email)).json().get("access_token")
    return token


async def again(server: RunningServer, pair: dict[str, Any]) -> str | None:
    """The access token of a refresh, where it is let in."""
    token: str | None = (await refreshed(server, pair)).json().get("access_token")
    return token


async def test_a_role_that_is_taken_is_gone_at_once_everywhere(
    common: RunningServer, other: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Sockets close and tokens are refused; the session goes on, without the role."""
    bob = await account(stored)
    given = (await eve.ask("PUT", f"/{bob.id}/roles", json={"roles": ["admin", "admin"]})).json()
    assert given["roles"] == ["admin"]
    pair, key = await begins(common, bob), await key_of(stored, bob)
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(server.socket("/administered/admins", token))
            for server in (common, other)
            for token in (pair["access_token"], key)
        ]
        for socket in sockets:
            await socket.until("welcome")
        since = time.monotonic()
        taken = await eve.ask("PUT", f"/{bob.id}/roles", json={"roles": []})
        assert taken.json()["roles"] == []
        assert await status(common, pair["access_token"]) == 401
        await all_closed(sockets, since)
    assert await status(other, pair["access_token"]) == 401
    await next_second()
    token = (await refreshed(common, pair)).json()["access_token"]
    for credential in (token, key):
        async with common.client(credential) as client:
            assert (await client.get("/administered/rest")).json() == []
    assert (await eve.ask("PUT", f"/{bob.id}/roles", json={"roles": []})).json() == taken.json()
    assert [each for each in await entries(stored, bob.id) if each[0] != "session.begun"] == [
        ("account.roles_changed", str(eve.id), {"before": [], "after": ["admin"]}),
        ("account.roles_changed", str(eve.id), {"before": ["admin"], "after": []}),
    ]


@pytest.mark.parametrize(
    "body", [{"roles": ["emperor"]}, {"roles": "admin"}, {"roles": ["admin"] * 33}, {}, {"x": 1}]
)
async def test_roles_are_known_ones(stored: SqlDatabase, eve: Administrator, body: Any) -> None:
    """A typing error gives nobody a role."""
    bob = await account(stored)
    answer = await eve.ask("PUT", f"/{bob.id}/roles", json=body)
    assert (answer.status_code, code(answer)) == (422, "invalid_parameter")
    if body == {"roles": ["emperor"]}:
        (error,) = answer.json()["errors"]
        assert (error["loc"], error["msg"]) == (["body", "roles"], "There are these roles: admin")
    assert (await eve.ask("GET", f"/{bob.id}")).json()["roles"] == []


async def test_administrators_do_not_lock_themselves_out(eve: Administrator) -> None:
    """Another one has to; what takes nothing from them they may do."""
    for method, what, body in (("POST", "disable", None), ("PUT", "roles", {"roles": []})):
        answer = await eve.ask(method, f"/{eve.id}/{what}", json=body)
        assert (answer.status_code, code(answer)) == (409, "accounts.not_to_oneself")
    assert (await eve.ask("POST", f"/{eve.id}/enable")).status_code == 200
    assert (await eve.ask("PUT", f"/{eve.id}/roles", json={"roles": ["admin"]})).is_success


async def test_a_lost_second_factor_is_removed(
    common: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Sessions and sockets end, the password is enough, and the person is told."""
    mailbox = Mailbox(common)
    bob, pair = await enrolled(common, stored)
    async with common.socket("/administered/channel", pair["access_token"]) as socket:
        await socket.until("welcome")
        answer = await eve.ask("DELETE", f"/{bob.id}/second-factor")
        assert (answer.status_code, answer.json()["second_factor"]) == (200, False)
        assert (await socket.ending())[:2] == (4401, "session_revoked")
    assert code(await refreshed(common, pair)) == "accounts.refresh_refused"
    assert (await bob.log_in()).status_code == 200
    mail = await mailbox.mail(bob.email, 2)  # the first told that there was one
    assert "An administrator did it" in text_of(mail)
    done = [(action, actor) for action, actor, _ in await entries(stored, bob.id)][-3:-1]
    assert done == [("session.ended", str(eve.id)), ("second_factor.removed", str(eve.id))]
    async with stored.reading() as session:
        codes = select(RecoveryCode).where(RecoveryCode.user_id == bob.id)
        assert (await session.scalars(codes)).all() == []
    again = await eve.ask("DELETE", f"/{bob.id}/second-factor")
    assert (again.status_code, code(again)) == (404, "accounts.no_second_factor")
    own = await eve.ask("DELETE", f"/{eve.id}/second-factor")
    assert (own.status_code, code(own)) == (409, "accounts.not_to_oneself")


async def test_somebody_is_signed_out(
    common: RunningServer, other: RunningServer, stored: SqlDatabase, eve: Administrator
) -> None:
    """Of every session, in every process; their keys are no sessions, and they may log in."""
    bob = await account(stored)
    pairs = [await begins(common, bob), await begins(other, bob)]
    key = await key_of(stored, bob)
    async with AsyncExitStack() as stack:
        sockets = [
            *await opened(stack, common, pairs[0]["access_token"]),
            *await opened(stack, other, pairs[1]["access_token"]),
        ]
        since = time.monotonic()
        answer = await eve.ask("POST", f"/{bob.id}/sign-out")
        assert (answer.status_code, answer.content) == (204, b"")
        await all_closed(sockets, since)
    for pair in pairs:
        assert await status(common, pair["access_token"]) == 401
        assert code(await refreshed(common, pair)) == "accounts.refresh_refused"
    assert await status(common, key) == 200
    await next_second()
    assert await status(common, (await begins(common, bob))["access_token"]) == 200
    action, actor, details = (await entries(stored, bob.id))[2]
    assert (action, actor, len(details["sessions"])) == ("session.ended", str(eve.id), 2)
    assert details["why"] == "An administrator has ended it."


# Alone, each with all the administrators of a database


@pytest.fixture
async def alone(
    engine: str, serve: Callable[..., RunningServer], settings: Any
) -> AsyncIterator[tuple[RunningServer, SqlDatabase]]:
    """A server whose database nobody else uses."""
    database = SqlDatabase(settings.database)
    yield serve(), database
    await database.dispose()


async def test_the_last_administrator_stays(alone: tuple[RunningServer, SqlDatabase]) -> None:
    """Whoever asks: one that is disabled, or was demoted a moment ago, does not count."""
    server, database = alone
    ann, bob = [await administrator(server, database) for _ in range(2)]
    assert (await ann.ask("POST", f"/{bob.id}/disable")).status_code == 200
    foreign = Administrator(server, 99, token_of(server, "99"))
    for method, what, body in (("POST", "disable", None), ("PUT", "roles", {"roles": []})):
        answer = await foreign.ask(method, f"/{ann.id}/{what}", json=body)
        assert (answer.status_code, code(answer)) == (409, "accounts.last_administrator")
    deletion = await ann.ask("DELETE", "/me", json={"password": PASSWORD})
    assert (deletion.status_code, code(deletion)) == (409, "accounts.last_administrator")
    assert (await foreign.ask("PUT", f"/{bob.id}/roles", json={"roles": []})).is_success
    assert (await ann.ask("GET", f"/{ann.id}")).json()["roles"] == ["admin"]


def token_of(server: RunningServer, subject: str) -> str:
    """A token of an administrator's, who may have no account any more."""
    return server.token(subject, roles=["admin"], authenticated_at=datetime.now(UTC))


async def test_of_all_who_act_at_one_moment_one_is_left(
    alone: tuple[RunningServer, SqlDatabase],
) -> None:
    """Eight disable or demote one another in a ring: somebody still administers."""
    server, database = alone
    ring = [await administrator(server, database) for _ in range(8)]

    async def acts(number: int) -> int:
        target = ring[(number + 1) % len(ring)].id
        if number % 2:
            return (await ring[number].ask("POST", f"/{target}/disable")).status_code
        body: dict[str, Any] = {"roles": []}
        return (await ring[number].ask("PUT", f"/{target}/roles", json=body)).status_code

    statuses = await asyncio.gather(*(acts(number) for number in range(len(ring))))
    assert set(statuses) <= {200, 401, 409}  # 401: was out before their own turn
    left = [
        user
        for each in ring
        if "admin" in (user := await stored_user(database, each.id)).roles and not user.disabled_at
    ]
    assert left
    assert len(left) == len(ring) - statuses.count(200)
