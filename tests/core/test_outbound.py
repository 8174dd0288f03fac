"""Calls of other services: limited in time, size and number, and tried again with care."""

import asyncio
import gzip
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from app.core import outbound as module
from app.core.caller import Caller, enter
from app.core.errors import AppError
from app.core.outbound import (
    Answer,
    OutboundClient,
    Params,
    Pool,
    UpstreamFailed,
    UpstreamTimeout,
)
from app.core.settings import Settings
from tests.conftest import changed_settings
from tests.core.calling import fails, fails_in_a_frame, router
from tests.core.upstream import Play, Upstream, drip, hang, hang_up, response
from tests.server import DEADLINE, RunningServer

OK = response(200, b'{"id": 7}')
SECRET = "hunter2"


@asynccontextmanager
async def client(**changed: Any) -> AsyncIterator[OutboundClient]:
    """A client of the test's own."""
    outbound = OutboundClient(**({"timeout": DEADLINE, "retries": 2} | changed))
    try:
        yield outbound
    finally:
        await outbound.pool.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another at once, unless the service asks for something else."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


async def call(*plays: bytes | Play, method: str = "GET", **changed: Any) -> tuple[Any, int]:
    """The answer of a service that plays so, or the error; and how often it was asked."""
    async with Upstream(*plays) as upstream, client(**changed) as outbound:
        answer: Answer | AppError
        try:
            answer = await outbound.request(method, f"{upstream.url}/items")
        except AppError as error:
            answer = error
    return answer, len(upstream.asked)


async def test_what_is_sent_arrives_and_what_is_answered_is_read() -> None:
    """The query, headers and one of three kinds of body; status, headers, JSON."""
    async with Upstream(response(201, b'{"id": 7}', X_Shelf="b")) as upstream, client() as outbound:
        url = f"{upstream.url}/items"
        params: Params = {"q": "a b&c", "page": 2, "none": None}
        answer = await outbound.request("GET", url, params=params, headers={"X-Mine": "1"})
        await outbound.request("POST", url, json={"a": 1})
        await outbound.request("POST", url, data={"a": "b c"})
        await outbound.request("PUT", url, content=b"raw")
    assert (answer.status_code, answer.json(), answer.headers["X-Shelf"]) == (201, {"id": 7}, "b")
    got, posted, form, put = upstream.asked
    assert (got.method, got.target, got.headers["X-Mine"]) == (
        "GET",
        "/items?q=a+b%26c&page=2",
        "1",
    )
    assert json.loads(posted.body) == {"a": 1}
    assert (form.body, form.headers["Content-Type"]) == (
        b"a=b+c",
        "application/x-www-form-urlencoded",
    )
    assert (put.method, put.body) == ("PUT", b"raw")


@pytest.mark.parametrize("status", [200, 204, 304, 400, 401, 404, 409, 422])
async def test_a_status_below_500_is_an_answer(status: int) -> None:
    """It is for the caller to judge; asked to judge, it becomes the error."""
    answer, asked = await call(response(status))
    assert (answer.status_code, asked) == (status, 1)
    if status < 300:
        assert answer.raise_for_status() is answer
    else:
        with pytest.raises(UpstreamFailed):
            answer.raise_for_status()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_what_passes_is_tried_again(status: int, method: str) -> None:
    """Where the method may be repeated: once it works, nobody knows of the rest."""
    answer, asked = await call(response(status), response(status), OK, method=method)
    assert (answer.status_code, asked) == (200, 3)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("first", [response(503), hang_up])
async def test_what_may_not_be_repeated_is_not(method: str, first: bytes | Play) -> None:
    """It may have been done, whatever came back."""
    error, asked = await call(first, OK, method=method)
    assert (type(error), asked) == (UpstreamFailed, 1)


async def test_the_tries_have_an_end() -> None:
    """One, and as many more as are set; none for an error that does not pass."""
    for retries in (0, 3):
        error, asked = await call(response(503), retries=retries)
        assert (type(error), asked) == (UpstreamFailed, retries + 1)
        assert (error.status, error.retryable, error.detail) == (502, True, None)
    for status in (500, 501, 505, 599):
        error, asked = await call(response(status), OK)
        assert (type(error), asked) == (UpstreamFailed, 1)


async def test_a_connection_that_breaks_is_another_try() -> None:
    """Before an answer, within its head or within its body."""
    half = b"HTTP/1.1 200 X\r\nContent-Le"
    cut = response(200, b"x", Content_Length="100")
    answer, asked = await call(hang_up, half, cut, OK, retries=3)
    assert (answer.json(), asked) == ({"id": 7}, 4)
    error, asked = await call(b"I am no web server.\r\n\r\n")
    assert (type(error), asked) == (UpstreamFailed, 3)


async def test_nobody_there_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """After all tries; the log says which service, and how often."""
    async with Upstream(OK) as upstream:
        pass
    async with client() as outbound:
        with pytest.raises(UpstreamFailed) as failed:
            await outbound.request("GET", f"{upstream.url}/{SECRET}?q={SECRET}")
    assert failed.value.__suppress_context__
    (line,) = caplog.messages
    assert "'reason': 'ConnectError'" in line
    assert "'host': '127.0.0.1'" in line
    assert "'tries': 3" in line
    assert SECRET not in line


async def test_a_name_that_nobody_has_is_a_failure() -> None:
    """As a service that is not there."""
    async with client() as outbound:
        with pytest.raises(UpstreamFailed):
            await outbound.request("GET", "http://no-such-host.invalid/")


@pytest.mark.parametrize("play", [hang, drip])
async def test_the_time_of_a_call_is_limited(play: Play) -> None:
    """As a whole, however the service takes it; the connection is given up."""
    started = time.monotonic()
    async with Upstream(play) as upstream, client(timeout=0.2) as outbound:
        with pytest.raises(UpstreamTimeout) as late:
            await outbound.request("GET", upstream.url)
        if play is drip:  # who hangs does not notice
            await upstream.all_left()
    assert time.monotonic() - started < 3
    assert (late.value.status, late.value.retryable) == (504, True)


async def test_the_time_covers_all_tries() -> None:
    """A service that fails at once, and then hangs."""
    started = time.monotonic()
    error, asked = await call(response(503), hang, timeout=1)
    assert (type(error), asked) == (UpstreamTimeout, 2)
    assert time.monotonic() - started < 4


async def test_who_is_not_connected_to_in_time_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that swallows what it is sent: the queue of a listener that takes nobody."""
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.05)
    async with deaf() as url, client(retries=0) as outbound:
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await outbound.request("GET", url)
    assert time.monotonic() - started < 3


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """The address of a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            for _ in range(4):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
                waiting.append(sock)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for sock in waiting:
                sock.close()


async def test_a_wait_that_is_asked_for_is_kept() -> None:
    """In seconds or as a date; nobody comes sooner."""
    started = time.monotonic()
    answer, asked = await call(response(429, Retry_After="1"), OK)
    assert (answer.status_code, asked) == (200, 2)
    assert 1 <= time.monotonic() - started < 3


@pytest.mark.parametrize(
    "asked_for",
    ["6", "9999999999999999999999", format_datetime(datetime.now(UTC) + timedelta(hours=1))],
    ids=["seconds", "very many", "a date"],
)
async def test_a_wait_that_is_too_long_ends_the_tries(asked_for: str) -> None:
    """The caller hears of it at once, and does not wait for nothing."""
    started = time.monotonic()
    error, asked = await call(response(503, Retry_After=asked_for), OK)
    assert (type(error), asked) == (UpstreamFailed, 1)
    assert time.monotonic() - started < 3


async def test_no_wait_outlasts_the_call() -> None:
    """Where the time would be over before the next try, there is none."""
    started = time.monotonic()
    error, asked = await call(response(503, Retry_After="5"), OK, timeout=4)
    assert (type(error), asked) == (UpstreamFailed, 1)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "nonsense", ["-1", "soon", "1.5", "²", "Thu, 01 Jan 1970 00:00:00 GMT", ""]
)
async def test_a_wait_that_is_none_does_not_matter(nonsense: str) -> None:
    """The next try comes as it would have come."""
    plays = response(503, Retry_After="@").replace(b"@", nonsense.encode("latin-1")), OK
    assert (await call(*plays))[1] == 2


async def test_waits_double_and_differ() -> None:
    """So that those who failed together do not come back together."""
    for tries, longest in ((1, 0.001), (3, 0.004), (60, module.LONGEST_WAIT)):
        waits = {module._backed_off(tries) for _ in range(50)}
        assert len(waits) > 40
        assert longest / 2 <= min(waits) <= max(waits) <= longest


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_size_of_an_answer_is_limited(encoding: str) -> None:
    """As it is unpacked; what is not larger arrives whole. No other try would be smaller."""
    for size, taken in ((1000, True), (1001, False)):
        body = b"x" * size if encoding == "identity" else gzip.compress(b"x" * size)
        answer, asked = await call(response(200, body, Content_Encoding=encoding), max_bytes=1000)
        assert asked == 1
        assert (answer.content == b"x" * size) if taken else isinstance(answer, UpstreamFailed)


async def test_an_answer_without_end_is_cut_off() -> None:
    """It is not read on; its connection is closed."""

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()

    error, asked = await call(flood, max_bytes=100_000)
    assert (type(error), asked) == (UpstreamFailed, 1)


async def test_an_answer_that_cannot_be_unpacked_is_a_failure() -> None:
    """It says gzip and is not."""
    error, asked = await call(response(200, b"not gzip", Content_Encoding="gzip"))
    assert (type(error), asked) == (UpstreamFailed, 1)


async def test_connections_are_limited() -> None:
    """Who finds none free waits, and no longer than a call may take."""

    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with Upstream(slow) as upstream, client(pool=Pool(connections=2)) as outbound:
        calls = [outbound.request("GET", upstream.url) for _ in range(8)]
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    assert (len(upstream.asked), upstream.most_open) == (8, 2)


async def test_a_redirect_is_an_answer_unless_it_is_followed() -> None:
    """Followed it is five times at most."""
    async with Upstream(response(302, Location="/there"), OK) as upstream, client() as outbound:
        answer = await outbound.request("GET", f"{upstream.url}/here")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/there")
        upstream.plays = [response(302, Location="/there"), OK]
        answer = await outbound.request("GET", f"{upstream.url}/here", follow_redirects=True)
        assert answer.json() == {"id": 7}
        assert [each.target for each in upstream.asked] == ["/here", "/here", "/there"]
        upstream.plays = [response(302, Location="/again")]
        with pytest.raises(UpstreamFailed):
            await outbound.request("GET", f"{upstream.url}/here", follow_redirects=True)
    assert len(upstream.asked) == 3 + 6


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/x", "http://[::", "http://127.0.0.1:x/"])
async def test_a_redirect_to_nowhere_is_no_crash(location: str) -> None:
    """It is a failure, or left as the answer that it is."""
    async with Upstream(response(302, Location=location)) as upstream, client() as outbound:
        try:
            answer = await outbound.request("GET", upstream.url, follow_redirects=True)
        except UpstreamFailed:
            return
    assert answer.status_code == 302


async def test_no_cookie_is_kept() -> None:
    """What one caller is given is not sent for the next."""
    given = response(200, Set_Cookie="session=secret; Path=/")
    async with Upstream(given) as upstream, client() as outbound:
        for _ in range(2):
            await outbound.request("GET", upstream.url)
    assert "Cookie" not in upstream.asked[1].headers


async def test_nothing_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """No proxy, which would see tokens, and no password of .netrc."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login ann password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with Upstream(OK) as upstream, client() as outbound:
        await outbound.request("GET", upstream.url)
    assert "Authorization" not in upstream.asked[0].headers


@pytest.mark.parametrize("url", ["", "/items", "ftp://x/y", "http://", "http://[::", f"x:{SECRET}"])
async def test_an_address_is_absolute(url: str) -> None:
    """Anything else is a mistake in the code; what was given is not quoted."""
    async with client() as outbound:
        with pytest.raises(ValueError, match="absolute") as refused:
            await outbound.request("GET", url)
    assert SECRET not in str(refused.value)


async def test_what_cannot_be_sent_is_not_quoted() -> None:
    """A header with a line break in it."""
    async with Upstream(OK) as upstream, client() as outbound:
        with pytest.raises(ValueError, match="cannot be sent") as refused:
            await outbound.request("GET", upstream.url, headers={"X": f"a\r\n{SECRET}"})
    assert SECRET not in str(refused.value)
    assert upstream.asked == []


async def test_a_service_that_fails_is_a_warning_that_names_it(
    serve: Callable[..., RunningServer], caplog: pytest.LogCaptureFixture
) -> None:
    """At both doors: it is not this service's fault, and a traceback of its would say nothing."""
    server = serve(router, outbound_token_hosts="127.0.0.1", outbound_retries=0)
    failed = await fails(server, response(500))
    framed = await fails_in_a_frame(server, hang_up)
    assert failed["code"] == framed["code"] == "upstream_failed"
    lines = [record for record in caplog.records if "upstream error" in record.getMessage()]
    assert len(lines) == 2
    for line in lines:
        assert (line.levelname, line.exc_info) == ("WARNING", None)
        assert "'host': '127.0.0.1'" in line.getMessage()
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_the_log_tells_no_address_and_no_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At whatever level: the library would write both."""
    caplog.set_level(logging.DEBUG)
    async with Upstream(OK) as upstream, client(retries=0) as outbound:
        headers = {"Authorization": f"Bearer {SECRET}"}
        await outbound.request("GET", f"{upstream.url}/?q={SECRET}", headers=headers)
        upstream.plays = [response(500)]
        with pytest.raises(UpstreamFailed):
            await outbound.request("GET", f"{upstream.url}/?q={SECRET}", headers=headers)
    assert "status 500" in caplog.text
    assert SECRET not in caplog.text


async def test_a_client_that_was_closed_can_be_opened_again() -> None:
    """An application may be started twice; twice closed is closed."""
    async with Upstream(OK) as upstream, client() as outbound:
        for _ in range(2):
            assert (await outbound.request("GET", upstream.url)).is_success
            await outbound.pool.close()
            await outbound.pool.close()


# On behalf of somebody

Serve = Callable[..., RunningServer]


async def test_the_id_of_a_request_is_passed_on() -> None:
    """Outside of one there is none."""
    async with Upstream(OK) as upstream, client() as outbound:
        await outbound.request("GET", upstream.url)
        enter(Caller(request_id="0123456789"))
        await outbound.request("GET", upstream.url)
        enter(Caller())
    first, second = upstream.asked
    assert "X-Request-ID" not in first.headers
    assert second.headers["X-Request-ID"] == "0123456789"


async def test_the_callers_token_goes_where_it_may(serve: Serve) -> None:
    """From a header, a subprotocol or `auth.refresh`, with the id of the request."""
    server = serve(router, outbound_token_hosts="127.0.0.1")
    tokens = [server.token("1", roles=[role]) for role in ("a", "b", "c", "d", "e")]
    async with Upstream(OK) as upstream:
        async with server.client(tokens[0]) as http:
            headers = {"X-Request-ID": "from-the-client"}
            answer = await http.post("/outbound/call", json={"url": upstream.url}, headers=headers)
        assert answer.json() == {"status": 200}
        for opened, first in ((server.browser_socket, 1), (server.socket, 3)):
            async with opened("/outbound/ws", tokens[first]) as socket:
                assert (await socket.ask("call", {"url": upstream.url}))["type"] == "called"
                await socket.ask("auth.refresh", {"token": tokens[first + 1]})
                assert (await socket.ask("call", {"url": upstream.url}))["type"] == "called"
    sent = [each.headers["Authorization"] for each in upstream.asked]
    assert sent == [f"Bearer {token}" for token in tokens]
    assert upstream.asked[0].headers["X-Request-ID"] == "from-the-client"
    assert upstream.asked[1].headers["X-Request-ID"]


@pytest.mark.parametrize("hosts", ["", "localhost", "127.0.0.1:1", "0.0.1,127.0.0.1.example"])
async def test_the_callers_token_goes_nowhere_else(serve: Serve, hosts: str) -> None:
    """A host that is not named gets no call at all: it is a mistake in the code or the settings."""
    server = serve(router, outbound_token_hosts=hosts)
    async with Upstream(OK) as upstream, server.client(server.token()) as http:
        answer = await http.post("/outbound/call", json={"url": upstream.url})
    assert answer.status_code == 500
    assert upstream.asked == []


async def test_a_token_may_be_for_one_port(serve: Serve) -> None:
    """The host with its port, also where that is the usual one."""
    async with Upstream(OK) as upstream:
        server = serve(router, outbound_token_hosts=f"127.0.0.1:{upstream.port}")
        async with server.client(server.token()) as http:
            answer = await http.post("/outbound/call", json={"url": upstream.url})
        assert answer.json() == {"status": 200}
    usual = OutboundClient(timeout=1, retries=0, token_hosts=frozenset({"a.example:443"}))
    usual._forward_token(httpx2.Request("GET", "https://A.example/"))
    with pytest.raises(ValueError, match=r"a\.example:80 is none of OUTBOUND_TOKEN_HOSTS"):
        usual._forward_token(httpx2.Request("GET", "http://a.example/"))


async def test_no_token_follows_a_redirect_to_another_host(serve: Serve) -> None:
    """Not even to one that may have it; on the same host it goes along."""
    server = serve(router, outbound_token_hosts="127.0.0.1,localhost")
    async with Upstream(OK) as other, Upstream(OK) as upstream:
        for there, sent in (("/x", 1), (other.url, 0), (f"http://localhost:{other.port}", 0)):
            upstream.plays = [response(302, Location=there), OK]
            async with server.client(server.token()) as http:
                body = {"url": upstream.url, "follow": True}
                answer = await http.post("/outbound/call", json=body)
            assert answer.json() == {"status": 200}
            last = other.asked[-1] if "http" in there else upstream.asked[-1]
            assert ("Authorization" in last.headers) is bool(sent)
    assert len(other.asked) == 2


async def test_who_came_with_no_token_passes_none_on() -> None:
    """As in a job."""
    hosts = frozenset({"127.0.0.1"})
    async with Upstream(OK) as upstream, client(token_hosts=hosts) as outbound:
        await outbound.request("GET", upstream.url, forward_token=True)
    assert "Authorization" not in upstream.asked[0].headers


async def test_the_service_closes_its_connections(settings: Settings) -> None:
    """As it ends; until then they are kept for the next call."""
    settings = changed_settings(settings, {"outbound_token_hosts": "127.0.0.1"})
    async with Upstream(response(200, Connection="keep-alive")) as upstream:
        with RunningServer(settings, router) as server:
            async with server.client(server.token()) as http:
                for _ in range(2):
                    await http.post("/outbound/call", json={"url": upstream.url})
            assert (len(upstream.asked), upstream.most_open, upstream.open) == (2, 1, 1)
        await upstream.all_left()
