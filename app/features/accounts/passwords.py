"""Passwords: argon2id off the event loop, so many at once and no more."""

import anyio.to_thread
from anyio import CapacityLimiter
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.core.errors import Overloaded

WAITING_PER_WORKER = 32


class Passwords:
    """Hashes and verifies with OWASP's parameters (19 MiB, 2 passes, 1 lane).

    Args:
        workers: how many are hashed at once; 32 times as many may wait, the next is refused.
    """

    def __init__(self, workers: int) -> None:
        self._hash = PasswordHash([Argon2Hasher(memory_cost=19_456, time_cost=2, parallelism=1)])
        self._limiter = CapacityLimiter(workers)
        self._most_waiting = workers * WAITING_PER_WORKER
        # Verified against where there is no account, so that this takes as long as if there were.
        self._nobody = self._hash.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Overloaded."""
        self._check_queue()
        return await anyio.to_thread.run_sync(self._hash.hash, password, limiter=self._limiter)

    async def verify(self, password: str, stored: str | None) -> tuple[bool, str | None]:
        """Whether the password is right, and a new hash where the stored one is out of date.

        `stored` is None where there is no account: the answer is no, after the same work.
        Raises Overloaded.
        """
        self._check_queue()
        right, renewed = await anyio.to_thread.run_sync(
            self._hash.verify_and_update, password, stored or self._nobody, limiter=self._limiter
        )
        return right and stored is not None, renewed if stored else None

    def _check_queue(self) -> None:
        if self._limiter.statistics().tasks_waiting >= self._most_waiting:
            raise Overloaded("Too many people are signing in at once.", retry_after=5)
