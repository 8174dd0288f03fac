"""How often something may be done: a `Limit` is one bucket for each client, at both doors.

    posting = Limit("120/minute", name="rooms.post")

    @router.post("/{room_id}/posts", dependencies=[Depends(posting)])

    @on(limit=posting)
    async def post(self, draft: PostDraft) -> Posted: ...

A window begins with the first hit and ends as long after it as the rate says. With REDIS_URL all
processes count together; otherwise each counts for itself. Where Redis is away nothing is refused.
"""

import asyncio
import hashlib
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import Depends
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, Storage
from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.core.auth import Principal, current_user
from app.core.errors import AppError, RateLimited
from app.core.metrics import LIMITS_FAILED_OPEN, count_limited
from app.core.observability import log

ANSWER_SECONDS = 0.25  # that anybody waits for Redis, connecting included
RETRY_SECONDS = 1.0  # while Redis is away one asks it so often, and nobody else waits
CONNECTIONS = 20  # to Redis
MAX_BUCKETS = 100_000  # in memory; what has been counted for longest is forgotten first
SWEEP_SECONDS = 10
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

T = TypeVar("T")
_unnamed: Counter[str] = Counter()


class Limit:
    """So many in so long for each client; as a dependency it counts requests, or handshakes.

    Where one object is used in several places, they share its buckets.

    Args:
        rate: as `10/minute` or `100/2 hours`; second, minute, hour, day, month or year.
        name: what its buckets are called in Redis, and it in headers. Without one it is named
            after its module. Limits of the same name and rate are the same limit.
        by: `user` counts for whoever is signed in, and for an API key by itself; for nobody as
            `address`, which counts for the client's address (of IPv6 its network of 64 bits).

    Raises ValueError where the rate or the name cannot be read.
    """

    __raises__: ClassVar[tuple[type[AppError], ...]] = (RateLimited,)

    def __init__(
        self, rate: str, *, name: str | None = None, by: Literal["user", "address"] = "user"
    ) -> None:
        self.rate = rate_of(rate)
        self.name = name or _name_in(sys._getframe(1).f_globals["__name__"])
        self.by = by
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name such as 'rooms.post'")

    @property
    def seconds(self) -> int:
        """How long its window is."""
        return self.rate.get_expiry()

    async def __call__(self, connection: HTTPConnection) -> None:
        """Count a request, or a handshake once: a channel's guards are asked again and again."""
        counted: set[Limit] = connection.scope["state"].setdefault("counted", set())
        if self in counted:
            return
        counted.add(self)
        if self.by == "user":
            await _identify(connection)
        await limits_of(connection).hit_by(self, connection.scope)

    def bucket(self, kind: str, identity: str) -> str:
        """The key of a client's bucket; of any length and script, and it tells of nobody."""
        whose = f"{kind}:{identity}".encode(errors="surrogatepass")
        digest = hashlib.blake2b(whose, digest_size=16).hexdigest()
        return self.rate.key_for(self.name, digest)


def rate_of(text: str) -> RateLimitItem:
    """A rate, as `10/minute`, as the library has it. Raises ValueError where it is none."""
    rates = parse_many(text)
    if len(rates) != 1 or rates[0].amount < 1 or rates[0].get_expiry() < 1:
        raise ValueError(f"{text!r} is not one rate such as 10/minute")
    return rates[0]


def _name_in(module: str) -> str:
    """A name that every process gives the same limit: they all run the same modules."""
    _unnamed[module] += 1
    short = module.removeprefix("app.").removeprefix("features.")
    return f"{short[-56:]}.{_unnamed[module]}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a client has left of a limit, and the seconds until it has all of it again."""

    limit: Limit
    left: int
    seconds: int


def headers_of(standings: Iterable[Standing]) -> dict[str, str]:
    """The headers `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers)."""
    known = list(standings)
    policies = (f'"{s.limit.name}";q={s.limit.rate.amount};w={s.limit.seconds}' for s in known)
    left = (f'"{s.limit.name}";r={s.left};t={s.seconds}' for s in known)
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(left)}


class Limits:
    """Counts hits, and refuses those above their limit.

    Args:
        url: the Redis in which all processes count; without one this process counts for itself.
        prefix: what the keys in Redis begin with.
        client: the limit on all that a client does, both doors together.
    """

    def __init__(self, url: str | None, prefix: str, *, client: Limit | None = None) -> None:
        self.client = client
        #: Hits that were let through because nobody could count them.
        self.failed_open = 0
        self._storage: Storage = _Memory()
        self._disconnect: Callable[[], Awaitable[None]] | None = None
        self._failures: tuple[type[Exception], ...] = (OSError, TimeoutError)
        if url is not None:
            self._use_redis(url, prefix)
        self._away = False
        self._ask_at = 0.0

    async def hit(self, limit: Limit, key: str) -> None:
        """Count a hit by hand; `key` is whose: an address where it is `by` that, else anything.

        The subject of a user hits the bucket that the limit has for them at the doors.

        Raises RateLimited where the limit is used up.
        """
        await self._hit(limit, *_given(limit, key))

    async def clear(self, limit: Limit, key: str) -> None:
        """Let a bucket be full again, as after the right password."""
        bucket = limit.bucket(*_given(limit, key))
        await self._ask(lambda: self._storage.clear(bucket))

    async def hit_by(self, limit: Limit, scope: Scope) -> None:
        """Count a hit of whoever is at the other end, and note what it leaves for the headers.

        Raises RateLimited where the limit is used up.
        """
        standing = await self._hit(limit, *_whose(limit, scope))
        if standing is not None:
            _standings(scope)[limit] = standing

    async def close(self) -> None:
        """Disconnect from Redis."""
        if self._disconnect is not None:
            await self._disconnect()

    async def _hit(self, limit: Limit, kind: str, identity: str) -> Standing | None:
        bucket = limit.bucket(kind, identity)

        async def count() -> tuple[int, float]:
            used = await self._storage.incr(bucket, limit.seconds)
            return used, await self._storage.get_expiry(bucket) - time.time()

        counted = await self._ask(count)
        if counted is None:
            self.failed_open += 1
            LIMITS_FAILED_OPEN.inc()
            return None
        used, left = counted
        # Redis rounds the time that is left: rather a little later than refused again.
        seconds = min(limit.seconds, max(1, math.ceil(left + 0.5)))
        standing = Standing(limit, max(0, limit.rate.amount - used), seconds)
        if used > limit.rate.amount:
            count_limited(limit.name)
            raise RateLimited(
                f"At most {limit.rate.amount} in {limit.seconds} seconds.",
                retry_after=seconds,
                headers=headers_of([standing]),
            )
        return standing

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """The answer of the storage; None where it does not come, or is not waited for."""
        now = time.monotonic()
        if self._away and now < self._ask_at:
            return None
        self._ask_at = now + RETRY_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await question()
        except self._failures as error:
            self._note_loss(error)
            return None
        if self._away:
            self._away = False
            log.info("limits are counted again", failed_open=self.failed_open)
        return answer

    def _note_loss(self, error: Exception) -> None:
        if not self._away:
            text = str(error) or "no answer in time"
            log.warning("limits are not counted", reason=f"{type(error).__name__}: {text}")
        self._away = True
        self._ask_at = time.monotonic() + RETRY_SECONDS

    def _use_redis(self, url: str, prefix: str) -> None:
        # Only who uses Redis loads its library.
        from limits.aio.storage import RedisStorage  # noqa: PLC0415
        from redis.asyncio.connection import BlockingConnectionPool, parse_url  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415

        options: dict[str, Any] = {
            **parse_url(url),
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": None,  # the time limit is `_ask`'s, over all of it
            "socket_connect_timeout": None,
            "health_check_interval": 0,
            "retry_on_timeout": False,
            "retry": Retry(NoBackoff(), 1),  # the connection may be one to a Redis that restarted
            "max_connections": CONNECTIONS,
            "timeout": None,
        }
        pool = BlockingConnectionPool(**options)
        self._storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{prefix}:limits",
            connection_pool=pool,  # type: ignore[arg-type] # the library's own hint is too narrow
        )
        self._disconnect = pool.aclose
        self._failures += (RedisError,)


class _Memory(MemoryStorage):
    """The library's counters, bounded; it would go through all of them at every hit."""

    def __init__(self) -> None:
        super().__init__()
        self._sweep_at = 0.0

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count in a window that begins with the first hit; returns how many there are in it."""
        now = time.time()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            for old in [each for each, end in self.expirations.items() if end <= now]:
                await self.clear(old)
        if await self.get(key) == 0:  # also where its window has ended
            if len(self.storage) >= MAX_BUCKETS:
                await self.clear(next(iter(self.expirations)))
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]


def limits_of(connection: HTTPConnection) -> Limits:
    """The limits of the application that serves a connection."""
    limits: Limits = connection.app.state.limits
    return limits


def client_address(scope: Scope) -> str:
    """The address that a request or handshake counts for; empty where the server has none."""
    client = scope.get("client")
    return _network(client[0]) if client else ""


def _network(address: str) -> str:
    """An address as it is counted: of IPv6 the network that one subscriber has all to itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), 64), strict=False))


def _standings(scope: Scope) -> dict[Limit, Standing]:
    """What is left of the limits that were hit over this connection."""
    standings: dict[Limit, Standing] = scope["state"].setdefault("limits", {})
    return standings


def _given(limit: Limit, key: str) -> tuple[str, str]:
    return ("address", _network(key)) if limit.by == "address" else ("user", key)


def _whose(limit: Limit, scope: Scope) -> tuple[str, str]:
    principal: Principal | None = scope["state"].get("principal")
    if limit.by == "address" or principal is None:
        return "address", client_address(scope)
    if principal.session.startswith("key:"):
        return "key", principal.session
    return "user", principal.subject


async def _identify(connection: HTTPConnection) -> None:
    """Find out who asks, before any guard does; who proves nothing counts by address."""
    if connection.scope["state"].get("principal") is not None:
        return
    scheme, token = get_authorization_scheme_param(connection.headers.get("Authorization"))
    try:
        await current_user(connection, token if scheme.lower() == "bearer" else None)
    except AppError as refused:
        if refused.status >= 500:
            raise


def whole_client(rate: str) -> Limit | None:
    """The limit of the setting RATE_LIMIT, on all that comes from an address."""
    return Limit(rate, name="client", by="address") if rate else None


async def _limits(connection: HTTPConnection) -> Limits:
    return limits_of(connection)


RateLimits = Annotated[Limits, Depends(_limits)]
"""The limits, injected: for what a service counts by hand."""
