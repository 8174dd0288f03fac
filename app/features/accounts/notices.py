"""Notices: mails that tell somebody what has happened to their account, in case it was not them.

    notify(mail, uow, user, Notice.ROLES_CHANGED, roles="admin")

A notice is committed with what it tells of. No limit counts it, so that nobody uses up a limit to
keep somebody from hearing: it is the change that is limited, by a fresh proof and by CHANGES. It
holds no secret, and no link that does anything.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from app.core.caller import current_caller
from app.core.db import UnitOfWork
from app.core.limits import Limit
from app.core.mail import Mailer
from app.features.accounts.models import User
from app.features.accounts.session_list.devices import device

#: For what somebody does as often as they like, each time with a notice.
CHANGES = Limit("30/hour", name="accounts.changes")


class Notice(StrEnum):
    """What has happened; also the name of the mail's template, which says what values it takes."""

    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - no password
    PASSWORD_RESET = "password_reset"  # noqa: S105 - nor this
    EMAIL_CHANGED = "email_changed"  # to the address of before
    EMAIL_CONFIRMED = "email_confirmed"  # to the new one
    SECOND_FACTOR_ADDED = "second_factor_added"
    SECOND_FACTOR_REMOVED = "second_factor_removed"
    SECOND_FACTOR_TAKEN = "second_factor_taken"  # by an administrator
    RECOVERY_CODES_RENEWED = "recovery_codes_renewed"
    KEY_MADE = "key_made"
    IDENTITY_LINKED = "identity_linked"
    IDENTITY_UNLINKED = "identity_unlinked"
    ROLES_CHANGED = "roles_changed"
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_ENABLED = "account_enabled"
    ACCOUNT_DELETED = "account_deleted"


def notify(
    mail: Mailer,
    uow: UnitOfWork,
    user: User,
    notice: Notice,
    *,
    to: str | None = None,
    **values: str | int,
) -> None:
    """Have somebody told by mail, once `uow` has committed, what has happened to their account.

    Args:
        mail: the mail of the service.
        uow: the unit of work that does it.
        user: whose account it is.
        notice: what has happened.
        to: another address than the account's.
        values: what the template takes beside `at`, `device` and `address`: when it was done, and
            from where.
    """
    caller = current_caller()
    told: dict[str, Any] = values | {
        "at": f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        "device": device(caller.agent),
        "address": caller.address,
    }
    mail.send(uow, to=to or user.email, template=notice, **told)
