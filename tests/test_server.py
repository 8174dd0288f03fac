"""What the HTTP protocol refuses by itself, seen from a bare socket."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from app import server as server_module
from tests.server import RunningServer

UPGRADE = (
    b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def say(server: RunningServer, sent: bytes) -> tuple[str, bytes]:
    """Send bytes as they are; the last head and the last body that come until the end."""
    head, _, body = (await server.exchange(sent)).rpartition(b"\r\n\r\n")
    return head.decode(), body


def problem(body: bytes) -> dict[str, Any]:
    """The body as a problem."""
    content: dict[str, Any] = json.loads(body)
    return content


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000,
    ],
    ids=["TLS", "two lengths", "NUL in a header", "headers without end"],
)
async def test_what_is_no_http_is_answered_with_a_registered_error(
    server: RunningServer, sent: bytes
) -> None:
    """Bytes that cannot be parsed get problem+json with a request id, and the end."""
    head, body = await say(server, sent)
    assert head.startswith("HTTP/1.1 400 ")
    assert "application/problem+json" in head
    assert problem(body)["code"] == "malformed_request"
    assert problem(body)["request_id"] in head


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos"], ids=["silent", "half a header"])
async def test_a_request_that_does_not_arrive_is_given_up(
    server: RunningServer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a connection and sends no whole header is told so and cut off."""
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.2)
    head, body = await say(server, sent)
    assert head.startswith("HTTP/1.1 408 ")
    assert problem(body)["code"] == "request_timeout"


async def test_half_a_header_after_a_request_is_given_up_too(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request of a connection has to arrive in time as well."""
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.2)
    head, body = await say(server, GET + b"GET /health/l")
    assert head.startswith("HTTP/1.1 200 ")
    assert "HTTP/1.1 408 " in head
    assert problem(body)["code"] == "request_timeout"


async def test_a_slow_handler_is_not_a_slow_request(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for headers ends with the headers: an answer may take longer."""
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.2)
    server = serve()
    server.app.add_api_route("/slow", _slow)
    head, body = await say(
        server, b"GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert head.startswith("HTTP/1.1 200 ")
    assert body == b"true"


async def _slow() -> bool:
    await asyncio.sleep(0.5)
    return True


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (UPGRADE + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
        (UPGRADE + b"X: y\r\n" * 120 + b"\r\n", 431, "headers_too_large"),
        (UPGRADE.replace(b": 13", b": 8") + b"\r\n", 400, "malformed_request"),
        (UPGRADE.replace(b"-Key", b"-Lock") + b"\r\n", 400, "malformed_request"),
        (UPGRADE.replace(b"==", b"") + b"\r\n", 400, "malformed_request"),
        (UPGRADE.replace(b"GET", b"POST") + b"\r\n", 400, "malformed_request"),
        (UPGRADE + b"\r\n", 404, "not_found"),
    ],
    ids=["long line", "many lines", "version", "no key", "short key", "POST", "unknown path"],
)
async def test_a_handshake_that_cannot_be_is_answered_with_a_registered_error(
    server: RunningServer, sent: bytes, status: int, code: str
) -> None:
    """None of them meets silence, and the server serves the next request."""
    head, body = await say(server, sent)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert problem(body)["code"] == code
    async with server.client() as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_a_handshake_of_another_version_is_told_the_version(server: RunningServer) -> None:
    """RFC 6455 section 4.4: the answer names the versions that are spoken."""
    head, _ = await say(server, UPGRADE.replace(b": 13", b": 8") + b"\r\n")
    assert "sec-websocket-version: 13" in head.lower()


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"a" * 20_000 + b"\r\n", b"X: y\r\n" * 120],
    ids=["long", "many"],
)
async def test_headers_that_come_at_once_are_limited_too(
    server: RunningServer, headers: bytes
) -> None:
    """More than 16 KiB or 100 lines are refused, however they arrive."""
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head, body = await say(server, request + headers + b"\r\n")
    assert head.startswith("HTTP/1.1 431 ")
    assert problem(body)["code"] == "headers_too_large"
