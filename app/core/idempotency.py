"""A write that is asked for twice with one key is done once, at both doors.

    async with self.db.unit_of_work() as uow:
        return await self.idempotency.once(
            uow, user.subject, key, work, operation="rooms.create", body=draft, answer=Room
        )

Over REST the key is the header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), in a
frame the member `key`.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

from fastapi import Depends, Header
from pydantic import BaseModel
from sqlalchemy import BigInteger, String, Text, update
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import HTTPConnection

from app.core.db import Base, UnitOfWork, upsert
from app.core.errors import AppError, raises

A = TypeVar("A", bound=BaseModel)


class IdempotencyRow(Base):
    """The first answer to what a subject asked with a key."""

    __tablename__ = "idempotency_keys"

    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # SHA-256 of the operation and its body
    answer: Mapped[str | None] = mapped_column(Text)  # JSON; none before its transaction's end
    epoch: Mapped[str | None] = mapped_column(String(32))  # where the answer is in the event log
    offset: Mapped[int | None] = mapped_column(BigInteger)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class IdempotencyKeyReused(AppError):
    """The key was used for something else before; it stands for one request and its repetitions."""

    status = 422
    code = "idempotency_key_reused"
    title = "This key was used for another request."


class Position(Protocol):
    """Where an event is in the log."""

    @property
    def epoch(self) -> str: ...
    @property
    def offset(self) -> int: ...


@runtime_checkable
class Recorded(Protocol):
    """An answer that is an event too, and may be in the log."""

    @property
    def log_position(self) -> Position | None: ...
    def with_log_position(self, epoch: str, offset: int) -> Any: ...


@dataclass(frozen=True, slots=True)
class IdempotencyKeys:
    """The keys that clients choose, and the first answers to them.

    keep: how long a key stands for its first request; after that it is free again.
    """

    keep: timedelta

    async def once(
        self,
        uow: UnitOfWork,
        subject: str,
        key: str | None,
        work: Callable[[], Awaitable[A]],
        *,
        operation: str,
        body: BaseModel | None,
        answer: type[A],
    ) -> A:
        """The answer of `work`, which runs in `uow` unless `subject` has had an answer for `key`.

        The key is claimed in the same transaction: of two requests at once the second waits for
        the first, and where that fails the key stays free. Without a key `work` just runs.

        Args:
            operation: what is done, and to what, as `rooms.post 7`; the same at every door.
            body: what the client sent, as it was validated.
            answer: the model of the answer; it has to read what it has written.

        Raises IdempotencyKeyReused where the key stands for another operation or body.
        """
        if key is None:
            return await work()
        fingerprint = _fingerprint(operation, body)
        if not await self._claim(uow, subject, key, fingerprint):
            return await _first_answer(uow, subject, key, fingerprint, answer)
        result = await work()
        # After the work's own hooks: one of them may give the answer its place in the log.
        uow.before_commit(lambda: _store(uow, subject, key, result))
        return result

    async def _claim(self, uow: UnitOfWork, subject: str, key: str, fingerprint: str) -> bool:
        """Whether the key was free, which it is not any more then."""
        now = datetime.now(UTC)
        fresh = {"fingerprint": fingerprint, "expires_at": now + self.keep}
        connection = await uow.connection()
        claim = (
            upsert(connection.dialect, IdempotencyRow)
            .values(subject=subject, key=key, **fresh)
            .on_conflict_do_update(
                index_elements=[IdempotencyRow.subject, IdempotencyRow.key],
                set_=fresh | {"answer": None, "epoch": None, "offset": None},
                where=IdempotencyRow.expires_at <= now,
            )
            .returning(IdempotencyRow.key)
        )
        return (await connection.execute(claim)).first() is not None


def _fingerprint(operation: str, body: BaseModel | None) -> str:
    sent = None if body is None else body.model_dump(mode="json")
    canonical = json.dumps([operation, sent], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


async def _first_answer(
    uow: UnitOfWork, subject: str, key: str, fingerprint: str, answer: type[A]
) -> A:
    row = await uow.get_one(IdempotencyRow, (subject, key))
    if row.fingerprint != fingerprint or row.answer is None:
        raise IdempotencyKeyReused
    found = answer.model_validate_json(row.answer)
    if isinstance(found, Recorded) and row.epoch is not None and row.offset is not None:
        found.with_log_position(row.epoch, row.offset)
    return found


async def _store(uow: UnitOfWork, subject: str, key: str, result: BaseModel) -> None:
    position = result.log_position if isinstance(result, Recorded) else None
    mine = (IdempotencyRow.subject == subject, IdempotencyRow.key == key)
    await uow.execute(
        update(IdempotencyRow)
        .where(*mine)
        .values(
            answer=result.model_dump_json(),
            epoch=position.epoch if position else None,
            offset=position.offset if position else None,
        )
    )


@raises(IdempotencyKeyReused)
async def _key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x20-\x7e]+$",
            description="Chosen by the client: the same request with the same key is done once.",
        ),
    ] = None,
) -> str | None:
    return key


IdempotencyKey = Annotated[str | None, Depends(_key)]
"""The key of a request, or of the message that a handler takes as well: `key: IdempotencyKey`."""


async def _idempotency(connection: HTTPConnection) -> IdempotencyKeys:
    keys: IdempotencyKeys = connection.app.state.idempotency
    return keys


Idempotency = Annotated[IdempotencyKeys, Depends(_idempotency)]
"""The keys that clients choose, injected."""
