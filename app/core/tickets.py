"""Tickets: a single-use way in for clients that can set nothing but an address.

Somebody who is signed in is given one for a path, and may open one WebSocket there with
`?ticket=…`, within half a minute. It lets in who it was given to, as they were then, and no longer
than the credential did that they came with. An address ends up in logs and histories: by then the
ticket is used.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import JSON, String, delete, select
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection

from app.core.auth import Principal, invalid_token
from app.core.db import Base, SqlDatabase, UnitOfWork
from app.core.errors import TokenExpired
from app.core.secrets_at_rest import digest_of

LIFETIME = timedelta(seconds=30)
TICKET = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_PATH = 512


class TicketRow(Base):
    """A ticket, by its SHA-256: who it was given to, and for which route; removed by its use."""

    __tablename__ = "tickets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(String(512))
    principal: Mapped[dict[str, Any]] = mapped_column(JSON)
    expires_at: Mapped[datetime] = mapped_column(index=True)


_PRINCIPAL = TypeAdapter(Principal)


def issue(uow: UnitOfWork, principal: Principal, path: str) -> str:
    """A ticket for one WebSocket at `path`, as the server sees paths: decoded, without a query."""
    ticket = secrets.token_urlsafe(32)
    uow.add(
        TicketRow(
            digest=digest_of(ticket),
            path=path,
            principal=_PRINCIPAL.dump_python(principal, mode="json"),
            expires_at=min(datetime.now(UTC) + LIFETIME, principal.expires_at),
        )
    )
    return ticket


async def by_ticket(connection: HTTPConnection, token: str | None) -> Principal | None:
    """Takes `?ticket=` on a WebSocket that brings no token: a Credential.

    The ticket is gone then, whether it was good here or not; who it let in stays let in until
    their credential ends, however often the guards are asked again.
    Raises AuthenticationFailed, TokenExpired.
    """
    if connection.scope["type"] != "websocket" or token is not None:
        return None
    given = connection.query_params.getlist("ticket")
    if not given:
        return None
    let_in: Principal | None = getattr(connection.state, "ticket", None)
    if let_in is None:
        if len(given) != 1 or not TICKET.fullmatch(given[0]):
            raise invalid_token("ticket")
        let_in = await _redeem(connection.app.state.database, given[0], connection.scope["path"])
        connection.state.ticket = let_in
    if let_in.seconds_left(connection.app.state.settings.token_leeway) <= 0:
        raise TokenExpired
    return let_in


async def _redeem(db: SqlDatabase, ticket: str, path: str) -> Principal:
    digest = digest_of(ticket)
    async with db.reading() as session:  # so that guessing takes nobody's turn to write
        known = await session.scalar(select(TicketRow.digest).where(TicketRow.digest == digest))
    if known is None:
        raise invalid_token("ticket")
    async with db.unit_of_work() as uow:
        used = delete(TicketRow).where(TicketRow.digest == digest)
        found = await uow.execute(
            used.returning(TicketRow.path, TicketRow.principal, TicketRow.expires_at)
        )
        row = found.one_or_none()
    # Out here: in the unit of work it would give the ticket back.
    if row is None or row.path != path or row.expires_at <= datetime.now(UTC):
        raise invalid_token("ticket")
    return _PRINCIPAL.validate_python(row.principal)
