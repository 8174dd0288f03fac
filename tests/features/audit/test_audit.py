"""The audit log: what administrators read of it, by which index, and when it is forgotten."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import Connection, insert, select, text
from starlette.datastructures import State

from app.core.audit import AuditRow, audit
from app.core.caller import Caller, enter
from app.core.db import SqlDatabase
from app.core.jobs import JobRun
from app.core.settings import Settings
from app.features.audit.jobs import forget_entries
from app.features.audit.schemas import AuditQuery
from app.features.audit.service import found_by
from app.main import create_app
from tests.conftest import settings_for
from tests.server import RunningServer

AUDIT = "/api/v1/audit"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def common(shared_url: str) -> Iterator[RunningServer]:
    """A server on each engine, whose log the tests of this module share."""
    with RunningServer(settings_for(shared_url, audit_days=3650)) as server:
        yield server


@pytest.fixture
async def database(common: RunningServer) -> AsyncIterator[SqlDatabase]:
    """Its database, over a connection of the test's own."""
    database = SqlDatabase(common.settings.database)
    yield database
    await database.dispose()


@pytest.fixture
async def admin(common: RunningServer) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an administrator's, who need not have an account."""
    async with common.client(common.token("auth0|eve", roles=["admin"])) as client:
        yield client


def entry(action: str = "lamp.lit", at: datetime = NOON, **values: Any) -> dict[str, Any]:
    """A row of the log."""
    row: dict[str, Any] = {
        "action": action,
        "at": at,
        "actor": None,
        "subject": None,
        "address": "",
    }
    return row | {"request_id": "", "details": {}} | values


async def record(database: SqlDatabase, *entries: dict[str, Any]) -> None:
    """Put rows into the log."""
    async with database.unit_of_work() as uow:
        await uow.execute(insert(AuditRow), list(entries))


async def read(admin: httpx2.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """The entries of a page."""
    answer = await admin.get(AUDIT, params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_an_entry_is_read_as_it_was_written(
    database: SqlDatabase, admin: httpx2.AsyncClient
) -> None:
    """Who did it to whom, from where, in which request, and the facts."""
    subject = uuid4().hex
    enter(Caller(request_id="request-1", address="203.0.113.9", agent="a browser"))
    async with database.unit_of_work() as uow:
        audit(uow, "lamp.lit", subject=subject, actor="7", colour="red", watts=40, to=["a", "b"])
    enter(Caller())
    (read_again,) = await read(admin, subject=subject)
    at = datetime.fromisoformat(read_again.pop("at"))
    assert timedelta(0) <= datetime.now(UTC) - at < MINUTE
    assert read_again.pop("id") > 0
    assert read_again == {
        "action": "lamp.lit",
        "actor": "7",
        "subject": subject,
        "address": "203.0.113.9",
        "request_id": "request-1",
        "details": {"colour": "red", "watts": 40, "to": ["a", "b"]},
    }


async def test_administrators_read_it_and_nobody_else(common: RunningServer) -> None:
    """Not the one whom it is about, and nobody who is not signed in."""
    async with common.client() as client:
        assert (await client.get(AUDIT)).status_code == 401
    async with common.client(common.token("7")) as client:
        answer = await client.get(AUDIT, params={"subject": "7"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_is_written_or_removed(
    database: SqlDatabase, admin: httpx2.AsyncClient, method: str
) -> None:
    """There is no way to, not for an administrator either."""
    await record(database, entry())
    for path, status in ((AUDIT, 405), (f"{AUDIT}/1", 404)):
        assert (await admin.request(method, path, json={})).status_code == status
    assert await read(admin)


async def test_entries_are_picked(database: SqlDatabase, admin: httpx2.AsyncClient) -> None:
    """By action or how it begins, by whom it is about, by time; and by all of that together."""
    ann, bob = uuid4().hex, uuid4().hex
    kind = f"k{uuid4().hex[:8]}"
    actions = [f"{kind}.begun", f"{kind}.ended", f"{kind}", f"{kind}s.begun", f"{kind}.be"]
    rows = [
        entry(action, NOON + MINUTE * (2 * number + half), subject=who)
        for number, action in enumerate(actions)
        for half, who in enumerate((ann, bob))
    ]
    await record(database, *rows)
    about_ann = {"subject": ann}
    picks: list[tuple[dict[str, Any], list[str]]] = [
        (about_ann, actions),
        (about_ann | {"action": f"{kind}.begun"}, [actions[0]]),
        (about_ann | {"action": f"{kind}."}, [actions[0], actions[1], actions[4]]),
        (about_ann | {"action": kind}, [actions[2]]),
        (about_ann | {"action": f"{kind}.b"}, []),
        (about_ann | {"since": NOON + MINUTE * 2}, actions[1:]),
        (about_ann | {"until": NOON + MINUTE * 2}, actions[:1]),
        (about_ann | {"since": NOON + MINUTE * 2, "until": NOON + MINUTE * 4}, [actions[1]]),
        ({"action": f"{kind}.", "until": NOON + MINUTE * 3}, [actions[0], actions[0], actions[1]]),
        ({"subject": uuid4().hex}, []),
    ]
    for query, expected in picks:
        sent = {k: v if isinstance(v, str) else v.isoformat() for k, v in query.items()}
        found = await read(admin, **sent)
        assert [each["action"] for each in found] == expected[::-1], query
    there = (NOON + MINUTE * 2).astimezone(tz=None).isoformat()  # another zone's clock
    assert len(await read(admin, subject=ann, since=there)) == 4


async def test_pages_follow_one_another(database: SqlDatabase, admin: httpx2.AsyncClient) -> None:
    """By time, the newest first, also where two came at one moment or late; each entry once."""
    subject = uuid4().hex
    minutes = [3, 1, 2, 2, 2, 0, 4]
    await record(database, *(entry(at=NOON + MINUTE * m, subject=subject) for m in minutes))
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"subject": subject, "limit": 2}
    while True:
        page = (await admin.get(AUDIT, params=query)).json()
        seen += page["items"]
        assert len(page["items"]) == (2 if page["next"] else 1)
        if page["next"] is None:
            break
        query["after"] = page["next"]
        await record(database, entry(at=NOON + MINUTE * 9, subject=subject))
    assert len({each["id"] for each in seen}) == 7
    order = [(each["at"], each["id"]) for each in seen]
    assert order == sorted(order, reverse=True)


async def test_what_follows_a_forgotten_entry_is_forgotten(admin: httpx2.AsyncClient) -> None:
    """The page after it is empty, and the last."""
    answer = await admin.get(AUDIT, params={"after": 10**12})
    assert answer.json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        {"action": "Session.begun"},
        {"action": "."},
        {"action": "a..b"},
        {"action": "%"},
        {"action": "a" * 65},
        {"subject": ""},
        {"subject": "a\0"},
        {"since": "yesterday"},
        {"since": "2026-03-01T12:00:00"},
        {"until": "0001-01-01T00:00:00+14:00"},
        {"until": "9999-12-31T23:59:59-14:00"},
        {"limit": 101},
        {"after": 0},
        {"actor": "7"},
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    admin: httpx2.AsyncClient, query: dict[str, Any]
) -> None:
    """Nobody reads the wrong entries and takes them for all there are."""
    answer = await admin.get(AUDIT, params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


async def test_far_moments_are_moments(admin: httpx2.AsyncClient) -> None:
    """The first and the last that there are in UTC."""
    query = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z", "limit": 1}
    assert len(await read(admin, **query)) <= 1


# Plans

SUBJECTS = 200
ENTRIES = 20_000

PLANS = {
    "ix_audit_log_at": [
        {},
        {"after": 15_000},
        {"until": NOON + MINUTE * 1000},
        {"since": NOON + MINUTE * 1000, "until": NOON + MINUTE * 1100, "after": 1_050},
    ],
    "ix_audit_log_action": [
        {"action": "rare.thing"},
        {"action": "rare."},
        {"action": "rare.thing", "until": NOON + MINUTE * 900},
    ],
    "ix_audit_log_subject": [
        {"subject": "7"},
        {"subject": "7", "after": 10_000},
        {"subject": "7", "since": NOON + MINUTE * 1000},
    ],
}


@pytest.fixture(scope="module")
def long_log(common: RunningServer) -> RunningServer:
    """The server, with a log of twenty thousand entries, a minute apart."""
    chance = random.Random(7)
    kinds = ["session.begun", "session.ended", "account.locked"]
    rows = [
        entry(chance.choice(kinds), NOON + MINUTE * n, subject=str(chance.randrange(SUBJECTS)))
        for n in range(ENTRIES - 5)
    ]
    rows += [entry("rare.thing", NOON + MINUTE * n) for n in range(5)]

    async def fill() -> None:
        database = SqlDatabase(common.settings.database)
        await record(database, *rows)
        async with database.unit_of_work() as uow:
            await uow.execute(text("ANALYZE"))
        await database.dispose()

    asyncio.run(fill())
    return common


@pytest.mark.parametrize(
    ("index", "query"), [(index, query) for index, queries in PLANS.items() for query in queries]
)
async def test_every_way_of_reading_has_its_index(
    long_log: RunningServer, database: SqlDatabase, index: str, query: dict[str, Any]
) -> None:
    """However long the log is, no page of it takes reading all, nor sorting more than a little."""
    asked = AuditQuery(**query)
    before = NOON + MINUTE * asked.after if asked.after else None
    async with database.engine.connect() as connection:
        plan = await connection.run_sync(_plan, found_by(asked, before))
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
    assert "SCAN audit_log\n" not in plan, plan
    assert "TEMP B-TREE" not in plan or asked.action == "rare.", plan
    assert "Sort" not in plan or asked.action or asked.subject, plan  # it is cheap for some


def _plan(connection: Connection, statement: Any) -> str:
    """What the database would do."""
    sql = str(statement.compile(connection.engine, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    rows = connection.exec_driver_sql(f"{explain} {sql.replace('%', '%%')}").all()
    return "\n".join(str(row[-1]) for row in rows) + "\n"


# Forgetting


@pytest.mark.usefixtures("engine")
async def test_old_entries_are_forgotten(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After AUDIT_DAYS, the oldest first and so many at a time; no other ever."""
    monkeypatch.setitem(forget_entries.__globals__, "REMOVED_AT_ONCE", 2)
    database = SqlDatabase(settings.database)
    state = State({"settings": settings})
    kept_from = datetime.now(UTC) - timedelta(days=settings.audit_days)
    ages = {"oldest": -3, "older": -2, "old": -1, "young": 1}
    await record(database, *(entry(name, kept_from + MINUTE * m) for name, m in ages.items()))
    left = []
    for _ in range(3):
        async with database.unit_of_work() as uow:
            await forget_entries(JobRun(uow, state, 1, 1))
        async with database.reading() as session:
            left.append(set(await session.scalars(select(AuditRow.action))))
    await database.dispose()
    assert left == [{"old", "young"}, {"young"}, {"young"}]


def test_the_service_forgets_them(settings: Settings) -> None:
    """Every minute."""
    assert create_app(settings).state.jobs.routes.get("audit.forget_entries").every == MINUTE
