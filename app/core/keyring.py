"""The keys that access tokens are signed with, kept in the database so that they can be changed.

The first key is SECRET_KEY's own and has no row as long as nothing is rotated. A newer key is read
by every process before the first token is signed with it; the older one verifies on until its last
token has expired. A key that is removed is refused in every process within a second.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import String, Text, or_, select
from sqlalchemy.orm import Mapped, mapped_column

from app.core.audit import audit
from app.core.background import Periodic
from app.core.db import Base, SqlDatabase, UnitOfWork, upsert
from app.core.observability import log
from app.core.revocations import Revocations
from app.core.schemas import Schema
from app.core.secrets_at_rest import NotOpened, Sealed
from app.core.settings import Settings
from app.core.tokens import HS256, Algorithm, Key, RingKey, Tokens, new_material

POLL_SECONDS = 0.75  # with the reading itself, within a second
SIGNS_AFTER = timedelta(seconds=5)  # by then every process has read a new key, at leisure
SIGNS_SOON_AFTER = timedelta(seconds=2)  # the same where a key has to go at once
OF_SECRET_KEY = "SECRET_KEY"  # noqa: S105 - the material of a row whose key is derived from it
CACHE_SECONDS = 60
BEGINNING = datetime.fromtimestamp(0, UTC)


class SigningKeyRow(Base):
    """A key of the ring, by its `kid`; what is secret of it is encrypted."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(String(64), primary_key=True)
    algorithm: Mapped[str] = mapped_column(String(16))  # HS256, ES256
    material: Mapped[str] = mapped_column(Text)  # encrypted, OF_SECRET_KEY, or empty once removed
    created_at: Mapped[datetime]
    signs_from: Mapped[datetime]  # by then every process has read it
    verifies_until: Mapped[datetime | None]  # none: as long as it is the newest
    removed_at: Mapped[datetime | None]

    @property
    def is_current(self) -> bool:
        """Whether it is neither removed nor followed by a newer one."""
        return self.removed_at is None and self.verifies_until is None


COLUMNS = tuple(SigningKeyRow.__table__.columns)  # plain rows, which compare by what they hold


class UnknownKey(Exception):
    """There is no key of this `kid`."""


class Keyring:
    """Has tokens signed and verified with the keys that are in the database, and changes those.

    Args:
        db: where the keys are.
        settings: SECRET_KEY, which opens what is secret of them, and what tokens are to say.
        revocations: told of the keys that were removed, and ends what came by them; None where
            nothing is open, as in a command.
    """

    def __init__(
        self, db: SqlDatabase, settings: Settings, revocations: Revocations | None = None
    ) -> None:
        secret = settings.secret_key.get_secret_value()
        #: What signs and verifies with the keys.
        self.tokens = Tokens(
            secret,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            lifetime=settings.access_token_lifetime,
            leeway=settings.token_leeway,
        )
        #: Reads again, for ever; to be run beside the requests.
        self.polling = Periodic("signing keys", self.load, seconds=POLL_SECONDS)
        self._db = db
        self._sealed = Sealed(secret)
        self._revocations = revocations
        self._opened: Mapping[str, Key | None] = {}
        self._rows: Sequence[Any] | None = None
        self._overlap = settings.access_token_lifetime + settings.token_leeway

    async def load(self) -> None:
        """Read the keys, and let them take effect. Before this no token is to be taken."""
        alive = or_(
            SigningKeyRow.verifies_until.is_(None),
            SigningKeyRow.verifies_until > datetime.now(UTC),
            SigningKeyRow.material == OF_SECRET_KEY,
        )
        async with self._db.reading() as session:
            rows = (await session.execute(select(*COLUMNS).where(alive))).all()
        if rows != self._rows:
            self._apply(rows)
            self._rows = rows

    def _apply(self, rows: Sequence[Any]) -> None:
        self._opened = {row.kid: self._key(row) for row in rows if row.removed_at is None}
        own = self.tokens.own_key
        ring = [] if any(row.kid == own.kid for row in rows) else [RingKey(own)]
        for row in rows:
            if key := self._opened.get(row.kid):
                until = row.verifies_until.timestamp() if row.verifies_until else float("inf")
                ring.append(RingKey(key, row.signs_from.timestamp(), until))
        removed = frozenset(row.kid for row in rows if row.removed_at is not None)
        self.tokens.use(ring, removed=removed)
        if self._revocations:
            self._revocations.refuse_keys(removed)

    def _key(self, row: Any) -> Key | None:
        if row.kid in self._opened:
            return self._opened[row.kid]
        key = self.opened(row)
        if key is None and row.material != OF_SECRET_KEY:
            log.warning("signing key cannot be read", kid=row.kid, remedy="was SECRET_KEY changed?")
        return key

    def opened(self, row: Any) -> Key | None:
        """The key of a row; None where it is another SECRET_KEY's, sealed under it, or removed."""
        own = self.tokens.own_key
        if row.material == OF_SECRET_KEY:
            return own if row.kid == own.kid else None
        try:
            return Key.restored(
                row.kid, row.algorithm, self._sealed.open(row.material, _context(row))
            )
        except (NotOpened, ValueError):
            return None

    async def rows(self) -> Sequence[SigningKeyRow]:
        """Every key there is a row for, and SECRET_KEY's own without one, oldest first."""
        async with self._db.reading() as session:
            rows = (await session.scalars(_oldest_first())).all()
        own = self._own_row()
        return rows if any(row.kid == own.kid for row in rows) else [own, *rows]

    async def rotate(self, algorithm: Algorithm | None = None) -> SigningKeyRow:
        """Make a key that signs from `SIGNS_AFTER` on, with the algorithm of the newest by default.

        The others verify on until the last token that they signed has expired.
        """
        async with self._db.unit_of_work() as uow:
            rows = await self._locked(uow)
            made = self._make(rows, algorithm or _algorithm_of(rows), SIGNS_AFTER)
            uow.add(made)
            audit(uow, "key.rotated", kid=made.kid, algorithm=made.algorithm)
        return made

    async def remove(self, kid: str) -> None:
        """Refuse all that a key has signed, within a second of this having returned.

        Unless another key signs then, a new one is made first, and waited for. Raises UnknownKey.
        """
        while True:
            async with self._db.unit_of_work() as uow:
                rows = await self._locked(uow)
                row = next((row for row in rows if row.kid == kid), None)
                if row is None:
                    raise UnknownKey
                if row.removed_at is not None:
                    return
                wait = self._until_another_signs(uow, rows, row)
                if wait <= timedelta(0):
                    self._remove(uow, row)
                    return
            await asyncio.sleep(wait.total_seconds())

    async def renew(self) -> None:
        """Refuse all that any key has signed, and make a new one, which signs at once.

        For a database that nobody serves: there is no process that has yet to read the new key.
        """
        async with self._db.unit_of_work() as uow:
            rows = await self._locked(uow)
            made = self._make(rows, _algorithm_of(rows), timedelta(0))
            for row in rows:
                if row.removed_at is None:
                    self._remove(uow, row)
            uow.add(made)
            audit(uow, "key.rotated", kid=made.kid, algorithm=made.algorithm)

    def _remove(self, uow: UnitOfWork, row: SigningKeyRow) -> None:
        now = datetime.now(UTC)
        row.removed_at = now
        # Until then what it has signed is told apart from what nobody has.
        row.verifies_until = now + self._overlap
        if row.material != OF_SECRET_KEY:
            row.material = ""
        audit(uow, "key.removed", kid=row.kid, algorithm=row.algorithm)

    def _until_another_signs(
        self, uow: UnitOfWork, rows: Iterable[SigningKeyRow], but: SigningKeyRow
    ) -> timedelta:
        now = datetime.now(UTC)
        others = [row for row in rows if row is not but and row.is_current and self.opened(row)]
        if not others:
            others = [self._make(rows, _algorithm_of([but]), SIGNS_SOON_AFTER)]
            uow.add_all(others)
            audit(uow, "key.rotated", kid=others[0].kid, algorithm=others[0].algorithm)
        return min(row.signs_from for row in others) - now

    def _make(
        self, rows: Iterable[SigningKeyRow], algorithm: Algorithm, after: timedelta
    ) -> SigningKeyRow:
        now = datetime.now(UTC)
        made = SigningKeyRow(
            kid=secrets.token_hex(8), algorithm=algorithm, created_at=now, signs_from=now + after
        )
        made.material = self._sealed.seal(new_material(algorithm), _context(made))
        for row in rows:
            if row.is_current:
                row.verifies_until = made.signs_from + self._overlap
        return made

    async def _locked(self, uow: UnitOfWork) -> Sequence[SigningKeyRow]:
        """Every key, oldest first. Only one at a time changes them."""
        own = self._own_row()
        values = {column.key: getattr(own, column.key) for column in COLUMNS}
        await uow.execute(
            upsert(uow.get_bind().dialect, SigningKeyRow).values(values).on_conflict_do_nothing()
        )
        # A lock on the row that is always there, and only then the others, as they are by then.
        await uow.get(SigningKeyRow, own.kid, with_for_update=True)
        return (await uow.scalars(_oldest_first())).all()

    def _own_row(self) -> SigningKeyRow:
        return SigningKeyRow(
            kid=self.tokens.own_key.kid,
            algorithm=HS256,
            material=OF_SECRET_KEY,
            created_at=datetime.now(UTC),
            signs_from=BEGINNING,
            verifies_until=None,
            removed_at=None,
        )


def _oldest_first() -> Any:
    return select(SigningKeyRow).order_by(SigningKeyRow.signs_from, SigningKeyRow.kid)


def _algorithm_of(rows: Sequence[SigningKeyRow]) -> Algorithm:
    return "ES256" if rows[-1].algorithm == "ES256" else HS256


def _context(row: Any) -> str:
    """What a key is sealed for: it opens as itself alone."""
    return f"signing_keys/{row.kid}/{row.algorithm}"


class PublicKey(Schema):
    """A public key (RFC 7517, RFC 7518 section 6.2)."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    alg: str
    use: str


class PublicKeys(Schema):
    """The public keys of this service."""

    keys: list[PublicKey]


router = APIRouter(tags=["keys"])


@router.get("/.well-known/jwks.json")
async def jwks(request: Request, response: Response) -> PublicKeys:
    """The public keys that access tokens of this service are signed with.

    For services that take them too. The key of a token is the one of its `kid`: fetch again where
    that is not known. A symmetric key is nobody else's, and never listed.
    """
    response.headers["Cache-Control"] = f"public, max-age={CACHE_SECONDS}"
    tokens: Tokens = request.app.state.tokens
    return PublicKeys(keys=[PublicKey.model_validate(each) for each in tokens.public_keys()])
