"""`python -m app keys …`: what an operator does with the keys that sign access tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer

from app.core.db import SqlDatabase
from app.core.keyring import OF_SECRET_KEY, Keyring, SigningKeyRow, UnknownKey
from app.core.settings import Settings
from app.core.tokens import Algorithm, Key

T = TypeVar("T")

commands = typer.Typer(no_args_is_help=True, help="The keys that access tokens are signed with.")

# A `kid` may begin with a hyphen.
A_KID = {"ignore_unknown_options": True}


@commands.command("list")
def list_keys() -> None:
    """List the keys, oldest first, and what each is good for."""

    async def look(ring: Keyring) -> None:
        rows = await ring.rows()
        await ring.load()
        signing = ring.tokens.signing_key()
        for row in rows:
            origin = OF_SECRET_KEY if row.material == OF_SECRET_KEY else f"{row.created_at:%F %T}Z"
            typer.echo(
                f"{row.kid:<16}  {row.algorithm}  {origin:<20}  {_state(ring, row, signing)}"
            )

    _on_ring(look)


@commands.command()
def rotate(
    algorithm: Annotated[
        Algorithm | None, typer.Option(help="By default that of the newest key.")
    ] = None,
) -> None:
    """Make a new key; tokens of the older ones are good until they expire."""
    made = _on_ring(lambda ring: ring.rotate(algorithm))
    typer.echo(f"{made.kid} ({made.algorithm}) signs from {made.signs_from:%T}Z on.")


@commands.command(context_settings=A_KID)
def remove(kid: Annotated[str, typer.Argument(help="The first column of `keys list`.")]) -> None:
    """Refuse all that a key has signed, as when it has leaked; may take some seconds."""
    try:
        _on_ring(lambda ring: ring.remove(kid))
    except UnknownKey:
        typer.echo(f"duplex: There is no key {kid}: `keys list` shows those there are.", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{kid} is removed: what it has signed is refused, and its sockets are closed.")


def _state(ring: Keyring, row: SigningKeyRow, signing: Key | None) -> str:
    now = datetime.now(UTC)
    if row.removed_at:
        return f"removed {row.removed_at:%F %T}Z"
    if ring.opened(row) is None:
        return "of another SECRET_KEY"
    if row.verifies_until and row.verifies_until <= now:
        return f"is over since {row.verifies_until:%F %T}Z"
    if row.signs_from > now:
        return f"signs from {row.signs_from:%F %T}Z on"
    until = f"verifies until {row.verifies_until:%F %T}Z" if row.verifies_until else "verifies"
    return f"signs, {until}" if signing and row.kid == signing.kid else until


def _on_ring(work: Callable[[Keyring], Awaitable[T]]) -> T:
    settings = Settings()
    if settings.auth_mode == "oidc":
        typer.echo("duplex: With AUTH_MODE=oidc the provider's keys sign.", err=True)
        raise typer.Exit(1)

    async def connected() -> T:
        database = SqlDatabase(settings.database)
        try:
            return await work(Keyring(database, settings))
        finally:
            await database.dispose()

    return asyncio.run(connected())
