"""API keys: made once, stored as digests, and taken by the same guards at both doors."""

import asyncio
import json
import re
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, WebSocket
from sqlalchemy import select, update
from starlette.datastructures import State
from websockets.exceptions import InvalidStatus

from app.core.auth import Admin, CurrentUser, Principal, has_scope, scope
from app.core.connections import OpenConnections
from app.core.db import SqlDatabase
from app.core.jobs import JobRun
from app.core.revocations import Revocations
from app.core.secrets_at_rest import digest_of
from app.features.accounts.jobs import forget_keys
from app.features.accounts.keys import service
from app.features.accounts.keys.secret import SHAPE, is_well_formed, new_key
from app.features.accounts.models import ApiKey, User
from app.realtime import Channel
from tests.features.accounts.holders import Holder, holder, outcome, recorded
from tests.features.accounts.people import facts
from tests.server import RunningServer, Socket

KEYS = "/api/v1/api-keys"
DAY = timedelta(days=1)

LAMP = scope("lamp:switch", "Switch the lamp on and off")
Switcher = Annotated[Principal, Depends(has_scope(LAMP))]

router = APIRouter(prefix="/lamp")


def seen(user: Principal) -> dict[str, Any]:
    """What a door knows about who asks."""
    return {"subject": user.subject, "session": user.session, "roles": sorted(user.roles)}


@router.get("/rest")
async def rest(user: Switcher) -> dict[str, Any]:
    """Who switches the lamp."""
    return seen(user)


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: Switcher) -> None:
    """Who switches the lamp."""
    await websocket.accept("bearer" if "bearer" in websocket.scope["subprotocols"] else None)
    await websocket.send_json({"type": "you", "data": seen(user)})
    await websocket.receive()


@router.websocket("/channel")
class Lamp(Channel):
    """Who switches the lamp."""

    user: Switcher

    async def opened(self) -> None:
        """Tell who it is."""
        await self.websocket.send_json({"type": "you", "data": seen(self.user)})


@router.get("/admin")
async def administer(user: Admin) -> None:
    """Nothing but to be an administrator."""


@router.get("/plain")
async def plain(user: CurrentUser) -> None:
    """Nothing but to be signed in."""


def fresh(person: Holder) -> str:
    """A token of somebody who has just proved who they are."""
    now = datetime.now(UTC)
    return person.server.token(str(person.id), authenticated_at=now, methods=["pwd"])


async def asked(person: Holder, **new: Any) -> httpx2.Response:
    """The answer to somebody who asks for a key."""
    body = {"name": "CI", "scopes": [LAMP]} | new
    async with person.server.client(fresh(person)) as client:
        return await client.post(KEYS, json=body)


async def made(person: Holder, **new: Any) -> dict[str, Any]:
    """A new key."""
    answer = await asked(person, **new)
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key


async def listed(person: Holder) -> list[dict[str, Any]]:
    """Somebody's keys."""
    async with person.server.client(fresh(person)) as client:
        keys: list[dict[str, Any]] = (await client.get(KEYS)).json()
    return keys


async def revoked(person: Holder, key_id: Any) -> httpx2.Response:
    """The answer to a revocation."""
    async with person.server.client(fresh(person)) as client:
        return await client.delete(f"{KEYS}/{key_id}")


async def got(server: RunningServer, key: str, path: str = "/lamp/rest") -> httpx2.Response:
    """The answer to a key."""
    async with server.client(key) as client:
        return await client.get(path)


def on_server(server: RunningServer, work: Any) -> Any:
    """Run a coroutine where the server runs."""
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, server._server._loop))


@pytest.fixture
async def ann(common: RunningServer, stored: SqlDatabase) -> Holder:
    """Somebody with an account."""
    return await holder(common, stored)


async def test_a_key_is_told_once(ann: Holder, stored: SqlDatabase) -> None:
    """The answer has it; the list has what it is recognised by, the table its digest."""
    answer = await asked(ann, name="  CI ", scopes=[LAMP, "admin", LAMP])
    key = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert re.fullmatch(r"dpx_[0-9A-Za-z]{8}_[0-9A-Za-z]{49}", key["key"])
    assert key["key"].startswith(key["prefix"])
    assert (key["name"], key["scopes"], key["used_at"]) == ("CI", ["admin", LAMP], None)
    lasts = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert lasts == 90 * DAY
    secret = key.pop("key")
    assert await listed(ann) == [key]
    async with stored.reading() as session:
        row = (await session.scalars(select(ApiKey).where(ApiKey.user_id == ann.id))).one()
    assert row.digest == digest_of(secret)
    assert secret[13:] not in str(vars(row))
    assert await recorded(stored, ann) == ["key.created"]


async def test_a_key_takes_a_fresh_proof(ann: Holder) -> None:
    """Whoever finds an open browser makes none; neither does a key itself."""
    async with ann.server.client(ann.server.token(str(ann.id))) as client:
        answer = await client.post(KEYS, json={"name": "CI", "scopes": [LAMP]})
    assert outcome(answer) == (401, "step_up_required")
    key = (await made(ann, scopes=sorted(["admin", LAMP])))["key"]
    async with ann.server.client(key) as client:
        for method, path in (("POST", KEYS), ("GET", KEYS), ("DELETE", f"{KEYS}/1")):
            answer = await client.request(method, path)
            assert outcome(answer) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": ["lamp:swich"]},
        {"scopes": []},
        {"scopes": ["admin"] * 33},
        {"scopes": "admin"},
        {"expires_in_days": 0},
        {"expires_in_days": 366},
        {"expires_in_days": None},
        {"name": ""},
        {"name": "a\x07b"},
        {"name": "a" * 81},
        {"key": "dpx_mine"},
    ],
    ids=str,
)
async def test_a_key_is_asked_for_in_full(ann: Holder, wrong: dict[str, Any]) -> None:
    """Scopes that exist, an end within a year, a name that can be shown."""
    assert outcome(await asked(ann, **wrong)) == (422, "invalid_parameter")
    assert await listed(ann) == []


async def test_what_a_key_can_be_made_for_is_told(ann: Holder) -> None:
    """Each scope and what it means."""
    async with ann.server.client(fresh(ann)) as client:
        scopes = (await client.get(f"{KEYS}/scopes")).json()
    assert {"name": LAMP, "description": "Switch the lamp on and off"} in scopes


async def test_a_key_is_who_made_it_at_every_door(ann: Holder) -> None:
    """In Authorization, and as a page's subprotocol; only `bearer` comes back."""
    key = await made(ann)
    expected = {"subject": str(ann.id), "session": f"key:{key['id']}", "roles": []}
    assert (await got(ann.server, key["key"])).json() == expected
    for path in ("/lamp/channel", "/lamp/bare"):
        async with ann.server.socket(path, key["key"]) as socket:
            assert (await socket.until("you"))["data"] == expected
        async with ann.server.browser_socket(path, key["key"]) as socket:
            assert socket.connection.subprotocol == "bearer"
            assert (await socket.until("you"))["data"] == expected


async def test_a_key_does_what_it_was_made_for(ann: Holder) -> None:
    """And nothing that names no scope."""
    other = (await made(ann, scopes=["admin"]))["key"]
    assert outcome(await got(ann.server, other)) == (403, "insufficient_scope")
    assert outcome(await got(ann.server, other, "/lamp/plain")) == (403, "insufficient_scope")
    with pytest.raises(InvalidStatus) as refused:
        async with ann.server.socket("/lamp/channel", other):
            pass
    assert json.loads(refused.value.response.body or b"")["code"] == "insufficient_scope"


async def test_a_key_has_the_roles_that_its_owner_has_now(ann: Holder, stored: SqlDatabase) -> None:
    """As far as its scopes name them."""
    admins, plain = (await made(ann, scopes=["admin"]))["key"], (await made(ann))["key"]
    assert outcome(await got(ann.server, admins, "/lamp/admin")) == (403, "forbidden")
    await _set(stored, ann, roles=["admin"])
    assert (await got(ann.server, admins, "/lamp/admin")).status_code == 200
    assert outcome(await got(ann.server, plain, "/lamp/admin")) == (403, "forbidden")
    assert (await got(ann.server, plain)).json()["roles"] == []
    await _set(stored, ann, roles=[])
    assert outcome(await got(ann.server, admins, "/lamp/admin")) == (403, "forbidden")


async def _set(database: SqlDatabase, person: Holder, **values: Any) -> None:
    async with database.unit_of_work() as uow:
        await uow.execute(update(User).where(User.id == person.id).values(values))


async def test_a_key_that_is_not_good_is_like_a_wrong_token(
    ann: Holder, stored: SqlDatabase
) -> None:
    """Mistyped, unknown, expired, revoked, its owner disabled: nobody is told which."""
    expected = await got(ann.server, "a.b.c")
    keys = [await made(ann) for _ in range(3)]
    good, old, gone = (each["key"] for each in keys)
    async with stored.unit_of_work() as uow:
        expired = update(ApiKey).where(ApiKey.id == keys[1]["id"])
        await uow.execute(expired.values(expires_at=datetime.now(UTC)))
    assert (await revoked(ann, keys[2]["id"])).status_code == 204
    mistyped = good[:-1] + ("x" if good[-1] != "x" else "y")
    for key in (mistyped, new_key()[0], old, gone, "dpx_", "dpx_" + "é" * 57):
        answer = await _raw(ann.server, key)
        assert facts(answer) == facts(expected)
        assert answer.headers["www-authenticate"] == expected.headers["www-authenticate"]
    assert (await got(ann.server, good)).status_code == 200
    await _set(stored, ann, disabled_at=datetime.now(UTC))
    assert facts(await got(ann.server, good)) == facts(expected)


async def _raw(server: RunningServer, key: str) -> httpx2.Response:
    headers = {b"Authorization": f"Bearer {key}".encode()}
    async with server.client() as client:
        return await client.get("/lamp/rest", headers=headers)


async def test_a_revoked_key_closes_its_sockets(ann: Holder, stored: SqlDatabase) -> None:
    """At once; those of another key and of the person stay."""
    ending, staying = await made(ann), await made(ann)
    async with AsyncExitStack() as stack:
        gone = [await _open(stack, ann, path, ending["key"]) for path in ("channel", "bare")]
        stays = [await _open(stack, ann, "channel", each) for each in (staying["key"], fresh(ann))]
        assert (await revoked(ann, ending["id"])).status_code == 204
        async with asyncio.timeout(1):
            assert {(await each.ending())[:2] for each in gone} == {(4401, "session_revoked")}
        for socket in stays:
            assert (await socket.ask("ping"))["type"] == "pong"
    assert [each["id"] for each in await listed(ann)] == [staying["id"]]
    assert (await recorded(stored, ann))[-1] == "key.revoked"


async def _open(stack: AsyncExitStack, person: Holder, path: str, token: str) -> Socket:
    socket = await stack.enter_async_context(person.server.socket(f"/lamp/{path}", token))
    await socket.until("you")
    return socket


async def test_disabling_its_owner_closes_a_keys_sockets(ann: Holder, stored: SqlDatabase) -> None:
    """Within a second, also from another process."""
    key = (await made(ann))["key"]
    revocations = Revocations(stored, OpenConnections(), keep=timedelta(minutes=1))
    async with AsyncExitStack() as stack:
        sockets = [await _open(stack, ann, path, key) for path in ("channel", "bare")]
        async with stored.unit_of_work() as uow:
            revocations.revoke_subject(uow, str(ann.id), "It was disabled.")
        async with asyncio.timeout(2):
            assert {(await each.ending())[1] for each in sockets} == {"session_revoked"}
    assert (await got(ann.server, key)).status_code == 200  # it is the account that decides


async def test_a_key_that_expires_closes_its_sockets(ann: Holder, stored: SqlDatabase) -> None:
    """When it does."""
    key = await made(ann)
    async with stored.unit_of_work() as uow:
        soon = update(ApiKey).where(ApiKey.id == key["id"])
        await uow.execute(soon.values(expires_at=datetime.now(UTC) + timedelta(seconds=0.5)))
    async with AsyncExitStack() as stack:
        sockets = [await _open(stack, ann, path, key["key"]) for path in ("channel", "bare")]
        async with asyncio.timeout(1):
            assert {(await each.ending())[1] for each in sockets} == {"token_expired"}


def test_a_key_ends_without_leeway() -> None:
    """Its end is by the service's own clock; that of a token may be by another's."""
    now = datetime.now(UTC)
    for exact, left in ((True, 60), (False, 90)):
        principal = Principal(
            "1", "Ann", "key:1", frozenset(), now, now + timedelta(minutes=1), exact=exact
        )
        assert round(principal.seconds_left(timedelta(seconds=30))) == left


async def test_somebody_elses_key_is_not_there(
    ann: Holder, common: RunningServer, stored: SqlDatabase
) -> None:
    """Neither is one that was revoked, nor what is no number."""
    bob = await holder(common, stored)
    key = await made(bob)
    assert await listed(ann) == []
    for key_id in (key["id"], 10**15):
        assert outcome(await revoked(ann, key_id)) == (404, "accounts.key_not_found")
    assert outcome(await revoked(ann, "x")) == (404, "not_found")
    assert (await got(common, key["key"])).status_code == 200
    assert (await revoked(bob, key["id"])).status_code == 204
    assert outcome(await revoked(bob, key["id"])) == (404, "accounts.key_not_found")


async def test_somebody_has_so_many_keys(ann: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that are asked for at once too; those that have ended do not count."""
    monkeypatch.setattr(service, "AT_MOST", 2)
    answers = await asyncio.gather(*(asked(ann) for _ in range(4)))
    assert sorted(each.status_code for each in answers) == [201, 201, 409, 409]
    keys = await listed(ann)
    assert len(keys) == 2
    await revoked(ann, keys[0]["id"])
    assert (await asked(ann)).status_code == 201


async def test_the_last_use_is_written_later(ann: Holder, stored: SqlDatabase) -> None:
    """By no request, and not again within a minute."""
    key = await made(ann)
    uses = ann.server.app.state.uses
    await got(ann.server, key["key"])
    await on_server(ann.server, uses.write())
    (first,) = await listed(ann)
    assert abs(time.time() - datetime.fromisoformat(first["used_at"]).timestamp()) < 5
    await got(ann.server, key["key"])
    await on_server(ann.server, uses.write())
    assert await listed(ann) == [first]


def test_a_mistyped_key_is_known_offline() -> None:
    """By its checksum: no letter can be wrong, missing or swapped."""
    keys = [new_key()[0] for _ in range(50)]
    assert len({key[4:12] for key in keys}) == len({key[13:] for key in keys}) == 50
    key = keys[0]
    assert is_well_formed(key)
    assert SHAPE.fullmatch(key)
    for at in range(len(key)):
        for letter in "0aZ_":
            assert is_well_formed(key[:at] + letter + key[at + 1 :]) is (letter == key[at])
    assert not is_well_formed(key[:-1])
    assert not is_well_formed(key + "\n")


async def test_keys_that_ended_long_ago_go(ann: Holder, stored: SqlDatabase) -> None:
    """Those that were revoked and those that expired, and no other."""
    keys = [await made(ann) for _ in range(4)]
    long_ago, lately = datetime.now(UTC) - 8 * DAY, datetime.now(UTC) - 6 * DAY
    changes: list[dict[str, Any]] = [
        {"revoked_at": long_ago},
        {"expires_at": long_ago},
        {"revoked_at": lately, "expires_at": lately},
        {},
    ]
    async with stored.unit_of_work() as uow:
        for key, change in zip(keys, changes, strict=True):
            if change:
                await uow.execute(update(ApiKey).where(ApiKey.id == key["id"]).values(change))
        await forget_keys(JobRun(uow, State(), 1, 1))
    async with stored.reading() as session:
        left = await session.scalars(select(ApiKey.id).where(ApiKey.user_id == ann.id))
        assert sorted(left) == [keys[2]["id"], keys[3]["id"]]
