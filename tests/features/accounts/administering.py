"""Administrators, and those whose accounts they look after, on a server that a module shares."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
from sqlalchemy import select

from app.core.audit import AuditRow
from app.core.db import SqlDatabase
from app.features.accounts.models import User
from tests.features.accounts.holders import HASH
from tests.server import RunningServer

ACCOUNTS = "/api/v1/accounts"


async def account(database: SqlDatabase, name: str = "Bob", *roles: str, email: str = "") -> User:
    """Somebody new with an account."""
    email = email or f"{uuid4().hex}@example.com"
    user = User(
        email=email,
        email_key=email,
        name=name,
        password_hash=HASH,
        roles=list(roles),
        created_at=datetime.now(UTC),
    )
    async with database.unit_of_work() as uow:
        uow.add(user)
    return user


@dataclass
class Administrator:
    """Somebody who administers, by a token that says so."""

    server: RunningServer
    id: int
    token: str

    async def ask(self, method: str, path: str = "", **kwargs: Any) -> httpx2.Response:
        """The answer to a request below `/api/v1/accounts`."""
        async with self.server.client(self.token) as client:
            return await client.request(method, ACCOUNTS + path, **kwargs)

    async def found(self, **query: Any) -> list[int]:
        """The ids in a page of accounts."""
        answer = await self.ask("GET", params=query)
        assert answer.status_code == 200, answer.text
        return [each["id"] for each in answer.json()["items"]]


async def administrator(
    server: RunningServer, database: SqlDatabase, *, proved: timedelta = timedelta(0)
) -> Administrator:
    """Somebody new who administers, and proved so long ago that it is them."""
    user = await account(database, "Eve", "admin")
    token = server.app.state.tokens.issue(
        str(user.id),
        name=user.name,
        session=uuid4().hex,
        roles=["admin"],
        authenticated_at=datetime.now(UTC) - proved,
    )
    return Administrator(server, user.id, token)


async def entries(database: SqlDatabase, user_id: int) -> list[tuple[str, str | None, Any]]:
    """What the audit log has of somebody, in its order: action, actor and details."""
    query = select(AuditRow).where(AuditRow.subject == str(user_id)).order_by(AuditRow.id)
    async with database.reading() as session:
        return [(row.action, row.actor, row.details) for row in await session.scalars(query)]
