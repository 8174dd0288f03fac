"""How often accounts are knocked at: from one network, and at the door of one address.

An address counts by its fingerprint, whether there is an account or not.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import OAuth2PasswordRequestForm
from starlette.requests import HTTPConnection

from app.core.errors import RateLimited, raises
from app.core.limits import Limit, Limits, limits_of
from app.features.accounts.fingerprints import Fingerprints

#: Many people share a network: guessing is stopped at the account before.
LOG_INS = Limit("300/minute", name="accounts.log_in", by="address")
LOG_INS_OF_ONE = Limit("60/minute", name="accounts.log_in.account")
MAILS = Limit("200/hour", name="accounts.mail", by="address")
MAILS_TO_ONE = Limit("5/hour", name="accounts.mail.account")


@dataclass(frozen=True, slots=True)
class Throttle:
    """Counts log-ins, and the mail that anybody can have sent to an address."""

    limits: Limits
    fingerprints: Fingerprints

    async def log_in(self, whose: str) -> None:
        """Count a log-in to an account that is known. Raises RateLimited."""
        await self.limits.hit(LOG_INS_OF_ONE, self.fingerprints.of(whose))

    async def mail(self, address: str) -> None:
        """Count a mail. Raises RateLimited."""
        await self.limits.hit(MAILS_TO_ONE, self.fingerprints.of(address))


@raises(RateLimited)
async def _throttle(connection: HTTPConnection) -> Throttle:
    return Throttle(limits_of(connection), connection.app.state.fingerprints)


Throttled = Annotated[Throttle, Depends(_throttle)]
"""The throttle, injected."""


@raises(RateLimited)
async def _count_log_in(
    connection: HTTPConnection, form: Annotated[OAuth2PasswordRequestForm, Depends()]
) -> None:
    fingerprint = connection.app.state.fingerprints.of(form.username)
    await limits_of(connection).hit(LOG_INS_OF_ONE, fingerprint)


#: For whatever takes an address and a password: `dependencies=COUNTED_LOG_IN`.
COUNTED_LOG_IN = [Depends(LOG_INS), Depends(_count_log_in)]
