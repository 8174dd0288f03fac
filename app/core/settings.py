"""Every setting of the service: one typed class, read from the environment and `.env`."""

import os
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

DEVELOPMENT_SECRET = "for-development-only-refused-elsewhere"  # noqa: S105 - refused in production


class Environment(StrEnum):
    """Where the service runs."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


def _comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


# NoDecode: a list is written `a, b` and not as JSON.
Names = Annotated[list[str], NoDecode, BeforeValidator(_comma_separated)]


class Settings(BaseSettings):
    """What can be set, by an environment variable of the same name in capitals.

    A file named like a setting in the directory SECRETS_DIR (Docker's /run/secrets) sets it too.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        secrets_dir=os.environ.get("SECRETS_DIR"),
    )

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="development shows tracebacks to clients; test makes an undeclared error a "
        "500; production refuses the default secret and HTTP origins.",
    )

    # Where it listens
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port; 0 takes a free one.")
    root_path: str = Field(
        "", pattern=r"^(/[^/?#]+)*$", description="The path prefix that a proxy strips, as /api."
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-* headers are believed: addresses, networks or *.",
    )
    allowed_hosts: Names = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="Host names that are served, also *.example.com; * for any.",
    )
    allowed_origins: Names = Field(
        [],
        description="Origins of pages on other hosts that may use REST and WebSockets.",
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, description="The largest request body taken.")
    shutdown_seconds: int = Field(
        10, ge=1, le=300, description="How long requests and sockets may take to end at shutdown."
    )

    # WebSockets
    ws_max_connections: int = Field(
        10_000, ge=1, description="How many sockets one process holds; the next one gets a 503."
    )
    ws_max_message_bytes: int = Field(
        65_536, ge=1024, description="The largest message taken; a larger one closes with 1009."
    )
    ws_ping_seconds: float = Field(
        20, gt=0, description="A ping this often; no pong for as long closes the socket."
    )
    ws_inbox_frames: int = Field(
        32, ge=1, description="Frames of one client that may wait for a handler."
    )
    ws_outbox_bytes: int = Field(
        1_048_576, ge=1024, description="Bytes that may wait for one client to read."
    )
    ws_max_strikes: int = Field(
        10, ge=1, description="Invalid frames in a row that close a socket."
    )

    # Data
    database_url: SecretStr = Field(
        SecretStr("sqlite:///var/duplex.db"),
        description="sqlite:///file or postgresql://user:password@host/name.",
    )
    database_password: SecretStr | None = Field(
        None, description="The password, where it is not in DATABASE_URL."
    )
    database_pool_size: int = Field(10, ge=1, le=200, description="Connections of one process.")
    database_timeout_seconds: float = Field(
        5, gt=0, description="How long to wait for a connection or a lock before a 503."
    )

    # Tokens and passwords
    secret_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET),
        description="Signs access tokens; 32 characters or more, from a random source.",
    )
    token_issuer: str = Field("duplex", min_length=1, description="`iss` of our tokens.")
    token_audience: str = Field("duplex", min_length=1, description="`aud` of our tokens.")
    access_token_seconds: int = Field(
        900, ge=1, le=86_400, description="How long an access token is valid."
    )
    token_leeway_seconds: float = Field(
        30, ge=0, le=300, description="How far the clocks of two machines may differ."
    )
    session_days: int = Field(
        30, ge=1, le=366, description="How long a session lasts without being refreshed."
    )
    password_workers: int = Field(
        2, ge=1, le=64, description="Passwords hashed at once (19 MiB each)."
    )

    # Watching it
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important log lines that are written."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Log lines for a person or for a machine."
    )

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < 32:
            raise ValueError("it has fewer than 32 bytes; openssl rand -hex 32 makes one")
        return secret

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        self.database  # noqa: B018 - parsed here so that a wrong one is said at start
        if any("*" in host.removeprefix("*.") for host in self.allowed_hosts if host != "*"):
            raise ValueError("ALLOWED_HOSTS: a * stands alone, or first as in *.example.com")
        if self.environment is Environment.PRODUCTION:
            if self.secret_key.get_secret_value() == DEVELOPMENT_SECRET:
                raise ValueError("SECRET_KEY must be set in production: openssl rand -hex 32")
            if any(not origin.startswith("https://") for origin in self.allowed_origins):
                raise ValueError("ALLOWED_ORIGINS must be https:// origins in production")
        return self

    @property
    def database(self) -> URL:
        """DATABASE_URL with its async driver, and DATABASE_PASSWORD filled in."""
        try:
            url = make_url(self.database_url.get_secret_value())
        except (ArgumentError, ValueError):
            raise ValueError("DATABASE_URL is not a database address") from None
        drivers = {
            "sqlite": "sqlite+aiosqlite",
            "postgres": "postgresql+psycopg",
            "postgresql": "postgresql+psycopg",
        }
        url = url.set(drivername=drivers.get(url.drivername, url.drivername))
        if url.drivername not in drivers.values():
            raise ValueError("DATABASE_URL must begin with sqlite:/// or postgresql://")
        if url.drivername.startswith("sqlite") and url.database in (None, "", ":memory:"):
            raise ValueError("DATABASE_URL must name a file, as sqlite:///var/duplex.db")
        if self.database_password:
            url = url.set(password=self.database_password.get_secret_value())
        return url

    @property
    def access_token_lifetime(self) -> timedelta:
        """How long an access token is valid."""
        return timedelta(seconds=self.access_token_seconds)

    @property
    def token_leeway(self) -> timedelta:
        """How far the clocks of two machines may differ."""
        return timedelta(seconds=self.token_leeway_seconds)

    @property
    def session_lifetime(self) -> timedelta:
        """How long a session lasts without being refreshed."""
        return timedelta(days=self.session_days)


def explain(error: ValidationError) -> list[str]:
    """What is wrong with the settings, a line for each, without their values."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]).upper()
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {message}" if name else message)
    return lines


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite address; None for another database."""
    return Path(str(url.database)) if url.drivername.startswith("sqlite") else None
