"""Settings: where they come from, what is refused, and that each of them does something."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from app.core.settings import DEVELOPMENT_SECRET, Environment, Settings, explain, sqlite_file
from tests.conftest import SECRET

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


def test_production_refuses_the_development_secret() -> None:
    """In production SECRET_KEY has to be set, and what is said says how."""
    said = refusal(environment="production")
    assert said == "SECRET_KEY must be set in production: openssl rand -hex 32"
    Settings(environment=Environment.PRODUCTION, secret_key=SecretStr(SECRET))


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
        ({"allowed_hosts": "a*b"}, "ALLOWED_HOSTS: "),
        ({"allowed_hosts": "*example.com"}, "ALLOWED_HOSTS: "),
        ({"log_level": "loud"}, "LOG_LEVEL: Input should be 'debug'"),
        ({"ws_ping_seconds": 0}, "WS_PING_SECONDS: Input should be greater than 0"),
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
    )
    text = f"{settings} {settings!r} {settings.model_dump()} {settings.database}"
    assert not [secret for secret in (SECRET, "hunter2", "hunter3") if secret in text]
    assert DEVELOPMENT_SECRET not in repr(Settings())
    assert len(DEVELOPMENT_SECRET) >= 32


def test_settings_do_not_change() -> None:
    """What was read at the start holds until the end."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
