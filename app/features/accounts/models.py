"""Tables of accounts: users, how they prove who they are, and their sessions."""

import unicodedata
from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, validates

from app.core.db import Base, BigId


def folded(text: str) -> str:
    """What two spellings of one text share: NFKC, and the case folded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class User(Base):
    """Somebody with an account; `email_key` is what makes two spellings one address."""

    __tablename__ = "users"
    __table_args__ = {"sqlite_autoincrement": True}  # an id is never given to somebody else

    id: Mapped[BigId]
    email: Mapped[str] = mapped_column(String(254))
    email_key: Mapped[str] = mapped_column(String(512), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    name_key: Mapped[str] = mapped_column(String(255), server_default=text("''"))  # searched by
    password_hash: Mapped[str] = mapped_column(String(255))  # empty: by a provider alone
    roles: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # wrong passwords and codes in a row
    locked_until: Mapped[datetime | None]

    @validates("name")
    def _fold(self, _: str, name: str) -> str:
        self.name_key = folded(name)[:255]
        return name


class Session(Base):
    """One log-in, on one device: the family that its refresh tokens belong to."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    agent: Mapped[str | None] = mapped_column(String(200))  # what the client calls itself
    address: Mapped[str | None] = mapped_column(String(64))  # where it was last used from
    methods: Mapped[list[str]] = mapped_column(JSON, server_default="[]")  # RFC 8176
    cookie_digest: Mapped[str | None] = mapped_column(String(64), index=True, unique=True)
    authenticated_at: Mapped[datetime | None]  # when the person last proved who they are
    used_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    ended_at: Mapped[datetime | None]


class IssuedRefreshToken(Base):
    """A refresh token, by its SHA-256; a used one stays, so that a second use is noticed."""

    __tablename__ = "refresh_tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.id", ondelete="CASCADE"), index=True
    )
    used_at: Mapped[datetime | None]


class MailedLink(Base):
    """A link that was mailed, by the SHA-256 of its token: good once, removed by its use."""

    __tablename__ = "mailed_links"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    purpose: Mapped[str] = mapped_column(String(16))  # sign_up, change_email, reset_password
    user_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str] = mapped_column(String(254))
    email_key: Mapped[str] = mapped_column(String(512), index=True)
    name: Mapped[str] = mapped_column(String(80), default="")
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SecondFactor(Base):
    """Somebody's authenticator (TOTP, RFC 6238); its secret is encrypted."""

    __tablename__ = "second_factors"

    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    secret: Mapped[str] = mapped_column(String(255))
    last_step: Mapped[int | None] = mapped_column(BigInteger)  # a code is good once
    created_at: Mapped[datetime]
    confirmed_at: Mapped[datetime | None]  # it counts from then on


class RecoveryCode(Base):
    """A code that stands in for the authenticator once, by its SHA-256."""

    __tablename__ = "recovery_codes"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    used_at: Mapped[datetime | None]


class ApiKey(Base):
    """A key of somebody's programs, by its SHA-256; `prefix` is what is left to recognise it by."""

    __tablename__ = "api_keys"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    prefix: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Identity(Base):
    """Somebody at an OpenID provider, linked to an account."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"), {"sqlite_autoincrement": True})

    id: Mapped[BigId]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    issuer: Mapped[str] = mapped_column(String(255))
    subject: Mapped[str] = mapped_column(String(255))
    email: Mapped[str | None] = mapped_column(String(254))
    created_at: Mapped[datetime]
    proof_used_at: Mapped[datetime | None]  # when the last proof was made that was used
