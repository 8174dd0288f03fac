"""Settings: where they come from, what is refused, and that each of them does something."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.core.settings import DEVELOPMENT_SECRET, Environment, Settings, explain, sqlite_file
from tests.conftest import SECRET

SECRETS = (SECRET, "hunter2", "hunter3", "hunter4", "hunter5")
EXAMPLE = Path(__file__).parents[2] / ".env.example"
HEAD = """\
# Every setting, with what it is if it is not set. Copy this file to .env and change what has to
# be different; environment variables of the same names go before it.
"""


def example() -> str:
    """What .env.example has to be."""
    paragraphs = [HEAD]
    for name, field in Settings.model_fields.items():
        comment = textwrap.fill(
            field.description or "", 100, initial_indent="# ", subsequent_indent="# "
        )
        paragraphs.append(f"{comment}\n{name.upper()}={as_written(field.default)}\n")
    return "\n".join(paragraphs)


def as_written(value: Any) -> str:
    """A default as somebody writes it into an environment variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, list):
        return ",".join(value)
    return "" if value is None else str(value)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Reads the settings from an environment with these variables."""

    def read(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings()

    return read


def refusal(**values: Any) -> str:
    """What is said about wrong settings."""
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    lines = explain(refused.value)
    assert lines
    assert all("\n" not in line for line in lines)
    return "; ".join(lines)


def test_the_example_is_every_setting() -> None:
    """.env.example has each setting, its description and its default, in order."""
    assert EXAMPLE.read_text() == example()


def test_the_example_can_be_used_as_it_is() -> None:
    """A copy of .env.example says what saying nothing says."""
    assert Settings(_env_file=EXAMPLE) == Settings()


def test_every_setting_is_described() -> None:
    """Each setting has a sentence, or a phrase, that ends."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_environment_goes_before_the_file(
    environment: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable wins over .env, .env over the default, and an empty one sets nothing."""
    (tmp_path / ".env").write_text("PORT=1111\nTOKEN_ISSUER=file\nUNKNOWN=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    settings = environment(PORT="2222", TOKEN_AUDIENCE="")
    assert (settings.port, settings.token_issuer, settings.token_audience) == (
        2222,
        "file",
        "duplex",
    )


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file named like a setting in SECRETS_DIR sets it, without its last line break."""
    (tmp_path / "secret_key").write_text(SECRET + "\n")
    (tmp_path / "database_password").write_text("of-the-database\n")
    monkeypatch.setitem(Settings.model_config, "secrets_dir", tmp_path)
    settings = Settings()
    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.database_password
    assert settings.database_password.get_secret_value() == "of-the-database"


@pytest.mark.parametrize(
    ("written", "expected"),
    [("a.example", ["a.example"]), (" a , b ,, ", ["a", "b"]), ("*", ["*"]), (",", [])],
)
def test_a_list_is_written_with_commas(
    environment: Callable[..., Settings], written: str, expected: list[str]
) -> None:
    """Lists need no JSON; blanks and empty parts are passed over."""
    assert environment(ALLOWED_HOSTS=written).allowed_hosts == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h/n", "postgresql+psycopg://u:***@h/n"),
        ("postgres://u@h:5433/n", "postgresql+psycopg://u@h:5433/n"),
        ("postgresql+psycopg://u@h/n", "postgresql+psycopg://u@h/n"),
        ("sqlite:///var/x.db", "sqlite+aiosqlite:///var/x.db"),
        ("sqlite+aiosqlite:////x.db", "sqlite+aiosqlite:////x.db"),
    ],
)
def test_the_driver_is_filled_in(url: str, expected: str) -> None:
    """An address without a driver gets the asynchronous one."""
    assert str(Settings(database_url=SecretStr(url)).database) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "mysql://u:hunter2@h/n", "postgresql+asyncpg://u:hunter2@h/n"),
        *("postgresql://u:hunter2@h:port/n", "sqlite://", "sqlite:///:memory:"),
    ],
)
def test_a_wrong_database_address_is_refused(url: str) -> None:
    """What is no address of a database that is known is refused, without repeating it."""
    said = refusal(database_url=url)
    assert "DATABASE_URL" in said
    assert "hunter2" not in said


def test_the_file_of_a_database() -> None:
    """An SQLite address names its file, another has none."""
    for url, file in (("sqlite:///a/b.db", Path("a/b.db")), ("postgresql://h/n", None)):
        assert sqlite_file(Settings(database_url=SecretStr(url)).database) == file


@pytest.mark.parametrize(
    "url",
    [
        *("redis://127.0.0.1", "redis://:p@h:6380/2", "redis://[::1]:6379", "unix:///run/r.sock"),
        *("rediss://u:p@h:6379", "rediss://h?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=no"),
    ],
)
def test_an_address_of_redis_is_taken(url: str) -> None:
    """Whatever redis-py connects to."""
    given = Settings(redis_url=SecretStr(url)).redis_url
    assert given
    assert given.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        *("hunter2", "http://u:hunter2@h", "redis:hunter2", "redis://:hunter2@h:port"),
        *("redis://:hunter2/x@h", "unix://:hunter2@", "redis://:hunter2@h?colour=red"),
        *("redis://:hunter2@h:99999", "rediss://:hunter2@h?ssl_cert_reqs=perhaps"),
    ],
)
def test_a_wrong_address_of_redis_is_refused(url: str) -> None:
    """What it should be is said, without repeating what it is."""
    said = refusal(redis_url=url)
    assert said == "REDIS_URL: it is not redis://host:port, rediss://host:port or unix:///path"


def test_production_refuses_the_development_secret() -> None:
    """In production SECRET_KEY has to be set, and what is said says how."""
    said = refusal(environment="production")
    assert said == "SECRET_KEY must be set in production: openssl rand -hex 32"
    smtp_url = SecretStr("smtp://127.0.0.1")
    Settings(environment=Environment.PRODUCTION, secret_key=SecretStr(SECRET), smtp_url=smtp_url)


def test_production_refuses_to_send_no_mail() -> None:
    """In production SMTP_URL has to be set, and a password in it is protected on its way."""
    values: dict[str, Any] = {"environment": "production", "secret_key": SECRET}
    assert refusal(**values) == "SMTP_URL must be set in production: accounts need mail"
    said = refusal(**values, smtp_url="smtp://ann:hunter2@a.example")
    assert said == "SMTP_URL: in production a password takes smtps:// or ?starttls"
    for url in ("smtp://ann:x@a.example?starttls", "smtps://ann:x@a.example", "smtp://a.example"):
        assert Settings(**values, smtp_url=SecretStr(url)).smtp


def test_a_provider_is_named_in_full() -> None:
    """AUTH_MODE=oidc takes an issuer that is an address, https in production, and an audience."""
    issuer = "https://op.example/realms/a"
    oidc: dict[str, Any] = {"auth_mode": "oidc", "oidc_issuer": issuer, "oidc_audience": "duplex"}
    not_one = ("", "op.example", "ftp://op.example", "https://", "https:///x", "https://a b/")
    for wrong in (*not_one, f"{issuer}?x", f"{issuer}#x", "https://u:p@op.example"):
        said = refusal(**(oidc | {"oidc_issuer": wrong}))
        assert said == "OIDC_ISSUER: AUTH_MODE=oidc takes https://host or https://host/path"
    said = refusal(**(oidc | {"oidc_audience": ""}))
    assert said == "OIDC_AUDIENCE: AUTH_MODE=oidc takes what tokens for us have in `aud`"
    production: dict[str, Any] = {"environment": Environment.PRODUCTION}
    production |= {"secret_key": SecretStr(SECRET)}
    said = refusal(**(oidc | production | {"oidc_issuer": "http://op.example"}))
    assert said == "OIDC_ISSUER must begin with https:// in production"
    assert Settings(**oidc, **production).smtp is None  # there are no accounts that need mail
    assert Settings(oidc_issuer="", auth_mode="local").auth_mode == "local"


GOOGLE = {"issuer": "https://op.example", "client_id": "us", "label": "Google"}


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("hunter2", ": it is not a JSON object such as "),
        ('["hunter2"]', ": it is not a JSON object such as "),
        ({"Google": GOOGLE}, ".GOOGLE.[KEY]: String should match pattern"),
        ({"g": GOOGLE | {"issuer": "op.example"}}, ".G.ISSUER: it is not https://host or "),
        ({"g": GOOGLE | {"issuer": "https://op.example/?x=1"}}, ".G.ISSUER: it is not https://"),
        ({"g": GOOGLE | {"issuer": "https://op.example/ x"}}, ".G.ISSUER: it is not https://"),
        ({"g": GOOGLE | {"client_id": ""}}, ".G.CLIENT_ID: String should match pattern"),
        ({"g": GOOGLE | {"label": ""}}, ".G.LABEL: String should have at least 1 character"),
        ({"g": GOOGLE | {"scope": "email"}}, ".G.SCOPE: it has to name openid"),
        ({"g": GOOGLE | {"secret": "hunter2"}}, ".G.SECRET: Extra inputs are not permitted"),
        ({"g": {"issuer": "https://op.example", "label": "x"}}, ".G.CLIENT_ID: Field required"),
    ],
    ids=lambda each: ascii(each)[:60],
)
def test_a_provider_to_log_in_with_is_explained(written: Any, line: str) -> None:
    """Which of them, which part of it, and what it should be; no secret is repeated."""
    said = refusal(sign_in_providers=written)
    assert said.startswith(f"SIGN_IN_PROVIDERS{line}")
    assert "hunter2" not in said


def test_where_people_may_log_in_with_providers(environment: Callable[..., Settings]) -> None:
    """Where there are accounts; in production at issuers that can be believed."""
    written = json.dumps({"google": GOOGLE | {"client_secret": "hunter2"}})
    known = environment(SIGN_IN_PROVIDERS=written).sign_in_providers["google"]
    assert known.client_secret.get_secret_value() == "hunter2"
    assert known.scope == "openid email profile"
    assert "hunter2" not in f"{known!r} {known}"
    oidc: dict[str, Any] = {"auth_mode": "oidc", "oidc_audience": "us"}
    oidc["oidc_issuer"] = "https://op.example"
    said = refusal(sign_in_providers=written, **oidc)
    assert said == "SIGN_IN_PROVIDERS: there are accounts with AUTH_MODE=local alone"
    production: dict[str, Any] = {"environment": "production", "secret_key": SECRET}
    production["smtp_url"] = "smtps://h"
    assert Settings(**production).sign_in_providers
    plain = {"google": GOOGLE | {"issuer": "http://op.example"}}
    said = refusal(sign_in_providers=plain, **production)
    assert said == "SIGN_IN_PROVIDERS.GOOGLE.ISSUER must begin with https:// in production"


@pytest.mark.parametrize(
    "url",
    [
        *("hunter2", "http://u:hunter2@h", "smtp://", "smtp://u:hunter2@", "smtp:hunter2"),
        *("smtp://u:hunter2@h:port", "smtp://u:hunter2@h:99999", "smtp://:hunter2/x@h"),
        *("smtp://u:hunter2@h?tls", "smtps://u:hunter2@h?starttls", "smtp://u@h#hunter2"),
    ],
)
def test_a_wrong_address_of_a_mail_server_is_refused(url: str) -> None:
    """What it should be is said, without repeating what it is."""
    said = refusal(smtp_url=url)
    known = "smtp://host:port, smtp://host:port?starttls or smtps://host"
    assert said == f"SMTP_URL: it is not {known}"


@pytest.mark.parametrize(
    "url",
    [
        *("a.example", "ftp://a.example", "https://", "https://a.example/?x=1", "//a.example"),
        *("https://a.example/#x", "https://ann:hunter2@a.example", "javascript:alert(1)"),
    ],
)
def test_what_links_cannot_begin_with_is_no_public_url(url: str) -> None:
    """It is an address of the web, and nothing else; a slash at its end makes no difference."""
    assert refusal(public_url=url) == "PUBLIC_URL: it is not https://host or https://host/path"
    assert Settings(public_url="https://a.example/app/").public_url == "https://a.example/app"


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://a.example:443", "https://a.example"),
        ("https://a.example:443/app", "https://a.example/app"),
        ("https://a.example:8443", "https://a.example:8443"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://[::443]", "https://[::443]"),
    ],
)
def test_a_port_that_goes_without_saying_is_left_out(url: str, same: str) -> None:
    """The address is the one that a browser shows, and sends as its origin."""
    assert Settings(public_url=url).public_url == same


@pytest.mark.parametrize(
    ("listens", "opened"),
    [
        ({}, "http://localhost:8000"),
        ({"port": 8080}, "http://localhost:8080"),
        ({"host": "::", "port": 80}, "http://localhost:80"),
        ({"host": "::1"}, "http://localhost:8000"),
        ({"host": "192.0.2.7"}, "http://192.0.2.7:8000"),
        ({"host": "2001:db8::7"}, "http://[2001:db8::7]:8000"),
        ({"port": 8080, "public_url": "https://a.example"}, "https://a.example"),
    ],
)
def test_links_begin_with_where_it_listens(listens: dict[str, Any], opened: str) -> None:
    """Unless PUBLIC_URL says otherwise."""
    assert Settings(**listens).public_url == opened


@pytest.mark.parametrize(
    "sender",
    ["", "a", "a@b.c, d@e.f", "Ann <a@b.c>\r\nBcc: d@e.f", "A: a@b.c;", "<a@b.c", "Ann <>"],
)
def test_mail_is_from_one_address(sender: str) -> None:
    """With a name or without; no header can be slipped in by it."""
    assert refusal(mail_from=sender) == "MAIL_FROM: it is not address@host or Name <address@host>"
    for right in ("a@b.example", "Ann Lee <a@b.example>", "Bücher <a@b.example>"):
        assert Settings(mail_from=right).mail_from == right


@pytest.mark.parametrize("origin", ["http://a.example", "*", "null", "a.example"])
def test_production_refuses_origins_without_tls(origin: str) -> None:
    """In production ALLOWED_ORIGINS are https."""
    values: dict[str, Any] = {"secret_key": SECRET, "allowed_origins": origin}
    assert "ALLOWED_ORIGINS must be https" in refusal(environment="production", **values)
    assert Settings(**values).allowed_origins == [origin]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"port": "eighty"}, "PORT: Input should be a valid integer"),
        ({"port": 65536}, "PORT: Input should be less than or equal to 65535"),
        ({"environment": "staging"}, "ENVIRONMENT: Input should be 'development'"),
        ({"secret_key": "hunter2"}, "SECRET_KEY: it has fewer than 32 bytes"),
        ({"root_path": "api/"}, "ROOT_PATH: String should match pattern"),
        ({"drain_seconds": 6}, "DRAIN_SECONDS: it may be half of SHUTDOWN_SECONDS at most"),
        ({"allowed_hosts": "a*b"}, "ALLOWED_HOSTS: "),
        ({"allowed_hosts": "*example.com"}, "ALLOWED_HOSTS: "),
        ({"log_level": "loud"}, "LOG_LEVEL: Input should be 'debug'"),
        ({"ws_ping_seconds": 0}, "WS_PING_SECONDS: Input should be greater than 0"),
        ({"redis_prefix": "a*"}, "REDIS_PREFIX: String should match pattern"),
    ],
)
def test_a_wrong_setting_is_explained(values: dict[str, Any], line: str) -> None:
    """Each line names the variable and what it should be, and never its value."""
    said = refusal(**values)
    assert said.startswith(line)
    assert "hunter2" not in said
    assert "eighty" not in said


def test_all_that_is_wrong_is_said_at_once() -> None:
    """Two wrong settings are two lines."""
    assert refusal(port="x", log_format="y").count(": ") == 2


def test_printing_settings_prints_no_secret() -> None:
    """The secrets are in no text of the settings."""
    settings = Settings(
        secret_key=SecretStr(SECRET),
        database_url=SecretStr("postgresql://u:hunter2@h/n"),
        database_password=SecretStr("hunter3"),
        redis_url=SecretStr("redis://:hunter4@h"),
        smtp_url=SecretStr("smtp://ann:hunter5@h"),
    )
    text = f"{settings} {settings!r} {settings.model_dump()} {settings.database}"
    assert not [secret for secret in SECRETS if secret in text]
    assert DEVELOPMENT_SECRET not in repr(Settings())
    assert len(DEVELOPMENT_SECRET) >= 32


def test_settings_do_not_change() -> None:
    """What was read at the start holds until the end."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
