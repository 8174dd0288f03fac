"""Who may no longer: sessions, subjects and memberships that ended before their tokens did.

The database has the list. Every process holds in memory what of it no token has outlived, asks it
for each token, and reads on, by itself and when another process says that there is something new.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import String, Text, select
from sqlalchemy.orm import Mapped, mapped_column

from app.core.auth import KEY_REMOVED, Principal
from app.core.background import Periodic
from app.core.connections import OpenConnections
from app.core.db import Base, BigId, SqlDatabase, UnitOfWork
from app.core.errors import AppError, Forbidden, SessionRevoked, registry

SESSION, SUBJECT, TOPIC = "session", "subject", "topic"
POLL_SECONDS = 0.75  # with the reading itself, within a second
RELOAD_SECONDS = 60
# PostgreSQL hands ids out before the commit, so a lower one may appear later than a higher one.
OVERLAP = 256
PAGE = 1_000


class RevocationRow(Base):
    """One revocation, kept until no token can be left that it is about."""

    __tablename__ = "revocations"
    __table_args__ = {"sqlite_autoincrement": True}  # who reads on by id must never see one again

    id: Mapped[BigId]
    kind: Mapped[str] = mapped_column(String(16))  # session, subject, topic
    key: Mapped[str] = mapped_column(String(512))  # its id; of a topic its name
    subject: Mapped[str | None] = mapped_column(String(255))  # of a topic: whose subscription
    code: Mapped[str | None] = mapped_column(String(123))  # the error that the client is told
    detail: Mapped[str | None] = mapped_column(Text)
    revoked_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


COLUMNS = tuple(RevocationRow.__table__.columns)  # plain rows: there may be many


@dataclass(frozen=True, slots=True)
class _Ended:
    revoked_at: datetime
    expires_at: datetime
    detail: str | None


class Revocations:
    """Records revocations, and applies those of every process in this one.

    Args:
        db: where the list is.
        connections: the open ones, which end where their session does.
        keep: how long a revocation matters: longer than any token that it is about is valid.
    """

    def __init__(self, db: SqlDatabase, connections: OpenConnections, *, keep: timedelta) -> None:
        #: Reads on, for ever; to be run beside the requests.
        self.polling = Periodic("revocations", self.poll, seconds=POLL_SECONDS)
        #: Called after a commit that revoked something, so that other processes can be woken.
        self.on_recorded: Callable[[], None] = lambda: None
        #: Called with topic, subject and error where somebody's subscription is to end.
        self.on_subscription_revoked: Callable[[str, str, AppError], None] = lambda *_: None
        self._db = db
        self._connections = connections
        self._keep = keep
        self._ended: dict[tuple[str, str], _Ended] = {}
        self._refused_keys: frozenset[str] = frozenset()
        self._known: dict[int, datetime] = {}  # the ids that were applied, until they expire
        self._read_to = 0
        self._reload_at = 0.0

    def revoke_session(self, uow: UnitOfWork, session: str, detail: str | None = None) -> None:
        """Refuse every token of a session, and end its connections, once `uow` has committed.

        In this process that happens at once, in others within a second. `detail` says why.
        """
        self._record(uow, SESSION, session, code=SessionRevoked.code, detail=detail)

    def revoke_subject(self, uow: UnitOfWork, subject: str, detail: str | None = None) -> None:
        """The same for all that a subject was issued up to now, whatever the session.

        A token tells its time in whole seconds: one of this very second is refused as well, also
        if it is newer. What a new token depends on has to be locked before this is called.
        """
        self._record(uow, SUBJECT, subject, code=SessionRevoked.code, detail=detail)

    def revoke_subscription(
        self, uow: UnitOfWork, topic: str, subject: str, error: AppError
    ) -> None:
        """End the subscriptions that a subject has to a topic with `error`, in every process."""
        self._record(uow, TOPIC, topic, subject=subject, code=error.code, detail=error.detail)

    def refuse_keys(self, kids: frozenset[str]) -> None:
        """Refuse who came by a token that one of these keys signed, and end their connections.

        Unlike the rest this is of this process alone: each reads the keys by itself.
        """
        if kids != self._refused_keys:
            self._refused_keys = kids
            self._end_connections()

    def check(self, principal: Principal) -> None:
        """Raise SessionRevoked where the principal's token is refused."""
        if principal.key in self._refused_keys:
            raise SessionRevoked(KEY_REMOVED)
        ended = self._ended.get((SESSION, principal.session))
        if ended is None:
            ended = self._ended.get((SUBJECT, principal.subject))
            if ended is None or ended.revoked_at < principal.issued_at:
                return
        raise SessionRevoked(ended.detail)

    def wake(self) -> None:
        """Read on now: another process has recorded something."""
        self.polling.wake()

    async def load(self) -> None:
        """Read the whole list, and forget what has expired. Before this no token is to be taken."""
        self._forget(datetime.now(UTC))
        await self._read(0)
        self._reload_at = time.monotonic() + RELOAD_SECONDS

    async def poll(self) -> None:
        """Read what is new; once a minute the whole list, for what came very late."""
        if time.monotonic() >= self._reload_at:
            await self.load()
        else:
            await self._read(self._read_to - OVERLAP)

    def _record(self, uow: UnitOfWork, kind: str, key: str, **values: str | None) -> None:
        now = datetime.now(UTC)
        row = RevocationRow(
            kind=kind, key=key, revoked_at=now, expires_at=now + self._keep, **values
        )
        uow.add(row)
        recorded: list[RevocationRow] | None = uow.info.get(self)
        if recorded is None:
            recorded = uow.info[self] = []
            uow.after_commit(lambda: self._committed(recorded))
        recorded.append(row)

    def _committed(self, rows: Sequence[RevocationRow]) -> None:
        self._apply(rows)
        self.on_recorded()

    async def _read(self, after: int) -> None:
        alive = RevocationRow.expires_at > datetime.now(UTC)
        async with self._db.reading() as session:
            while True:
                following = select(*COLUMNS).where(RevocationRow.id > after, alive)
                page = following.order_by(RevocationRow.id).limit(PAGE)
                rows = (await session.execute(page)).all()
                self._apply(rows)
                if rows:
                    after = rows[-1].id
                    self._read_to = max(self._read_to, after)
                if len(rows) < PAGE:
                    return

    def _apply(self, rows: Sequence[Any]) -> None:
        """Let revocations take effect in this process; each does so once."""
        refused = False
        for row in rows:
            if row.id in self._known:
                continue
            self._known[row.id] = row.expires_at
            if row.kind == TOPIC:
                self.on_subscription_revoked(row.key, row.subject, _error(row.code, row.detail))
                continue
            ended = _Ended(row.revoked_at, row.expires_at, row.detail)
            known = self._ended.get((row.kind, row.key))
            if known is None or known.revoked_at < ended.revoked_at:
                self._ended[row.kind, row.key] = ended
                refused = True
        if refused:
            self._end_connections()

    def _end_connections(self) -> None:
        for connection in self._connections:
            principal = connection.principal
            try:
                if principal is not None:
                    self.check(principal)
            except SessionRevoked as error:
                connection.end(error)

    def _forget(self, now: datetime) -> None:
        self._ended = {key: each for key, each in self._ended.items() if each.expires_at > now}
        self._known = {id_: until for id_, until in self._known.items() if until > now}


def _error(code: str | None, detail: str | None) -> AppError:
    """The error of a code, as another process recorded it; it may run newer code than this."""
    return registry.get(code or "", Forbidden)(detail)
