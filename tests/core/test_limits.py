"""A limit refuses the one too many, says when there is more, and never takes the service down."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from app.core import limits as module
from app.core.auth import CurrentUser, Principal, has_scope
from app.core.errors import NotFound, RateLimited, raises
from app.core.limits import Limit, Limits, RateLimits
from tests.conftest import settings_for
from tests.redis import OwnRedis
from tests.server import RunningServer

THRICE = Limit("3/minute")
OFTEN = Limit("1000/minute")


@pytest.fixture(scope="module")
def redis() -> Iterator[OwnRedis]:
    """A Redis server that the tests of this module share."""
    with OwnRedis() as redis:
        yield redis


@pytest.fixture(params=["memory", "redis"])
async def limits(request: pytest.FixtureRequest) -> AsyncIterator[Limits]:
    """Limits over each storage."""
    kind: str = request.param
    url = request.getfixturevalue("redis").url if kind == "redis" else None
    made = Limits(url, "test")
    yield made
    assert made.failed_open == 0
    await made.close()


@pytest.fixture
async def open_limits() -> AsyncIterator[Callable[..., Limits]]:
    """Makes limits as another process has them."""
    made: list[Limits] = []

    def make(url: str | None, prefix: str = "test") -> Limits:
        made.append(Limits(url, prefix))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def passed(limits: Limits, limit: Limit, key: str, times: int) -> int:
    """How many of so many hits are let through."""
    number = 0
    for _ in range(times):
        try:
            await limits.hit(limit, key)
        except RateLimited:
            continue
        number += 1
    return number


async def test_the_one_too_many_is_refused(limits: Limits) -> None:
    """It says when there is more; somebody else is not refused."""
    key = uuid4().hex
    assert await passed(limits, THRICE, key, 3) == 3
    with pytest.raises(RateLimited) as refused:
        await limits.hit(THRICE, key)
    error = refused.value
    assert (error.status, error.close_code, error.retryable) == (429, 4429, True)
    assert error.detail == "At most 3 in 60 seconds."
    assert error.retry_after in (59, 60)
    assert error.headers == {
        "Retry-After": f"{error.retry_after}",
        "RateLimit-Policy": f'"{THRICE.name}";q=3;w=60',
        "RateLimit": f'"{THRICE.name}";r=0;t={error.retry_after}',
    }
    assert await passed(limits, THRICE, uuid4().hex, 4) == 3


async def test_a_bucket_is_full_again_once_it_is_cleared(limits: Limits) -> None:
    """Whoever proved to be the right one begins anew; others keep what they have."""
    key, other = uuid4().hex, uuid4().hex
    assert await passed(limits, THRICE, key, 4) == await passed(limits, THRICE, other, 4) == 3
    await limits.clear(THRICE, key)
    assert (await passed(limits, THRICE, key, 4), await passed(limits, THRICE, other, 1)) == (3, 0)


async def test_a_window_ends_when_it_was_said(
    redis: OwnRedis, open_limits: Callable[..., Limits]
) -> None:
    """After `retry_after` seconds there is all of it again, in memory and in Redis."""
    twice, both = Limit("2/second"), [open_limits(None), open_limits(redis.url)]
    for limits in both:
        assert await passed(limits, twice, "ann", 2) == 2
        with pytest.raises(RateLimited) as refused:
            await limits.hit(twice, "ann")
        assert refused.value.retry_after == 1
    await asyncio.sleep(1.01)
    assert [await passed(limits, twice, "ann", 3) for limits in both] == [2, 2]


async def test_of_many_at_once_as_many_as_allowed_pass(limits: Limits) -> None:
    """Of sixty hits at one moment ten are let through."""
    ten, key = Limit("10/minute"), uuid4().hex
    assert sum(await asyncio.gather(*(passed(limits, ten, key, 1) for _ in range(60)))) == 10


@pytest.mark.parametrize("key", ["", "ann/bob", "Ännchen 😀", "\ud800", "x" * 100_000])
async def test_a_key_may_be_anything(limits: Limits, key: str) -> None:
    """Its length and script do not matter."""
    limit = Limit("2/minute")
    assert await passed(limits, limit, key, 3) == 2
    assert await passed(limits, limit, f"{key}.", 3) == 2


async def test_an_address_is_a_network(limits: Limits) -> None:
    """IPv6 counts by 64 bits, which are one subscriber's; IPv4 in IPv6 is IPv4."""
    limit = Limit("2/minute", by="address")
    for same in (["2001:db8::1", "2001:DB8:0:0:ffff::2"], ["192.0.2.1", "::ffff:192.0.2.1"]):
        assert [await passed(limits, limit, address, 1) for address in same] == [1, 1]
        assert [await passed(limits, limit, address, 1) for address in same] == [0, 0]
    for other in ("2001:db8:0:1::1", "192.0.2.2", "unix"):
        assert await passed(limits, limit, other, 3) == 2


def test_each_limit_has_a_name_of_its_own() -> None:
    """One that is given none is named after its module, in each process alike."""
    one, two = Limit("1/minute"), Limit("1/minute")
    assert one.name != two.name
    assert one.name.startswith("tests.core.test_limits.")
    assert Limit("1/minute", name="posts").bucket("user", "1") == Limit(
        "1 per minute", name="posts"
    ).bucket("user", "1")


@pytest.mark.parametrize(
    ("rate", "name"),
    [("", "x"), ("10", "x"), ("0/minute", "x"), ("1/minute; 2/hour", "x"), ("1/minute", 'a"b')],
)
def test_what_is_no_limit_is_refused_where_it_is_written(rate: str, name: str) -> None:
    """A rate or a name that cannot be read fails at import."""
    with pytest.raises(ValueError, match=r"is no|parse"):
        Limit(rate, name=name)


async def test_processes_count_together_in_redis_only(
    redis: OwnRedis, open_limits: Callable[..., Limits]
) -> None:
    """With one Redis and one prefix a bucket is shared; in memory each process has its own."""
    key = uuid4().hex
    both = [open_limits(redis.url) for _ in range(2)]
    assert [await passed(each, THRICE, key, 2) for each in both] == [2, 1]
    assert await passed(open_limits(redis.url, "other"), THRICE, key, 4) == 3
    assert [await passed(open_limits(None), THRICE, key, 4) for _ in range(2)] == [3, 3]


async def test_keys_in_redis_end_by_themselves_and_name_nobody(
    redis: OwnRedis, open_limits: Callable[..., Limits]
) -> None:
    """They begin with the prefix, expire with their window, and hold no address."""
    await open_limits(redis.url, "named").hit(THRICE, "ann@example.com")
    with redis.client() as client:
        keys = [key for key in client.scan_iter("*") if key.startswith(b"named")]
        assert keys == [key for key in keys if key.startswith(b"named:limits:")]
        assert len(keys) == 1
        assert b"ann" not in keys[0]
        assert 0 < int(client.ttl(keys[0])) <= 60


async def test_in_memory_there_are_only_so_many_buckets(
    open_limits: Callable[..., Limits], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been counted for longest is forgotten first, and what has ended all at once."""
    monkeypatch.setattr(module, "MAX_BUCKETS", 3)
    limits = open_limits(None)
    storage = limits._storage
    assert isinstance(storage, module._Memory)
    for key in "abcd":
        await passed(limits, THRICE, key, 3)
    assert len(storage.storage) == len(storage.expirations) == 3
    assert [await passed(limits, THRICE, key, 1) for key in "bcda"] == [0, 0, 0, 1]
    for bucket in storage.expirations:
        storage.expirations[bucket] = time.time()
    storage._sweep_at = 0
    assert await passed(limits, THRICE, "e", 1) == 1
    assert len(storage.storage) == len(storage.expirations) == 1


async def test_without_redis_everything_is_let_through(
    own_redis: OwnRedis,
    open_limits: Callable[..., Limits],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is counted and told once; when Redis is back the limits hold, and that is told."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    caplog.set_level(logging.INFO, "duplex")
    limits = open_limits(own_redis.url)
    assert await passed(limits, THRICE, "ann", 4) == 3
    own_redis.kill()
    assert await passed(limits, THRICE, "ann", 50) == 50
    await limits.clear(THRICE, "ann")
    assert limits.failed_open == 50
    own_redis.start()
    async with asyncio.timeout(5):
        while await passed(limits, THRICE, "ann", 1):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert limits.failed_open >= 50
    told = [(record.levelname, record.msg["event"]) for record in caplog.records]  # type: ignore[index]
    assert told == [("WARNING", "limits are not counted"), ("INFO", "limits are counted again")]


async def test_nobody_waits_long_for_a_redis_that_hangs(
    own_redis: OwnRedis, open_limits: Callable[..., Limits]
) -> None:
    """Whoever finds out waits a quarter of a second, those at that moment too; the others not."""
    limits = open_limits(own_redis.url)
    await limits.hit(OFTEN, "ann")
    own_redis.hang()
    started = time.monotonic()
    await asyncio.gather(*(limits.hit(OFTEN, "ann") for _ in range(100)))
    assert 0.2 < time.monotonic() - started < 5
    started = time.monotonic()
    await passed(limits, OFTEN, "ann", 100)
    assert time.monotonic() - started < 2
    assert limits.failed_open == 200


async def test_a_redis_that_restarted_is_asked_at_once(
    own_redis: OwnRedis, open_limits: Callable[..., Limits]
) -> None:
    """The connections that died with it cost nobody the limit."""
    limits = open_limits(own_redis.url)
    assert await passed(limits, THRICE, "ann", 4) == 3
    own_redis.restart()
    assert await passed(limits, THRICE, "ann", 4) == 3
    assert limits.failed_open == 0


async def test_no_password_is_logged(
    open_limits: Callable[..., Limits], caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that refuses us is one that is away, and the log says only that."""
    with OwnRedis(("--requirepass", "right")) as redis:
        limits = open_limits(redis.url.replace("//", "//:hunter2@"))
        assert await passed(limits, THRICE, "ann", 5) == 5
        assert await passed(open_limits(redis.url.replace("//", "//:right@")), THRICE, "a", 4) == 3
    assert limits.failed_open == 5
    assert "limits are not counted" in caplog.text
    assert "hunter2" not in caplog.text


router = APIRouter(prefix="/limited")
by_user = Limit("3/minute", name="by.user")
by_address = Limit("1000/minute", name="by.address", by="address")
nobody = Limit("2/minute", name="nobody")
by_hand = Limit("2/minute", name="by.hand")


@router.get("", dependencies=[Depends(by_user), Depends(by_address)])
async def limited(user: CurrentUser) -> str:
    """Nothing but a limit for each user and for each address."""
    return user.subject


@router.get("/gone", dependencies=[Depends(by_user)])
@raises(NotFound)
async def gone() -> None:
    """Never there."""
    raise NotFound


@router.get("/plain", dependencies=[Depends(by_user)])
async def plain() -> PlainTextResponse:
    """A response of the route's own."""
    return PlainTextResponse("Hello.")


@router.get("/open", dependencies=[Depends(nobody)])
async def for_anybody() -> None:
    """Nobody has to sign in."""


@router.get("/keyed", dependencies=[Depends(by_user)])
async def keyed(user: Annotated[Principal, Depends(has_scope())]) -> str:
    """Open to keys."""
    return user.session


@router.get("/by-hand/{key}")
@raises(RateLimited)
async def count_by_hand(key: str, limits: RateLimits) -> None:
    """A service that counts by itself."""
    await limits.hit(by_hand, key)


@router.get("/free")
async def free() -> None:
    """No limit at all."""


@router.post("/body")
async def take(body: dict[str, Any]) -> None:
    """Take a body."""


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """One server for the tests of this module, which are different people."""
    with RunningServer(settings_for(new_sqlite()), router) as server:
        yield server


@pytest.fixture
async def ann(server: RunningServer) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody who was never there before."""
    async with server.client(server.token(uuid4().hex)) as client:
        yield client


def left(response: httpx2.Response, name: str) -> tuple[int, int]:
    """The `r` and `t` of a limit in the header."""
    parts = dict(part.split(";", 1) for part in response.headers["RateLimit"].split(", "))
    r, t = parts[f'"{name}"'].split(";")
    return int(r.removeprefix("r=")), int(t.removeprefix("t="))


async def test_headers_tell_what_is_left(ann: httpx2.AsyncClient) -> None:
    """Each answer of a limited route has the policies and what is left, the refusal too."""
    for remaining in (2, 1, 0):
        answer = await ann.get("/limited")
        assert answer.status_code == 200
        policies = '"by.user";q=3;w=60, "by.address";q=1000;w=60'
        assert answer.headers["RateLimit-Policy"] == policies
        assert left(answer, "by.user")[0] == remaining
        assert 58 <= left(answer, "by.user")[1] <= 60
    refused = await ann.get("/limited")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == str(refused.json()["retry_after"])
    assert left(refused, "by.user") == (0, refused.json()["retry_after"])
    assert "RateLimit" not in (await ann.get("/limited/free")).headers


@pytest.mark.parametrize(("path", "status"), [("gone", 404), ("plain", 200)])
async def test_headers_are_on_every_kind_of_answer(
    ann: httpx2.AsyncClient, path: str, status: int
) -> None:
    """Errors and responses that a route made itself have them as well."""
    answer = await ann.get(f"/limited/{path}")
    assert (answer.status_code, left(answer, "by.user")[0]) == (status, 2)


async def test_routes_share_the_limit_that_they_share(ann: httpx2.AsyncClient) -> None:
    """Two places with one object are one bucket."""
    for path in ("", "/plain", "/gone"):
        assert (await ann.get(f"/limited{path}")).status_code != 429
    assert (await ann.get("/limited/plain")).status_code == 429


async def test_everybody_has_a_bucket_of_their_own(
    server: RunningServer, ann: httpx2.AsyncClient
) -> None:
    """One user's refusal is none of another's, at the same address."""
    assert [(await ann.get("/limited/plain")).status_code for _ in range(4)] == [200] * 3 + [429]
    async with server.client(server.token(uuid4().hex)) as bob:
        assert (await bob.get("/limited/plain")).status_code == 200


async def test_who_is_not_signed_in_counts_by_address(server: RunningServer) -> None:
    """Without a token, and with one that is not valid, there is one bucket."""
    async with server.client() as nobody, server.client("forged") as forger:
        assert [(await nobody.get("/limited/open")).status_code for _ in range(2)] == [200] * 2
        assert (await nobody.get("/limited/open")).status_code == 429
        assert (await forger.get("/limited/open")).status_code == 429
    async with server.client(server.token(uuid4().hex)) as ann:
        assert (await ann.get("/limited/open")).status_code == 200


async def test_an_api_key_counts_for_itself(server: RunningServer) -> None:
    """Two keys of one user have a bucket each, beside that of the user."""
    user = uuid4().hex
    now = datetime.now(UTC)

    async def key(connection: HTTPConnection, token: str | None) -> Principal | None:
        if not (token or "").startswith("key:"):
            return None
        return Principal(user, "Ann", str(token), frozenset(), now, now + timedelta(hours=1))

    server.app.state.credentials.append(key)
    try:
        for token in (f"key:1{user}", f"key:2{user}", server.token(user)):
            async with server.client(token) as client:
                codes = [(await client.get("/limited/keyed")).status_code for _ in range(4)]
                assert codes == [200] * 3 + [429]
    finally:
        server.app.state.credentials.remove(key)


async def test_a_service_counts_by_hand(server: RunningServer) -> None:
    """What it is given is the key; the refusal is the same, headers included."""
    async with server.client() as client:
        codes = [(await client.get("/limited/by-hand/a")).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        refused = await client.get("/limited/by-hand/a")
        assert left(refused, "by.hand") == (0, int(refused.headers["Retry-After"]))
        assert (await client.get("/limited/by-hand/b")).status_code == 200


async def test_the_documents_tell_of_limits(server: RunningServer) -> None:
    """OpenAPI lists the refusal where there is a limit, and only there."""
    async with server.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    answers = paths["/limited/open"]["get"]["responses"]["429"]
    assert "rate_limited" in answers["content"]["application/problem+json"]["examples"]
    assert "429" not in paths["/limited/free"]["get"]["responses"]


async def test_pages_of_elsewhere_may_read_the_headers(serve: Callable[..., RunningServer]) -> None:
    """CORS exposes what tells of limits."""
    server = serve(allowed_origins=["https://app.example.com"])
    async with server.client() as client:
        answer = await client.get("/health/live", headers={"Origin": "https://app.example.com"})
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert {"RateLimit", "RateLimit-Policy", "Retry-After"} <= set(exposed.split(", "))


async def test_a_client_as_a_whole_is_limited(serve: Callable[..., RunningServer]) -> None:
    """Whatever is asked for counts, of whoever is at the address; the health checks do not."""
    server = serve(router, rate_limit="5/minute")
    async with server.client() as nobody, server.client(server.token()) as ann:
        for number in range(4):
            answer = await (ann if number % 2 else nobody).get("/limited/free")
            assert left(answer, "client")[0] == 4 - number
        assert (await nobody.get("/health/live")).status_code == 200
        last = await ann.get("/limited")
        assert last.headers["RateLimit-Policy"].count(";q=") == 3
        assert (last.status_code, left(last, "client")[0], left(last, "by.user")[0]) == (200, 0, 2)
        refused = await ann.get("/nowhere")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert left(refused, "client") == (0, refused.json()["retry_after"])
        assert (await ann.get("/health/live")).status_code == 200


async def test_who_is_refused_need_not_send_the_body(serve: Callable[..., RunningServer]) -> None:
    """The answer of a client that has nothing left comes before its body does."""
    server = serve(router, rate_limit="1/minute")
    asked = "POST /limited/body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    assert b" 200 " in await server.exchange(
        b"GET /limited/free HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    answer = await server.exchange(f"{asked}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 429 ")


async def test_a_server_without_its_redis_serves(
    serve: Callable[..., RunningServer], own_redis: OwnRedis
) -> None:
    """The limits are in Redis where there is one; without it requests are answered, uncounted."""
    server = serve(router, redis_url=own_redis.url, rate_limit="2/minute")
    async with server.client() as client:
        codes = [(await client.get("/limited/free")).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        own_redis.kill()
        started = time.monotonic()
        answers = [await client.get("/limited/free") for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 20
    assert "RateLimit" not in answers[0].headers
    assert time.monotonic() - started < 4  # a quarter of a second each is five
    assert server.app.state.limits.failed_open == 20
