"""Every setting of the service: one typed class, read from the environment and `.env`."""

import os
from datetime import timedelta
from email.policy import SMTPUTF8
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.core.sign_in_providers import SignInProviders, plain_address
from app.core.smtp import SmtpServer

DEVELOPMENT_SECRET = "for-development-only-refused-elsewhere"  # noqa: S105 - refused in production

#: The longest that a provider's token is taken for.
PROVIDER_TOKEN_LIFETIME = timedelta(hours=24)


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
    rate_limit: str = Field(
        "",
        description="How often one address may ask, requests and frames together, as 600/minute; "
        "empty for no limit.",
    )
    shutdown_seconds: int = Field(
        10, ge=1, le=300, description="How long requests and sockets may take to end at shutdown."
    )
    drain_seconds: float = Field(
        0, ge=0, le=300, description="How much of that /health/ready says no before anything ends."
    )

    # WebSockets
    ws_max_connections: int = Field(
        10_000, ge=1, description="How many sockets one process holds; the next one gets a 503."
    )
    ws_max_per_user: int = Field(
        0, ge=0, description="How many of them one user may hold; 0 for any number."
    )
    ws_max_per_address: int = Field(
        0, ge=0, description="How many of them one address may hold; 0 for any number."
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
    ws_authorise_seconds: float = Field(
        60, gt=0, description="How often the guards of an open socket are asked again."
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
    idempotency_hours: int = Field(
        24, ge=1, le=720, description="How long an Idempotency-Key stands for its first request."
    )
    audit_days: int = Field(
        365, ge=1, le=3650, description="How long entries of the audit log are kept."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="redis://user:password@host:6379, rediss:// or unix:///path: what several "
        "processes tell each other of events through, and count limits in. Without it one "
        "process serves.",
    )
    redis_prefix: str = Field(
        "duplex",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="What this service's channels and keys in Redis begin with; another service "
        "there has another.",
    )

    # Jobs
    jobs_in_process: bool = Field(
        True, description="Run jobs beside the requests; false leaves them to `worker` processes."
    )
    jobs_at_once: int = Field(
        4,
        ge=1,
        le=100,
        description="Jobs that one process runs at a time; each may hold a database connection.",
    )

    # Calling other services
    outbound_timeout_seconds: float = Field(
        10,
        gt=0,
        le=300,
        description="How long a call of another service may take, with all its tries.",
    )
    outbound_retries: int = Field(
        2, ge=0, le=10, description="How often a call is repeated that failed and may be repeated."
    )
    outbound_token_hosts: Names = Field(
        [],
        description="Hosts that a caller's token may be passed on to: stock.internal, or with its "
        "port stock.internal:8443.",
    )

    # Mail
    public_url: str = Field(
        "",
        validate_default=True,
        description="The address that people open, which the links in mails begin with; behind a "
        "proxy that strips a path with that path. Empty: HOST and PORT, on this machine localhost.",
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="smtp://user:password@host:port, with ?starttls at its end or as smtps:// "
        "protected by TLS: where mail is handed to. Without it each mail is a file.",
    )
    mail_from: str = Field(
        "Duplex <duplex@localhost>", description="Whom mail is from: an address, or Name <address>."
    )
    mail_directory: Path = Field(
        Path("var/mail"), description="Where mail is a file, that directory; 200 are kept."
    )
    email_check_dns: bool = Field(
        False,
        description="Ask the DNS whether the domain of a new address takes mail, and refuse one "
        "that says no.",
    )

    # Tokens and passwords
    secret_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET),
        description="Signs access tokens; 32 characters or more, from a random source.",
    )
    auth_mode: Literal["local", "oidc"] = Field(
        "local",
        description="local: accounts are here, and so are the keys of access tokens. oidc: access "
        "tokens are those of an OpenID provider, and there are no accounts.",
    )
    oidc_issuer: str = Field(
        "", description="The provider's issuer, letter by letter as its tokens have it in `iss`."
    )
    oidc_audience: str = Field(
        "", description="What the provider's tokens for this service have in `aud`."
    )
    oidc_roles_claim: str = Field(
        "roles",
        min_length=1,
        description="The claim that lists roles; realm_access.roles is a claim within a claim.",
    )
    oidc_scopes: bool = Field(
        True,
        description="A provider's token is good for its scopes alone; false: for all that its "
        "subject may do.",
    )
    sign_in_providers: SignInProviders = Field(
        {},
        description="With AUTH_MODE=local: OpenID providers that people may log in with, as JSON: "
        '{"google": {"issuer": "https://accounts.google.com", "client_id": "...", "client_secret": '
        '"...", "label": "Google"}}. PUBLIC_URL with a slash at its end is where they send people '
        "back to.",
    )
    oidc_client_id: str = Field(
        "",
        description="The page's own client at the provider, a public one; empty: no log-in there.",
    )
    oidc_client_scope: str = Field(
        "openid profile",
        description="What the page asks the provider for; with OIDC_SCOPES also the scopes that "
        "people need.",
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
    session_max_days: int = Field(
        90, ge=1, le=3660, description="How long a session lasts at most, whatever its use."
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

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str) -> str:
        if rate:
            # Only who limits everything needs it here.
            from app.core.limits import rate_of  # noqa: PLC0415

            try:
                rate_of(rate)
            except ValueError:
                raise ValueError("it is not a rate such as 600/minute") from None
        return rate

    @field_validator("public_url")
    @classmethod
    def _can_begin_links(cls, url: str, others: ValidationInfo) -> str:
        if not url:  # a host or a port that is wrong is not there, and is said already
            return _address(others.data.get("host", ""), others.data.get("port", 0))
        if not plain_address(url):
            raise ValueError("it is not https://host or https://host/path")
        scheme, _, rest = url.rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        # As browsers write it, in Origin too (RFC 3986, 6.2.3).
        default = ":443" if scheme == "https" else ":80"
        return f"{scheme}://{host.removesuffix(default)}{slash}{path}"

    @field_validator("smtp_url")
    @classmethod
    def _is_a_mail_server(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            if url is not None:
                SmtpServer.at(url.get_secret_value())
        except ValueError:
            raise ValueError(
                "it is not smtp://host:port, smtp://host:port?starttls or smtps://host"
            ) from None
        return url

    @field_validator("mail_from")
    @classmethod
    def _is_one_sender(cls, sender: str) -> str:
        header = SMTPUTF8.header_factory("From", sender) if sender.isprintable() else None
        groups = [group.display_name for group in header.groups] if header else []
        if not header or header.defects or len(header.addresses) != 1 or groups != [None]:
            raise ValueError("it is not address@host or Name <address@host>")
        return sender

    @field_validator("redis_url")
    @classmethod
    def _can_be_connected_to(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            # Only who uses Redis loads its library.
            from redis.asyncio.connection import Connection, parse_url  # noqa: PLC0415

            try:
                scheme, _, place = url.get_secret_value().partition("://")
                options: dict[str, Any] = {**parse_url(url.get_secret_value())}
                options.pop("connection_class", Connection)(**options)
                if not place or (scheme == "unix" and not options.get("path")):
                    raise ValueError
            except Exception:
                raise ValueError(
                    "it is not redis://host:port, rediss://host:port or unix:///path"
                ) from None
        return url

    @model_validator(mode="after")
    def _names_its_provider(self) -> "Settings":
        if self.auth_mode == "local":
            return self
        if not plain_address(self.oidc_issuer) or " " in self.oidc_issuer:
            raise ValueError("OIDC_ISSUER: AUTH_MODE=oidc takes https://host or https://host/path")
        if self.environment is Environment.PRODUCTION and not self.oidc_issuer.startswith(
            "https://"
        ):
            raise ValueError("OIDC_ISSUER must begin with https:// in production")
        if not self.oidc_audience:
            raise ValueError("OIDC_AUDIENCE: AUTH_MODE=oidc takes what tokens for us have in `aud`")
        return self

    @model_validator(mode="after")
    def _signs_in_at_its_providers(self) -> "Settings":
        if self.sign_in_providers and self.auth_mode != "local":
            raise ValueError("SIGN_IN_PROVIDERS: there are accounts with AUTH_MODE=local alone")
        if self.environment is Environment.PRODUCTION:
            for name, provider in self.sign_in_providers.items():
                if not provider.issuer.startswith("https://"):
                    raise ValueError(
                        f"SIGN_IN_PROVIDERS.{name.upper()}.ISSUER must begin with https:// "
                        "in production"
                    )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        self.database  # noqa: B018 - parsed here so that a wrong one is said at start
        if any("*" in host.removeprefix("*.") for host in self.allowed_hosts if host != "*"):
            raise ValueError("ALLOWED_HOSTS: a * stands alone, or first as in *.example.com")
        if self.drain_seconds > self.shutdown_seconds / 2:
            raise ValueError("DRAIN_SECONDS: it may be half of SHUTDOWN_SECONDS at most")
        if self.session_max_days < self.session_days:
            raise ValueError("SESSION_MAX_DAYS: it may not be less than SESSION_DAYS")
        if self.environment is Environment.PRODUCTION:
            if self.secret_key.get_secret_value() == DEVELOPMENT_SECRET:
                raise ValueError("SECRET_KEY must be set in production: openssl rand -hex 32")
            if any(not origin.startswith("https://") for origin in self.allowed_origins):
                raise ValueError("ALLOWED_ORIGINS must be https:// origins in production")
            server = self.smtp
            if server is None and self.auth_mode == "local":
                raise ValueError("SMTP_URL must be set in production: accounts need mail")
            if server is not None and not server.protects_password:
                raise ValueError("SMTP_URL: in production a password takes smtps:// or ?starttls")
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
    def smtp(self) -> SmtpServer | None:
        """The server of SMTP_URL."""
        return SmtpServer.at(self.smtp_url.get_secret_value()) if self.smtp_url else None

    @property
    def access_token_lifetime(self) -> timedelta:
        """How long an access token is valid."""
        return timedelta(seconds=self.access_token_seconds)

    @property
    def token_leeway(self) -> timedelta:
        """How far the clocks of two machines may differ."""
        return timedelta(seconds=self.token_leeway_seconds)

    @property
    def idempotency_lifetime(self) -> timedelta:
        """How long an Idempotency-Key stands for its first request."""
        return timedelta(hours=self.idempotency_hours)

    @property
    def revocation_lifetime(self) -> timedelta:
        """How long a revocation is kept: until no token that it is about is valid anywhere."""
        local = self.auth_mode == "local"
        longest = self.access_token_lifetime if local else PROVIDER_TOKEN_LIFETIME
        # The minute is for a process that could not read the list for a while.
        return longest + 2 * self.token_leeway + timedelta(minutes=1)

    @property
    def session_lifetime(self) -> timedelta:
        """How long a session lasts without being refreshed."""
        return timedelta(days=self.session_days)

    @property
    def session_max_lifetime(self) -> timedelta:
        """How long a session lasts at most, whatever its use."""
        return timedelta(days=self.session_max_days)


def _address(host: str, port: int) -> str:
    """Where a person opens what listens there, from this machine or from that one's network."""
    if host in ("127.0.0.1", "::1", "0.0.0.0", "::"):  # noqa: S104 - read, not bound
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
