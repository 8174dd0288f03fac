"""Sign-up by a mailed link: who has no mailbox gets no account, and learns of none."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from statistics import median
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from app.core.db import SqlDatabase
from app.features.accounts.models import MailedLink, User
from tests.features.accounts.holders import Holder, holder, outcome, recorded
from tests.features.accounts.mailbox import Mailbox, ask, statements, text_of
from tests.features.accounts.people import PASSWORD, facts, log_in, me
from tests.features.accounts.test_sign_up import HOSTILE
from tests.server import RunningServer

REFUSED = (410, "accounts.link_refused")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def mailbox(common: RunningServer) -> Mailbox:
    """What is mailed."""
    return Mailbox(common)


def new_address() -> str:
    """An address that nobody has."""
    return f"{uuid4().hex}@example.com"


async def let_link_end(database: SqlDatabase, email: str) -> None:
    """Let the links that were mailed to an address be over."""
    over = update(MailedLink).where(MailedLink.email == email).values(expires_at=LONG_AGO)
    async with database.unit_of_work() as uow:
        await uow.execute(over)


async def test_whoever_follows_the_link_has_an_account_and_is_signed_in(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """The address is as it was written, the password as chosen, and the link is good no more."""
    email = f"Ann.{uuid4().hex}@Example.com"
    async with common.client() as client:
        asked = await ask(client, "sign-up", email=email, name="  Ann ")
        assert (asked.status_code, asked.json()) == (202, {"email": email})
        assert outcome(await log_in(client, email)) == (401, "accounts.wrong_credentials")
        token = await mailbox.token(email)
        before = await ask(client, "confirm", token=token + "a", password=PASSWORD)
        assert outcome(before) == REFUSED
        made = await ask(client, "confirm", token=token, password=PASSWORD)
        assert made.status_code == 201, made.text
        assert made.headers["Cache-Control"] == "no-store"
        account = made.json().pop("account")
        assert made.json().keys() - {"account"} == {
            *("access_token", "token_type", "expires_in", "refresh_token")
        }
        assert (account["email"], account["name"], account["roles"]) == (email, "Ann", [])
        assert (await me(client, made.json()["access_token"])).json() == account
        assert (await log_in(client, email)).status_code == 200
        again = await ask(client, "confirm", token=token, password=PASSWORD)
        assert outcome(again) == REFUSED
    person = Holder(common, account["id"], email)
    assert (await recorded(stored, person))[:2] == ["account.created", "session.begun"]


async def test_nothing_tells_whether_an_address_has_an_account(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """The same answer after the same statements, and one mail: only that says which it is."""
    ann, nobody = await holder(common, stored), new_address()
    for path, subjects in (
        ("sign-up", {ann.email: "already", nobody: "Choose a password"}),
        ("password/forgot", {ann.email: "Choose another", nobody: "There is no account"}),
    ):
        body = {"name": "Ann"} if path == "sign-up" else {}
        answers, done, mails = [], [], Counter[str]()
        for email, subject in subjects.items():
            number = len(mailbox.to(email)) + 1
            with statements(common, "the test") as seen:
                async with common.client() as client:
                    client.headers["User-Agent"] = "the test"
                    answer = await ask(client, path, email=email, **body)
            mail = await mailbox.mail(email, number)
            assert subject in mail["Subject"]
            mails[email] = len(mailbox.to(email)) - number + 1
            assert (answer.status_code, answer.json()) == (202, {"email": email})
            answers.append({k: v for k, v in answer.headers.items() if k in SAME_HEADERS})
            done.append(seen)
        assert answers[0] == answers[1]
        assert done[0] == done[1]
        assert len([statement for statement in done[0] if statement.startswith("INSERT")]) == 1
        assert set(mails.values()) == {1}
    async with stored.reading() as session:
        of = select(MailedLink.purpose, MailedLink.user_id)
        links = {
            email: (await session.execute(of.where(MailedLink.email == email))).all()
            for email in (ann.email, nobody)
        }
    assert links == {ann.email: [("reset_password", ann.id)], nobody: [("sign_up", None)]}


SAME_HEADERS = {"content-type", "content-length", "cache-control", "vary", "set-cookie"}


async def test_it_takes_as_long_for_an_address_that_has_an_account(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """By the medians of sign-ups and of forgotten passwords, in turns."""
    people = [(await holder(common, stored)).email for _ in range(8)]
    for path, body in (("sign-up", {"name": "Ann"}), ("password/forgot", {})):
        times: dict[bool, list[float]] = {True: [], False: []}
        async with common.client() as client:
            for email in people:
                for known in (True, False):
                    address = email if known else new_address()
                    started = time.perf_counter()
                    assert (await ask(client, path, email=address, **body)).status_code == 202
                    times[known].append(time.perf_counter() - started)
        quicker, slower = sorted(map(median, times.values()))
        assert slower < quicker * 1.5 + 0.005, path


async def test_what_strangers_say_of_themselves_is_in_no_mail(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """Or anybody could have anything mailed to anybody: a name, or another's address."""
    ann, nobody, name = (
        await holder(common, stored),
        new_address(),
        "Free prizes http://evil.example",
    )
    async with common.client() as client:
        for email in (ann.email, nobody):
            await ask(client, "sign-up", email=email, name=name)
            said = str(await mailbox.mail(email))
            assert "evil" not in said
            assert "prizes" not in said


async def test_of_two_at_once_one_uses_the_link(common: RunningServer, mailbox: Mailbox) -> None:
    """The other is told that it is good no more; there is one account."""
    email = new_address()
    async with common.client() as client:
        await ask(client, "sign-up", email=email, name="Ann")
        token = await mailbox.token(email)
        answers = await asyncio.gather(
            *(ask(client, "confirm", token=token, password=PASSWORD) for _ in range(5))
        )
    assert Counter(answer.status_code for answer in answers) == {201: 1, 410: 4}


async def test_a_second_link_makes_no_second_account(
    common: RunningServer, mailbox: Mailbox
) -> None:
    """Whoever was slower is told that there is one; they have the mailbox, so they may know."""
    email = new_address()
    async with common.client() as client:
        for _ in range(2):
            await ask(client, "sign-up", email=email, name="Ann")
        tokens = [await mailbox.token(email, number) for number in (1, 2)]
        answers = [await ask(client, "confirm", token=each, password=PASSWORD) for each in tokens]
    assert answers[0].status_code == 201
    assert outcome(answers[1]) == (409, "accounts.email_taken")


async def test_a_link_ends_and_is_good_for_one_purpose(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """After 24 hours it is refused as an unknown one is; no link does what another is for."""
    ann, nobody = await holder(common, stored), new_address()
    async with common.client() as client:
        await ask(client, "sign-up", email=nobody, name="Ann")
        await ask(client, "password/forgot", email=ann.email)
        new, reset = await mailbox.token(nobody), await mailbox.token(ann.email)
        for path, token in (
            *(("confirm", reset), ("password/reset", new)),
            *(("confirm", "nonsense"), ("password/reset", "\U0001f600")),
        ):
            answer = await ask(client, path, token=token, password=PASSWORD)
            assert outcome(answer) == REFUSED
        for token in (new, reset):
            assert outcome(await ask(client, "email/confirm", token=token)) == REFUSED
        async with stored.reading() as session:
            ends = await session.scalar(
                select(MailedLink.expires_at).where(MailedLink.email == nobody)
            )
        assert ends
        assert timedelta(hours=23.9) < ends - datetime.now(UTC) <= timedelta(hours=24)
        await let_link_end(stored, nobody)
        late = await ask(client, "confirm", token=new, password=PASSWORD)
        unknown = await ask(client, "confirm", token="unknown", password=PASSWORD)
    assert outcome(late) == REFUSED
    assert facts(late) == facts(unknown)


async def test_a_password_that_is_guessed_first_is_refused_and_the_link_stays_good(
    common: RunningServer, mailbox: Mailbox
) -> None:
    """The field is named and not what it held; nine characters, two hundred and one, too."""
    email = f"felicity.{uuid4().hex[:8]}@example.com"
    async with common.client() as client:
        await ask(client, "sign-up", email=email, name="Felicity Jones")
        token = await mailbox.token(email)
        for password, kind in (
            ("a" * 9, "password_length"),
            ("ab" * 101, "password_length"),
            ("Password123!", "password_common"),
            ("1111111111", "password_pattern"),
            ("felicity-jones", "password_personal"),
            (email, "password_personal"),
        ):
            answer = await ask(client, "confirm", token=token, password=password)
            assert outcome(answer) == (422, "invalid_parameter"), password
            (error,) = answer.json()["errors"]
            assert (error["loc"], error["type"]) == (["body", "password"], kind)
            assert password not in answer.text
        made = await ask(client, "confirm", token=token, password="x" + PASSWORD)
        assert made.status_code == 201


async def test_what_is_no_address_is_refused(common: RunningServer) -> None:
    """As at every door; nothing is mailed."""
    # test_sign_up sends the others, as escapes.
    hostile = [each for each in HOSTILE if not isinstance(each, str) or each.isprintable()]
    async with common.client() as client:
        asking = [ask(client, "sign-up", email=address, name="Ann") for address in hostile]
        asking += [ask(client, "password/forgot", email=address) for address in hostile[:3]]
        for answer in await asyncio.gather(*asking):
            assert outcome(answer) == (422, "invalid_parameter")


async def test_somebodys_address_is_mailed_to_so_often_and_no_more(common: RunningServer) -> None:
    """Five in an hour by whatever spelling and request, whether there is an account or not."""
    name = uuid4().hex
    async with common.client() as client:
        for address in (f"{name}@example.com", f"{name.upper()}@EXAMPLE.com") * 2:
            assert (await ask(client, "password/forgot", email=address)).status_code == 202
        asked = await ask(client, "sign-up", email=f"{name}@example.com", name="Ann")
        assert asked.status_code == 202
        refused = await ask(client, "password/forgot", email=f"{name}@example.com")
    assert outcome(refused) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 3000


async def test_links_that_are_over_are_removed(common: RunningServer, stored: SqlDatabase) -> None:
    """By a job; those that are good stay."""
    from starlette.datastructures import State

    from app.core.jobs import JobRun
    from app.features.accounts.people.links import forget_links

    now = datetime.now(UTC)
    names = {uuid4().hex: now - timedelta(seconds=1), uuid4().hex: now + timedelta(minutes=1)}
    async with stored.unit_of_work() as uow:
        for digest, ends in names.items():
            link = {"digest": digest, "purpose": "sign_up", "email": "a@b.c", "email_key": "a@b.c"}
            uow.add(MailedLink(**link, expires_at=ends))
    async with stored.unit_of_work() as uow:
        await forget_links(JobRun(uow, State(), 1, 1))
    async with stored.reading() as session:
        left = select(MailedLink.digest).where(MailedLink.digest.in_(names))
        assert (await session.scalars(left)).all() == list(names)[1:]
    assert common.app.state.jobs.routes.get("accounts.forget_links").every == timedelta(minutes=1)


async def test_a_link_is_in_the_database_as_a_digest_and_its_fragment_reaches_no_server(
    common: RunningServer, stored: SqlDatabase, mailbox: Mailbox
) -> None:
    """Whoever reads the tables can open nothing with what they find."""
    email = new_address()
    async with common.client() as client:
        await ask(client, "sign-up", email=email, name="Ann")
        mail = await mailbox.mail(email)
    token = await mailbox.token(email)
    assert f"/#confirm?token={token}" in text_of(mail)
    async with stored.reading() as session:
        row = (await session.scalars(select(MailedLink).where(MailedLink.email == email))).one()
        assert await session.scalar(select(User.id).where(User.email == email)) is None
    assert token not in (row.digest, row.name)
    assert len(row.digest) == 64
