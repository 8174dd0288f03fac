"""Links that are mailed: good once, for a while, for one purpose, and known by their digest.

Whoever asks for a link learns nothing by it: all that is done at once is to write down what was
asked for. A job finds out whether there is such an account, and mails what fits.
"""

import secrets
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import UnitOfWork, delete_some
from app.core.jobs import Job, JobRoutes, JobRun
from app.core.mail import Mailer
from app.core.secrets_at_rest import digest_of
from app.features.accounts.errors import LinkRefused
from app.features.accounts.models import MailedLink, User
from app.features.accounts.users import by_email, email_key, unchanged

REMOVED_AT_ONCE = 5_000

jobs = JobRoutes()


class Purpose(StrEnum):
    """What a mailed link is for; also the name of the mail's template."""

    SIGN_UP = "sign_up"
    CHANGE_EMAIL = "change_email"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - no password


LIFETIMES = {
    Purpose.SIGN_UP: timedelta(hours=24),
    Purpose.CHANGE_EMAIL: timedelta(hours=24),
    Purpose.RESET_PASSWORD: timedelta(hours=1),
}
# What follows the # reaches no server, and so no log.
PLACES = {
    Purpose.SIGN_UP: "confirm",
    Purpose.CHANGE_EMAIL: "email",
    Purpose.RESET_PASSWORD: "reset",
}


class LinkWanted(Job):
    """Somebody wants a link mailed to an address, which may or may not be one of an account."""

    name = "accounts.mail_link"
    purpose: Purpose
    email: str
    called: str = ""  # of a sign-up
    user_id: int | None = None  # who wants another address
    mail: str  # the name that the mail gets


@jobs.on(LinkWanted)
async def mail_link(wanted: LinkWanted, run: JobRun) -> None:
    """Mail the link, or why there is none; either way it is one mail."""
    uow, mail = run.uow, run.state.mail
    owner = await by_email(uow, wanted.email)
    if wanted.user_id is not None and await unchanged(uow, wanted.user_id) is None:
        return  # there is no account any more to have another address
    if wanted.purpose is Purpose.RESET_PASSWORD:
        if owner is None:
            mail.send(uow, to=wanted.email, template="no_account", name=wanted.mail)
        else:
            # As it was signed up with: another spelling may be another mailbox.
            _mail(uow, mail, wanted, to=owner.email, user_id=owner.id)
    elif owner is not None and owner.id != wanted.user_id:
        mail.send(uow, to=owner.email, template="account_exists", name=wanted.mail)
    else:
        _mail(uow, mail, wanted, to=wanted.email, user_id=wanted.user_id)


def _mail(
    uow: UnitOfWork, mail: Mailer, wanted: LinkWanted, *, to: str, user_id: int | None
) -> None:
    token = secrets.token_urlsafe(32)
    lifetime = LIFETIMES[wanted.purpose]
    until = datetime.now(UTC) + lifetime
    uow.add(
        MailedLink(
            digest=digest_of(token),
            purpose=wanted.purpose,
            user_id=user_id,
            email=to,
            email_key=email_key(to),
            name=wanted.called,
            expires_at=until,
        )
    )
    link = f"{mail.public_url}/#{PLACES[wanted.purpose]}?token={token}"
    hours, minutes = int(lifetime / timedelta(hours=1)), int(lifetime / timedelta(minutes=1))
    values: dict[str, Any] = {"link": link, "hours": hours, "minutes": minutes}
    mail.send(uow, to=to, template=wanted.purpose, name=wanted.mail, until=until, **values)


async def look_at(session: AsyncSession, purpose: Purpose, token: str) -> MailedLink:
    """The link of a token, as long as it is good. Raises LinkRefused."""
    link = await session.scalar(select(MailedLink).where(*_good(purpose, token)))
    if link is None:
        raise LinkRefused
    return link


async def use(uow: UnitOfWork, purpose: Purpose, token: str) -> MailedLink:
    """The same, and it is good no more once `uow` has committed; of two at once one gets it.

    What a link belongs to is locked before the link. Raises LinkRefused.
    """
    used = delete(MailedLink).where(*_good(purpose, token)).returning(MailedLink)
    link = await uow.scalar(used)
    if link is None:
        raise LinkRefused
    return link


async def void(uow: UnitOfWork, user: User) -> None:
    """Let no link that was mailed to somebody be good any more."""
    await uow.execute(delete(MailedLink).where(MailedLink.user_id == user.id))


def _good(purpose: Purpose, token: str) -> tuple[ColumnElement[bool], ...]:
    return (
        MailedLink.digest == digest_of(token),
        MailedLink.purpose == purpose,
        MailedLink.expires_at > datetime.now(UTC),
    )


@jobs.every(timedelta(minutes=1), name="accounts.forget_links")
async def forget_links(run: JobRun) -> None:
    """Remove links that are over."""
    old = MailedLink.expires_at <= datetime.now(UTC)
    await delete_some(run.uow, [MailedLink.digest], old, at_most=REMOVED_AT_ONCE)
