"""Passwords: argon2id off the event loop, so many at once and no more."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.core.errors import Overloaded

PASSWORD_MIN, PASSWORD_MAX = 10, 200
WAITING_PER_WORKER = 32
T = TypeVar("T")


def _argon2() -> PasswordHash:
    """With OWASP's parameters: 19 MiB, 2 passes, 1 lane."""
    return PasswordHash([Argon2Hasher(memory_cost=19_456, time_cost=2, parallelism=1)])


@cache
def _nobody() -> str:
    """What is verified against where there is no account: it takes as long as if there were."""
    return _argon2().hash("nobody has this password")


class Passwords:
    """Hashes and verifies, several at once.

    Args:
        workers: how many are hashed at once; 32 times as many may wait, the next is refused.
    """

    def __init__(self, workers: int) -> None:
        self._hash = _argon2()
        self._nobody = _nobody()
        self._limiter = CapacityLimiter(workers)
        self._places = workers + workers * WAITING_PER_WORKER

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Overloaded."""
        return await self._in_turn(self._hash.hash, password)

    async def verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Whether the password is right, and a new hash where the stored one is out of date.

        `stored` is None where there is no account, and empty where there is one without a
        password: the answer is no, after the same work.
        Raises Overloaded.
        """
        right, renewed = await self._in_turn(
            self._hash.verify_and_update, password, stored or self._nobody
        )
        return right and bool(stored), renewed if stored else None

    async def _in_turn(self, work: Callable[..., T], *args: str) -> T:
        # Counted here: the limiter counts whoever waits only some steps of the loop later.
        if not self._places:
            raise Overloaded("Too many people are signing in at once.", retry_after=5)
        self._places -= 1
        try:
            return await anyio.to_thread.run_sync(work, *args, limiter=self._limiter)
        finally:
            self._places += 1
