"""`python -m app user …`: what an operator does with accounts."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.core.db import SqlDatabase
from app.core.jobs import JobRow
from app.core.settings import Settings
from app.features.accounts.commands import LISTED_AT_ONCE
from app.features.accounts.models import SecondFactor, Session, User
from app.features.accounts.passwords import Passwords
from app.features.accounts.users import by_email
from tests.features.accounts.administering import account, entries

PASSWORD = "correct horse battery staple"
ADDRESS = "Ann@Example.com"
ROOT = Path(__file__).parents[3]

Operate = Callable[..., Any]
on_each_engine = pytest.mark.usefixtures("engine")


async def run(operate: Operate, *command: str, typed: str | None = None) -> tuple[int, str, str]:
    """The exit code of a command, and what it says and complains of."""
    done = await asyncio.to_thread(operate, *command, input=typed)
    return done.exit_code, done.stdout, done.stderr


async def ann(database: SqlDatabase) -> User:
    """The account that was made."""
    async with database.reading() as session:
        user = await by_email(session, "ann@example.com")
    assert user
    return user


@on_each_engine
async def test_an_account_is_made(operate: Operate, database: SqlDatabase) -> None:
    """Its password is read from standard input, and neither it nor its hash is printed."""
    made = ["create", ADDRESS, "--name", "Ann B.", "--admin", "--password-stdin"]
    code, said, complained = await run(operate, *made, typed=f"{PASSWORD}\nmore\n")
    user = await ann(database)
    assert (code, said, complained) == (0, f"{ADDRESS} has an account, number {user.id}.\n", "")
    assert (user.email, user.name, user.roles) == (ADDRESS, "Ann B.", ["admin"])
    assert await Passwords(1).verify(PASSWORD, user.password_hash) == (True, None)
    assert await entries(database, user.id) == [("account.created", None, {"roles": ["admin"]})]
    code, said, complained = await run(
        operate, "create", "ann@example.com", "--password-stdin", typed=PASSWORD
    )
    assert (code, said) == (1, "")
    assert complained == (
        "duplex: There is an account of ann@example.com: see `user list --search "
        "ann@example.com`.\n"
    )


@on_each_engine
async def test_an_account_may_have_no_password(operate: Operate, database: SqlDatabase) -> None:
    """No password is right for it; its name is taken from the address."""
    assert (await run(operate, "create", ADDRESS, "--no-password"))[0] == 0
    user = await ann(database)
    assert (user.name, user.password_hash, user.roles) == ("Ann", "", [])
    for tried in ("", "nobody has this password"):
        assert await Passwords(1).verify(tried, user.password_hash) == (False, None)


@pytest.mark.parametrize(
    ("arguments", "typed", "complaint"),
    [
        (["Bob <bob@example.com>", "--no-password"], None, "EMAIL: "),
        (["bob@example.com", "--name", "B\x1b[2J", "--no-password"], None, "NAME: "),
        (["bob@example.com", "--password-stdin"], "short\n", "PASSWORD: A password has 10 to 200"),
        (["bob@example.com", "--password-stdin"], "", "PASSWORD: A password has 10 to 200"),
        (["bob@example.com", "--password-stdin"], "aaaaaaaaaaaa\n", "This password is a pattern"),
        (["bob@example.com"], PASSWORD, "Nobody is there to ask for the password: add "),
    ],
)
async def test_what_is_no_account_is_not_made(
    operate: Operate, arguments: list[str], typed: str | None, complaint: str
) -> None:
    """A sentence says why, without what was typed."""
    code, said, complained = await run(operate, "create", *arguments, typed=typed)
    assert (code, said) == (1, "")
    assert complained.startswith(f"duplex: {complaint}")
    assert complained.count("\n") == 1
    assert typed is None or not typed or typed.strip() not in complained
    assert (await run(operate, "list"))[1] == ""


async def test_a_person_is_asked_for_the_password(
    settings: Settings, database: SqlDatabase
) -> None:
    """Twice, at a terminal, which does not show it."""
    shown = await asyncio.to_thread(
        _at_a_terminal, settings, [PASSWORD, "else", PASSWORD, PASSWORD]
    )
    assert shown.count("Password:") == 2
    assert f"{ADDRESS} has an account" in shown
    assert PASSWORD not in shown
    assert await Passwords(1).verify(PASSWORD, (await ann(database)).password_hash) == (True, None)


def _at_a_terminal(settings: Settings, typed: list[str]) -> str:
    """What a terminal shows while somebody types these lines, each when they are asked."""
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "app", "user", "create", ADDRESS],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": settings.database_url.get_secret_value()},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
    ) as process:
        os.close(its_end)
        shown, answered = "", 0
        try:
            while chunk := os.read(terminal, 1024).decode():
                shown += chunk
                if shown.endswith(": ") and answered < len(typed):
                    os.write(terminal, f"{typed[answered]}\n".encode())
                    answered += 1
        except OSError:  # it has ended
            pass
        os.close(terminal)
    assert process.returncode == 0, shown
    return shown


@on_each_engine
async def test_accounts_are_listed(operate: Operate, database: SqlDatabase) -> None:
    """The newest first, page after page, with what is to be known of them."""
    bob = await account(database, "Bob", "admin", email="bob@example.com")
    many = [await account(database, "Carol") for _ in range(101)]
    dave = await account(database, "Dave", email="dave@example.com")
    now = datetime.now(UTC)
    async with database.unit_of_work() as uow:
        user = await uow.get_one(User, dave.id)
        user.disabled_at, user.locked_until = now, now + timedelta(hours=1)
        uow.add(SecondFactor(user_id=dave.id, secret="x", created_at=now, confirmed_at=now))
    code, said, _ = await run(operate, "list")
    lines = said.splitlines()
    assert code == 0
    assert [int(line.split()[0]) for line in lines] == [
        dave.id,
        *(each.id for each in reversed(many)),
        bob.id,
    ]
    assert lines[0].split("  ", 1)[1].strip().removeprefix(f"{dave.id}").strip() == (
        "dave@example.com  Dave  sessions: 0  disabled, locked, second factor"
    )
    assert lines[-1].endswith("  bob@example.com  Bob  sessions: 0  admin")
    for search, found in (("BOB", 1), ("dav", 1), ("carol", 101), ("b%", 0)):
        assert len((await run(operate, "list", "--search", search))[1].splitlines()) == found
    assert (await run(operate, "list", "--search", "\0"))[0] == 1


@on_each_engine
async def test_what_is_done_is_recorded_as_an_operators(
    operate: Operate, database: SqlDatabase
) -> None:
    """Each command once, however often it is repeated; the last administrator is no matter here."""
    bob = await account(database, "Bob", email="bob@example.com")
    for command, said in {
        "promote": "is an administrator",
        "demote": "is no administrator",
        "disable": "is disabled",
        "enable": "is enabled",
    }.items():
        for _ in range(2):
            code, told, _ = await run(operate, command, "BOB@example.com")
            assert (code, told) == (0, f"BOB@example.com {said}.\n")
    assert (await run(operate, "sign-out", "bob@example.com"))[0] == 0
    assert await entries(database, bob.id) == [
        ("account.roles_changed", None, {"before": [], "after": ["admin"]}),
        ("account.roles_changed", None, {"before": ["admin"], "after": []}),
        ("account.disabled", None, {}),
        ("account.enabled", None, {}),
    ]


@on_each_engine
async def test_a_lost_second_factor_is_removed(operate: Operate, database: SqlDatabase) -> None:
    """The person is mailed, by a job; one that there is not is said."""
    bob, now = await account(database, "Bob", email="bob@example.com"), datetime.now(UTC)
    async with database.unit_of_work() as uow:
        uow.add(SecondFactor(user_id=bob.id, secret="x", created_at=now, confirmed_at=now))
    done = await run(operate, "remove-second-factor", "bob@example.com")
    assert done == (0, "bob@example.com is asked for no second factor.\n", "")
    async with database.reading() as session:
        assert await session.get(SecondFactor, bob.id) is None
        names = (await session.scalars(select(JobRow.name))).all()
    assert names == ["core.send_mail"]
    assert await entries(database, bob.id) == [("second_factor.removed", None, {})]
    again = await run(operate, "remove-second-factor", "bob@example.com")
    assert again == (1, "", "duplex: bob@example.com has no second factor.\n")


@pytest.mark.parametrize(
    "command",
    ["promote", "demote", "disable", "enable", "sign-out", "remove-second-factor"],
)
async def test_who_has_no_account_is_named(operate: Operate, command: str) -> None:
    """Nothing is done, and the exit code says so."""
    for address in ("bob@example.com", "no address"):
        code, said, complained = await run(operate, command, address)
        assert (code, said) == (1, "")
        assert complained == f"duplex: There is no account of {address}: sign up first.\n"


async def test_everyone_is_signed_out(operate: Operate, database: SqlDatabase) -> None:
    """Sessions of every account end, on whatever page of the list it is; disabled ones too."""
    now, end = datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)
    users = [await account(database) for _ in range(LISTED_AT_ONCE + 2)]
    signed_in = (users[0], users[0], users[-1])
    async with database.unit_of_work() as uow:
        for number, user in enumerate(signed_in):
            uow.add(Session(id=str(number), user_id=user.id, created_at=now, expires_at=end))
    done = await run(operate, "sign-out", "--everyone")
    assert done == (0, "2 accounts are signed out everywhere.\n", "")
    async with database.reading() as session:
        assert None not in (await session.scalars(select(Session.ended_at))).all()
    for wrong in ([], ["bob@example.com", "--everyone"]):
        code, _, complained = await run(operate, "sign-out", *wrong)
        assert (code, complained) == (
            1,
            "duplex: Name an e-mail address, or say --everyone.\n",
        )
