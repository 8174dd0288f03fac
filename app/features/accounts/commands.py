"""`python -m app user …`: what an operator does with accounts."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Never, TypeVar

import typer
from pydantic import ValidationError

from app.core.connections import OpenConnections
from app.core.db import SqlDatabase
from app.core.errors import AppError
from app.core.jobs import JobQueue
from app.core.mail import Mailer
from app.core.mail import jobs as mail_jobs
from app.core.revocations import Revocations
from app.core.settings import Settings, explain
from app.features.accounts.administration.schemas import (
    AccountQuery,
    AdministeredAccount,
    NewAccount,
)
from app.features.accounts.administration.service import AdministrationService
from app.features.accounts.errors import AccountNotFound, EmailTaken, NoSecondFactor
from app.features.accounts.passwords import Passwords
from app.features.accounts.people.guessable import refuse_guessable
from app.features.accounts.roles import ADMIN

LISTED_AT_ONCE = 100

T = TypeVar("T")

commands = typer.Typer(no_args_is_help=True, help="Accounts.")

Email = Annotated[str, typer.Argument(help="Whose account.")]


@commands.command()
def create(
    email: Email,
    name: Annotated[str, typer.Option(help="What they are called.")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make them an administrator.")] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Let them set one by a link, or never.")
    ] = False,
) -> None:
    """Make an account, whose address you vouch for; the password is asked for."""
    given = {"email": email, "name": name or email.partition("@")[0][:80]}
    password = None if no_password else _password(from_stdin=password_stdin)
    try:
        new = NewAccount.model_validate(given | {"password": password})
    except ValidationError as error:
        _stop("; ".join(explain(error)))
    user_id = _administer(lambda service: _create(service, new, admin=admin), email)
    typer.echo(f"{email} has an account, number {user_id}.")


@commands.command()
def promote(email: Email) -> None:
    """Make somebody an administrator, from their next access token on."""
    _change(email, lambda service, user_id: service.promote(user_id))
    typer.echo(f"{email} is an administrator.")


@commands.command()
def demote(email: Email) -> None:
    """Make somebody no administrator: tokens that say otherwise are refused, sockets closed."""
    _change(email, lambda service, user_id: service.demote(user_id))
    typer.echo(f"{email} is no administrator.")


@commands.command()
def disable(email: Email) -> None:
    """Let somebody in no more: their sessions and sockets end, their API keys are revoked."""
    _change(email, lambda service, user_id: service.disable(None, user_id))
    typer.echo(f"{email} is disabled.")


@commands.command()
def enable(email: Email) -> None:
    """Let somebody in again who was disabled; they have to log in."""
    _change(email, lambda service, user_id: service.enable(None, user_id))
    typer.echo(f"{email} is enabled.")


@commands.command("sign-out")
def sign_out(
    email: Annotated[str, typer.Argument(help="Whose account.")] = "",
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Of all accounts, as after a restore.")
    ] = False,
) -> None:
    """End all of somebody's sessions, with their access tokens and sockets."""
    if everyone == bool(email):
        _stop("Name an e-mail address, or say --everyone.")
    if everyone:
        number = _administer(_sign_out_everyone)
        typer.echo(f"{number} accounts are signed out everywhere.")
        return
    _change(email, lambda service, user_id: service.sign_out(None, user_id))
    typer.echo(f"{email} is signed out everywhere.")


@commands.command("remove-second-factor")
def remove_second_factor(email: Email) -> None:
    """Ask somebody for no second factor any more, who has lost it; their sessions end."""
    _change(email, lambda service, user_id: service.remove_second_factor(None, user_id))
    typer.echo(f"{email} is asked for no second factor.")


@commands.command("list")
def list_accounts(
    search: Annotated[str, typer.Option(help="How the e-mail address or the name begins.")] = "",
) -> None:
    """List the accounts, the newest first."""
    try:
        query = AccountQuery(search=search or None, limit=LISTED_AT_ONCE)
    except ValidationError as error:
        _stop("; ".join(explain(error)))
    _administer(lambda service: _list(service, query))


def _password(*, from_stdin: bool) -> str:
    """The password, from the first line of standard input or from a person, who is not shown it."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        _stop("Nobody is there to ask for the password: add --password-stdin or --no-password.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


async def _create(service: AdministrationService, new: NewAccount, *, admin: bool) -> int:
    password_hash = ""
    if new.password is not None:
        password = new.password.get_secret_value()
        refuse_guessable(password, "password", new.email, new.name)
        password_hash = await Passwords(1).hash(password)
    return await service.create(new.email, new.name, password_hash, [ADMIN] if admin else [])


async def _list(service: AdministrationService, query: AccountQuery) -> None:
    async for account in _found(service, query):
        typer.echo(_line(account))


async def _sign_out_everyone(service: AdministrationService) -> int:
    number = 0
    async for account in _found(service, AccountQuery(limit=LISTED_AT_ONCE)):
        if account.sessions:
            await service.sign_out(None, account.id)
            number += 1
    return number


async def _found(
    service: AdministrationService, query: AccountQuery
) -> AsyncIterator[AdministeredAccount]:
    while True:
        page = await service.accounts(query)
        for account in page.items:
            yield account
        if page.next is None:
            return
        query = query.model_copy(update={"after": page.next})


def _line(account: AdministeredAccount) -> str:
    states = {
        "disabled": account.disabled,
        "locked": account.locked,
        "second factor": account.second_factor,
    }
    said = [*account.roles, *(state for state, holds in states.items() if holds)]
    line = f"{account.id:>8}  {account.email}  {account.name}  sessions: {account.sessions}"
    return f"{line}  {', '.join(said)}" if said else line


def _change(email: str, change: Callable[[AdministrationService, int], Awaitable[object]]) -> None:
    async def work(service: AdministrationService) -> None:
        await change(service, await service.id_of(email))

    _administer(work, email)


def _administer(work: Callable[[AdministrationService], Awaitable[T]], email: str = "") -> T:
    """What `work` returns; ends with a sentence where it is refused."""
    try:
        return asyncio.run(_administered(work))
    except AccountNotFound:
        _stop(f"There is no account of {email}: sign up first.")
    except NoSecondFactor:
        _stop(f"{email} has no second factor.")
    except EmailTaken:
        _stop(f"There is an account of {email}: see `user list --search {email}`.")
    except AppError as error:
        said = [each["msg"] for each in error.errors] or [error.detail or error.title]
        _stop("; ".join(said))


async def _administered(work: Callable[[AdministrationService], Awaitable[T]]) -> T:
    settings = Settings()
    database = SqlDatabase(settings.database)
    revocations = Revocations(database, OpenConnections(), keep=settings.revocation_lifetime)
    try:
        mail = Mailer(settings, JobQueue(database, mail_jobs))
        return await work(AdministrationService(database, revocations, mail))
    finally:
        await database.dispose()


def _stop(sentence: str) -> Never:
    typer.echo(f"duplex: {sentence}", err=True)
    raise typer.Exit(1)
