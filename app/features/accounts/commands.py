"""`python -m app user …`: what an operator does with accounts."""

import asyncio
from typing import Annotated

import typer

from app.core.db import SqlDatabase
from app.core.settings import Settings
from app.features.accounts.service import by_email

commands = typer.Typer(no_args_is_help=True, help="Accounts.")


@commands.command()
def promote(email: Annotated[str, typer.Argument(help="Whose account.")]) -> None:
    """Make somebody an administrator, from their next access token on."""
    if not asyncio.run(_promote(email)):
        typer.echo(f"duplex: There is no account of {email}: sign up first.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{email} is an administrator.")


async def _promote(email: str) -> bool:
    database = SqlDatabase(Settings().database)
    try:
        async with database.unit_of_work() as uow:
            user = await by_email(uow, email)
            if user is not None and "admin" not in user.roles:
                user.roles = [*user.roles, "admin"]
        return user is not None
    finally:
        await database.dispose()
