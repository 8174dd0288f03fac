"""Whether an address can be mailed to at all, as far as the DNS knows (RFC 5321 section 5.1)."""

import asyncio

import anyio.to_thread
from anyio import CapacityLimiter
from dns.exception import DNSException
from dns.resolver import NXDOMAIN, NoAnswer, Resolver
from email_validator import EmailUndeliverableError, caching_resolver, validate_email

from app.core.errors import FieldError, InvalidParameter
from app.core.observability import log

QUESTION_SECONDS = 3
CHECK_SECONDS = 4.0  # several questions, and waiting for a thread
THREADS = 8


class Deliverability:
    """Asks the DNS about new addresses; where it does not answer in time, nothing is refused.

    Args:
        ask: whether it is asked at all.
    """

    def __init__(self, *, ask: bool) -> None:
        self.resolver = _resolver() if ask else None
        self._limiter = CapacityLimiter(THREADS)

    async def check(self, address: str) -> None:
        """Raise InvalidParameter where the DNS says that the address of a body takes no mail."""
        if self.resolver is None:
            return
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                refused = await anyio.to_thread.run_sync(
                    self._refusal,
                    address,
                    self.resolver,
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
        except TimeoutError:
            return
        if refused:
            error: FieldError = {
                "loc": ["body", "email"],
                "msg": refused,
                "type": "email_undeliverable",
            }
            raise InvalidParameter(errors=[error])

    def _refusal(self, address: str, resolver: Resolver) -> str | None:
        try:
            validate_email(address, check_deliverability=True, dns_resolver=resolver)
        except EmailUndeliverableError as error:
            # The library refuses as well where the DNS cannot be read; that is no reason here.
            if error.__cause__ is None or isinstance(error.__cause__, NXDOMAIN | NoAnswer):
                return "This address takes no mail"
        return None


def _resolver() -> Resolver | None:
    try:
        return caching_resolver(timeout=QUESTION_SECONDS)
    except DNSException as error:
        log.warning("addresses are not checked", reason=type(error).__name__)
        return None
