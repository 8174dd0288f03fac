"""Bytes that no client library sends: each gets a registered error, and the server lives on."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Form, Request

from app.core.auth import CurrentUser
from app.core.errors import registry
from app.core.schemas import Schema
from tests.conftest import settings_for
from tests.server import RunningServer

HOST = b"Host: 127.0.0.1\r\n"
LAST = b"Connection: close\r\n\r\n"
POST = b"POST /probe/things HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\n"
HOME = b"GET / HTTP/1.1\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)

router = APIRouter()


@router.get("/probe/client")
async def client_of(request: Request) -> list[str]:
    """Who asks, as the server believes."""
    assert request.client
    return [request.client.host, request.url.scheme]


class Thing(Schema):
    """A body."""

    text: str


@router.post("/probe/things")
async def post_thing(thing: Thing) -> None:
    """Takes a body."""


class Entry(Schema):
    """A form."""

    username: str
    password: str


@router.post("/probe/form")
async def post_form(entry: Annotated[Entry, Form()]) -> None:
    """Takes a form."""


@router.get("/probe/me")
async def me(user: CurrentUser) -> None:
    """For whoever is signed in."""


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service, behind a proxy that it does not know."""
    settings = settings_for(new_sqlite(), environment="production", forwarded_allow_ips="10.0.0.1")
    with RunningServer(settings, router) as running:
        yield running


async def exchange(server: RunningServer, sent: bytes) -> tuple[int, dict[str, str], Any]:
    """The status, headers and JSON body of the first answer to these bytes."""
    head, _, body = (await server.exchange(sent)).partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    content = json.loads(body[: int(headers["content-length"])])
    return int(status.split()[1]), headers, content


NONSENSE = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n" + LAST + b"{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n" + LAST
    + b"0\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n" + LAST,
    "length of words": POST + b"Content-Length: two\r\n" + LAST,
    "bad chunk": POST + b"Transfer-Encoding: chunked\r\n" + LAST + b"zz\r\n{}\r\n0\r\n\r\n",
    "endless chunk size": POST + b"Transfer-Encoding: chunked\r\n" + LAST + b"1" * 20_000,
    "unknown coding": POST + b"Transfer-Encoding: gzip\r\n" + LAST,
    "no host": HOME + LAST,
    "two hosts": HOME + HOST + HOST + LAST,
    "empty host": HOME + b"Host: \r\n" + LAST,
    "foreign host": HOME + b"Host: evil.example\r\n" + LAST,
    "host with a path": HOME + b"Host: 127.0.0.1/x\r\n" + LAST,
    "host of bytes": HOME + b"Host: \xff\xfe\r\n" + LAST,
    "NUL in a header": GET + HOST + b"X: a\0b\r\n" + LAST,
    "NUL in the path": b"GET /a\0b HTTP/1.1\r\n" + HOST + LAST,
    "bytes in the path": b"GET /\xff HTTP/1.1\r\n" + HOST + LAST,
    "space before colon": GET + HOST + b"X : a\r\n" + LAST,
    "no colon": GET + HOST + b"nonsense\r\n" + LAST,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no method": b" / HTTP/1.1\r\n" + HOST + LAST,
    "bad percent": b"GET /%zz%/%c3%28/%00 HTTP/1.1\r\n" + HOST + LAST,
    "surrogate": b"GET /errors/%ed%a0%80 HTTP/1.1\r\n" + HOST + LAST,
    "endless headers": GET + HOST + b"X: y\r\n" * 5_000,
    "endless header": GET + HOST + b"X: " + b"y" * 20_000,
    "endless path": b"GET /" + b"a" * 20_000,
    "traversal": b"GET /../../../etc/passwd HTTP/1.1\r\n" + HOST + LAST,
    "encoded traversal": b"GET /%2e%2e/%2e%2e/pyproject.toml HTTP/1.1\r\n" + HOST + LAST,
    "back slashes": b"GET /..\\..\\pyproject.toml HTTP/1.1\r\n" + HOST + LAST,
    "NUL file": b"GET /index.html%00.js HTTP/1.1\r\n" + HOST + LAST,
    "long file": b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n" + HOST + LAST,
    "absolute target": b"GET http://evil.example/x HTTP/1.1\r\n" + HOST + LAST,
    "asterisk": b"GET * HTTP/1.1\r\n" + HOST + LAST,
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + LAST,
    "TRACE": b"TRACE /health/live HTTP/1.1\r\n" + HOST + LAST,
    "odd method": b"!#$ /health/live HTTP/1.1\r\n" + HOST + LAST,
    "odd upgrade": b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\n" + LAST,
    "odd origin": b"GET /x HTTP/1.1\r\n" + HOST + UPGRADE + b"Origin: http://[\r\n\r\n",
    "bytes of an origin": b"GET /x HTTP/1.1\r\n" + HOST + UPGRADE + b"Origin: \xff\r\n\r\n",
    "odd authorization": b"GET /probe/me HTTP/1.1\r\n" + HOST
    + b"Authorization: Bearer \xff.\xff.\xff\r\n" + LAST,
    "odd cookie": b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Cookie: =;;\xff=\xff;\r\n" + LAST,
    "odd form": b"POST /probe/form HTTP/1.1\r\n" + HOST
    + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 39\r\n" + LAST
    + b"username=%ed%a0%80%00&password=%ff%00%zz",
    "no boundary": b"POST /probe/form HTTP/1.1\r\n" + HOST
    + b"Content-Type: multipart/form-data\r\nContent-Length: 2\r\n" + LAST + b"{}",
    "odd charset": b"POST /probe/things HTTP/1.1\r\n" + HOST
    + b"Content-Type: application/json; charset=nonsense\r\nContent-Length: 2\r\n" + LAST + b"{}",
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense_gets_a_registered_error(
    server: RunningServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is a problem of the registry and no crash; the next request is answered."""
    status, headers, problem = await exchange(server, NONSENSE[name])
    assert 400 <= status < 500, problem
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["code"] in registry
    assert problem["request_id"] == headers["x-request-id"]
    assert "unexpected error" not in caplog.text
    assert "Traceback" not in caplog.text
    assert (await exchange(server, GET + HOST + LAST))[0] == 200


@pytest.mark.parametrize(
    "query", [b"a=%0d%0aX-Evil:%20yes", b"%zz=%ff&%00=%ed%a0%80", b"?????&&&="]
)
async def test_an_odd_query_harms_nothing(server: RunningServer, query: bytes) -> None:
    """A query that no parameter takes is passed over, and never becomes a header."""
    sent = b"GET /nowhere?" + query + b" HTTP/1.1\r\n" + HOST + LAST
    status, headers, problem = await exchange(server, sent)
    assert (status, problem["instance"]) == (404, "/nowhere")
    assert "x-evil" not in headers


async def test_line_breaks_in_the_target_are_not_http(server: RunningServer) -> None:
    """A request smuggled into the target's query is one more line that is no header."""
    sent = b"GET /nowhere?\r\nX-Evil: yes HTTP/1.1\r\n" + HOST + LAST
    status, headers, _ = await exchange(server, sent)
    assert status == 400
    assert "x-evil" not in headers


async def test_long_headers_are_taken(server: RunningServer) -> None:
    """A request whose headers are nearly as long as is waited for is a request."""
    sent = GET + HOST + b"X: " + b"y" * 15_000 + b"\r\n" + LAST
    assert (await exchange(server, sent))[0] == 200


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [("10.0.0.1", ["127.0.0.1", "http"]), ("127.0.0.0/8", ["203.0.113.9", "https"])],
)
async def test_only_a_trusted_proxy_says_who_asks(
    server: RunningServer, trusted: str, expected: list[str]
) -> None:
    """X-Forwarded-* of a stranger is passed over, that of FORWARDED_ALLOW_IPS believed."""
    sent = (
        b"GET /probe/client HTTP/1.1\r\n" + HOST
        + b"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n" + LAST
    )  # fmt: skip
    changed = server.settings.model_dump() | {"forwarded_allow_ips": trusted}
    with RunningServer(type(server.settings)(**changed), router) as running:
        assert (await exchange(running, sent))[2] == expected


async def test_a_hundred_nonsenses_at_once_harm_nobody(server: RunningServer) -> None:
    """While many send nonsense, everybody else is answered."""
    async with server.client() as client:
        crowd = [exchange(server, sent) for sent in list(NONSENSE.values()) * 2]
        crowding = asyncio.gather(*crowd)
        answers = [await client.get("/health/live") for _ in range(20)]
        await crowding
    assert {answer.status_code for answer in answers} == {200}
