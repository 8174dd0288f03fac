"""`python -m app settings check`: whether the settings are right, and what they are."""

import os
from pathlib import Path
from typing import Any

import typer
from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import to_json

from app.core.settings import Settings, explain

MASK = "********"
TELEMETRY = "OTEL_"

commands = typer.Typer(no_args_is_help=True, help="The settings.")


@commands.callback()
def _group() -> None:
    """The settings."""


@commands.command()
def check() -> None:
    """Say whether the settings are right, and list what is in force; secrets are masked."""
    try:
        settings = Settings()
    except ValidationError as error:
        typer.echo(f"duplex: {complaints(error)}", err=True)
        raise typer.Exit(1) from None
    typer.echo("The settings are right.")
    given = [name for name in Settings.model_fields if name in settings.model_fields_set]
    others = [name for name in Settings.model_fields if name not in settings.model_fields_set]
    for title, names in (("Set:", given), ("By default:", others)):
        if names:
            lines = (f"  {name.upper()}={as_told(settings, name)}" for name in names)
            typer.echo("\n".join(("", title, *lines)))
    if unknown := unknown_names():
        typer.echo(f"\nIn .env, and no setting: {', '.join(unknown)}")


def complaints(error: ValidationError) -> str:
    """What is wrong with the settings, for a person: a heading, and a line for each."""
    lines = explain(error)
    count = "One setting is" if len(lines) == 1 else f"{len(lines)} settings are"
    heading = f"{count} wrong (.env.example describes each):"
    return "\n  ".join([heading, *lines])


def as_told(settings: Settings, name: str) -> str:
    """A setting as it may be shown: no secret, and of an address neither password nor query."""
    value = getattr(settings, name)
    if name == "database_url":
        return settings.database.set(query={}).render_as_string(hide_password=True)
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, dict):
        return to_json(_masked(value)).decode()
    return "" if value is None else str(value)


def _masked(value: dict[str, Any]) -> dict[str, Any]:
    return {
        name: each.model_dump(mode="json") if isinstance(each, BaseModel) else each
        for name, each in value.items()
    }


def unknown_names() -> list[str]:
    """Variables of `.env` that nothing here reads: one of them may be a misspelled setting."""
    known = {name.upper() for name in Settings.model_fields}
    names = (name for name in _env_file() if name.upper() not in known)
    return sorted(name for name in names if not name.startswith(TELEMETRY))


def telemetry_of_file() -> dict[str, str]:
    """The OTEL_* lines of `.env`, for OpenTelemetry, but those that the environment has too."""
    lines = _env_file().items()
    return {k: v for k, v in lines if v and k.startswith(TELEMETRY) and k not in os.environ}


def _env_file() -> dict[str, str | None]:
    file = Settings.model_config.get("env_file")
    return dotenv_values(file) if isinstance(file, str | Path) else {}
