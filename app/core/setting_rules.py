"""What settings may not be together, and all of it said at once.

A rule names the settings that it looks at, and is left out where one of them is wrong by itself.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from app.core.sign_in_providers import plain_address

if TYPE_CHECKING:
    from app.core.settings import Settings

Rule = Callable[["Settings"], Iterator[str]]

RULES: list[tuple[frozenset[str], Rule]] = []


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule about these settings. It yields a line for each that breaks it."""

    def register(function: Rule) -> Rule:
        RULES.append((frozenset(names), function))
        return function

    return register


def broken(settings: "Settings", wrong: frozenset[str] = frozenset()) -> list[str]:
    """A line for each rule that is broken, by settings other than those that are `wrong`."""
    return [line for names, check in RULES if not names & wrong for line in check(settings)]


def complaint(title: str, lines: list[str], error: ValidationError | None) -> ValidationError:
    """An error that says what `error` says, and these lines."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(each["type"], each["msg"]),
            loc=each["loc"],
            input=None,
        )
        for each in (error.errors(include_context=False) if error else ())
    ]
    details += (
        InitErrorDetails(type=PydanticCustomError("rule", line), input=None) for line in lines
    )
    return ValidationError.from_exception_data(title, details, hide_input=True)


@rule("auth_mode", "oidc_issuer", "oidc_audience")
def _names_its_provider(settings: "Settings") -> Iterator[str]:
    if settings.auth_mode == "oidc":
        if not plain_address(settings.oidc_issuer) or " " in settings.oidc_issuer:
            yield "OIDC_ISSUER: AUTH_MODE=oidc takes https://host or https://host/path"
        elif settings.in_production and not settings.oidc_issuer.startswith("https://"):
            yield "OIDC_ISSUER must begin with https:// in production"
        if not settings.oidc_audience:
            yield "OIDC_AUDIENCE: AUTH_MODE=oidc takes what tokens for us have in `aud`"


@rule("sign_in_providers", "auth_mode")
def _signs_in_at_its_providers(settings: "Settings") -> Iterator[str]:
    if settings.sign_in_providers and settings.auth_mode != "local":
        yield "SIGN_IN_PROVIDERS: there are accounts with AUTH_MODE=local alone"
    for name, provider in settings.sign_in_providers.items():
        if settings.in_production and not provider.issuer.startswith("https://"):
            yield f"SIGN_IN_PROVIDERS.{name.upper()}.ISSUER must begin with https:// in production"


@rule("database_url")
def _has_a_database(settings: "Settings") -> Iterator[str]:
    try:
        settings.database  # noqa: B018 - parsed here so that a wrong one is said at start
    except ValueError as error:
        yield str(error)


@rule("allowed_hosts")
def _hosts(settings: "Settings") -> Iterator[str]:
    hosts = settings.allowed_hosts
    if any("*" in host.removeprefix("*.") for host in hosts if host != "*"):
        yield "ALLOWED_HOSTS: a * stands alone, or first as in *.example.com"
    elif settings.in_production and "*" in hosts:
        # A page of any name that resolves here would be of the same origin: DNS rebinding.
        yield "ALLOWED_HOSTS must name the hosts in production: a * lets any page in"


@rule("drain_seconds", "shutdown_seconds")
def _drains_in_time(settings: "Settings") -> Iterator[str]:
    if settings.drain_seconds > settings.shutdown_seconds / 2:
        yield "DRAIN_SECONDS: it may be half of SHUTDOWN_SECONDS at most"


@rule("session_days", "session_max_days")
def _sessions_end(settings: "Settings") -> Iterator[str]:
    if settings.session_max_days < settings.session_days:
        yield "SESSION_MAX_DAYS: it may not be less than SESSION_DAYS"


@rule("secret_key")
def _has_a_secret(settings: "Settings") -> Iterator[str]:
    if settings.in_production and settings.has_development_secret:
        yield "SECRET_KEY must be set in production: openssl rand -hex 32"


@rule("allowed_origins")
def _origins(settings: "Settings") -> Iterator[str]:
    origins = settings.allowed_origins
    if settings.in_production and any(
        not origin.startswith("https://") or "*" in origin for origin in origins
    ):
        yield "ALLOWED_ORIGINS must be https:// origins in production, each in full"


@rule("smtp_url", "auth_mode")
def _mails(settings: "Settings") -> Iterator[str]:
    server = settings.smtp
    if settings.in_production and server is None and settings.auth_mode == "local":
        yield "SMTP_URL must be set in production: accounts need mail"
    if settings.in_production and server is not None and not server.protects_password:
        yield "SMTP_URL: in production a password takes smtps:// or ?starttls"


@rule("database_url", "redis_url", "jobs_in_process")
def _several_processes(settings: "Settings") -> Iterator[str]:
    if not settings.in_production or not settings.database_url.get_secret_value().startswith(
        "sqlite"
    ):
        return
    if settings.redis_url is not None:
        yield (
            "DATABASE_URL must begin with postgresql:// in production with REDIS_URL: SQLite is "
            "for one process"
        )
    elif not settings.jobs_in_process:
        yield (
            "DATABASE_URL must begin with postgresql:// in production with JOBS_IN_PROCESS=false: "
            "SQLite is for one process"
        )
