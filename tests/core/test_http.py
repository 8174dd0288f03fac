"""What is refused before a route is looked up, and what every answer carries."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Form, Path, Request, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.core.schemas import Schema
from tests.conftest import settings_for
from tests.server import RunningServer

FRIEND = "https://friend.example"
LIMIT = 2048
JSON = {"Content-Type": "application/json"}

router = APIRouter(prefix="/probe")


class Thing(Schema):
    """A body."""

    text: str = ""
    number: float = 0
    whole: int = 0
    anything: Any = None
    password: Annotated[str, Path(max_length=5)] = ""


@router.post("/things")
async def post_thing(thing: Thing) -> dict[str, Any]:
    """Takes a body and gives it back."""
    return thing.model_dump()


@router.post("/form")
async def post_form(text: Annotated[str, Form()]) -> str:
    """Takes a form."""
    return text


@router.delete("/things")
async def delete_things() -> None:
    """The same address by another method."""


@router.put("/large", max_body_size=10 * LIMIT)
async def put_large(request: Request) -> int:
    """Takes a larger body than others do."""
    return len(await request.body())


@router.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    """Stays open until the client leaves."""
    await websocket.accept()
    await websocket.receive()


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service with the probes, and a friend's page."""
    settings = settings_for(
        new_sqlite(),
        environment="production",
        allowed_origins=FRIEND,
        max_body_bytes=LIMIT,
    )
    with RunningServer(settings, router) as running:
        yield running


async def request(server: RunningServer, method: str, path: str, **kwargs: Any) -> Any:
    async with server.client() as client:
        return await client.request(method, path, **kwargs)


async def problem(server: RunningServer, method: str, path: str, **kwargs: Any) -> Any:
    """The problem that a request is answered with, whose answer is well formed."""
    answered = await request(server, method, path, **kwargs)
    content = answered.json()
    assert answered.headers["content-type"] == "application/problem+json"
    assert content["request_id"] == answered.headers["x-request-id"]
    assert (content["status"], content["instance"]) == (answered.status_code, path)
    return content


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 512):
        yield b" " * 512


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/nowhere", "/probe/things/", "/errors/x.y"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_not_found(server: RunningServer, path: str, method: str) -> None:
    """What is nowhere is a registered 404, whatever the method; or 405 where it is somewhere."""
    found = await problem(server, method, path)
    assert found["code"] in {"not_found", "method_not_allowed"}
    assert found["code"] == "not_found" or path == "/errors/x.y"


async def test_a_wrong_method_hears_every_right_one(server: RunningServer) -> None:
    """405 lists in Allow what all routes of the address take (RFC 9110 section 15.5.6)."""
    answered = await request(server, "PUT", "/probe/things")
    assert (answered.status_code, answered.json()["code"]) == (405, "method_not_allowed")
    assert answered.headers["allow"] == "DELETE, POST"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b'{"text": ',
        b"\xff\xfe",
        b'{"text": "\xc3\x28"}',
        b'{"number": NaN}',
        b'{"number": 1e400}',
        b"[" * 1000 + b"]" * 1000,
        b'{"anything": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800"}',
        b'{"anything": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"whole": ' + b"9" * 2000 + b"}",
        b'{"unknown": 1}',
        b"null",
        b"[]",
        b"",
        b"\x00",
    ],
)
async def test_a_body_that_makes_no_sense_is_the_clients_error(
    server: RunningServer, content: bytes
) -> None:
    """Whatever is sent as JSON, the answer is 400 or 422 or what the model takes; never a 500."""
    answered = await request(server, "POST", "/probe/things", content=content, headers=JSON)
    if answered.status_code != 200:
        assert answered.json()["code"] in {"malformed_body", "invalid_parameter"}, answered.text


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "malformed_body"),
        (b"[" * 100_000, "malformed_body"),
        (b'{"whole": ' + b"9" * 5000 + b"}", "malformed_body"),
        (b'{"text": "\xff"}', "malformed_body"),
        (b'{"text": "\\ud800"}', "invalid_parameter"),
        (b'{"text": "a\\u0000b"}', "invalid_parameter"),
        (b'{"number": NaN}', "invalid_parameter"),
        (b'{"number": 1e400}', "invalid_parameter"),
        (b'{"anything": {"deep": ["\\ud800"]}}', "invalid_parameter"),
        (b'{"unknown": 1}', "invalid_parameter"),
    ],
    ids=[
        *("syntax", "depth", "digits", "utf8", "surrogate"),
        *("nul", "nan", "huge", "buried", "extra"),
    ],
)
async def test_what_is_wrong_with_a_body_is_told_apart(
    large: RunningServer, content: bytes, code: str
) -> None:
    """JSON that cannot be read is a malformed body; what it says is an invalid parameter."""
    found = await problem(large, "POST", "/probe/things", content=content, headers=JSON)
    assert found["code"] == code


@pytest.fixture(scope="module")
def large(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service with the limit of bodies that it has by default."""
    with RunningServer(settings_for(new_sqlite()), router) as running:
        yield running


async def test_a_rejected_value_is_not_repeated(server: RunningServer) -> None:
    """A password that is refused appears nowhere in the answer."""
    body = {"password": "hunter2-hunter2", "whole": "hunter3", "anything": 1}
    answered = await request(server, "POST", "/probe/things", json=body)
    assert {error["loc"][-1] for error in answered.json()["errors"]} == {"password", "whole"}
    assert "hunter" not in answered.text


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "", None])
async def test_another_content_type_is_unsupported(server: RunningServer, kind: str | None) -> None:
    """A body that does not call itself JSON is 415."""
    headers = {} if kind is None else {"Content-Type": kind}
    found = await problem(server, "POST", "/probe/things", content=b"{}", headers=headers)
    assert (found["status"], found["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/probe/things", "application/json"),
        ("/probe/form", "application/x-www-form-urlencoded"),
    ],
)
async def test_a_body_that_is_too_large_is_refused(
    server: RunningServer, declared: bool, path: str, kind: str
) -> None:
    """Too large is 413, whether Content-Length says so or the chunks do."""
    content: Any = b" " * 4 * LIMIT if declared else chunks(4 * LIMIT)
    headers = {"Content-Type": kind}
    found = await problem(server, "POST", path, content=content, headers=headers)
    assert (found["status"], found["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_route_may_take_larger_bodies(server: RunningServer, declared: bool) -> None:
    """FastAPI's `max_body_size` on a route is the limit there."""
    size = 4 * LIMIT
    content: Any = b" " * size if declared else chunks(size)
    answered = await request(server, "PUT", "/probe/large", content=content)
    assert (answered.status_code, answered.text) == (200, str(size))
    content = b" " * size * 4 if declared else chunks(size * 4)
    found = await problem(server, "PUT", "/probe/large", content=content)
    assert found["code"] == "body_too_large"


async def test_a_foreign_host_is_refused_at_both_doors(server: RunningServer) -> None:
    """A Host that is not served gets a registered 400, as an answer and as a denial."""
    found = await problem(server, "GET", "/errors", headers={"Host": "evil.example"})
    assert (found["status"], found["code"]) == (400, "host_not_allowed")
    assert "evil" not in json.dumps(found)
    with pytest.raises(InvalidStatus) as refused:
        await connect("ws://evil.example/probe/socket", host="127.0.0.1", port=server.port)
    denied = json.loads(refused.value.response.body or b"")
    assert {**denied, "request_id": found["request_id"]} == {**found, "instance": "/probe/socket"}


async def test_a_load_balancer_may_ask_for_health_by_address(server: RunningServer) -> None:
    """The health checks answer whatever the Host is, behind a proxy's prefix too."""
    changed = server.settings.model_dump() | {"root_path": "/prefix"}
    with RunningServer(type(server.settings)(**changed)) as prefixed:
        for each in (server, prefixed):
            for path, status in (("/health/live", 200), ("/errors", 400)):
                answered = await request(each, "GET", path, headers={"Host": "10.1.2.3"})
                assert answered.status_code == status


async def denial(server: RunningServer, path: str, **kwargs: Any) -> Any:
    """The problem of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket(path, **kwargs):
            pass
    response = refused.value.response
    content = json.loads(response.body or b"")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == content["request_id"]
    assert (response.status_code, content["instance"]) == (content["status"], path)
    return content


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "https://friend.example.evil.example", "http://[", "*"],
)
async def test_a_foreign_page_is_denied_a_socket(server: RunningServer, origin: str) -> None:
    """An Origin that is neither ours nor allowed is denied, before accept."""
    denied = await denial(server, "/probe/socket", headers={"Origin": origin, "Cookie": "a=b"})
    assert (denied["status"], denied["code"]) == (403, "origin_not_allowed")


async def test_our_page_and_a_friends_may_open_a_socket(server: RunningServer) -> None:
    """The page of this host, an allowed origin and a program that names none are let in."""
    for origin in (server.url, FRIEND, None):
        async with server.socket("/probe/socket", origin=origin) as opened:
            assert re.fullmatch("[0-9a-f]{32}", opened.connection.response.headers["x-request-id"])  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/nowhere", "/probe/things", "/", "/index.html"])
async def test_a_socket_to_nowhere_is_denied(server: RunningServer, path: str) -> None:
    """An address that no WebSocket has is a 404, for a browser and for a program."""
    for origin in (server.url, None):
        assert (await denial(server, path, origin=origin))["code"] == "not_found"


async def test_one_socket_too_many_is_denied(server: RunningServer) -> None:
    """Above the limit a handshake is a 503 to be tried again; below it, one is taken again."""
    settings = server.settings.model_dump() | {"ws_max_connections": 1}
    with RunningServer(type(server.settings)(**settings), router) as small:
        async with small.socket("/probe/socket"):
            for origin in (small.url, None):
                denied = await denial(small, "/probe/socket", origin=origin)
                assert (denied["status"], denied["code"]) == (503, "overloaded")
                assert (denied["retryable"], denied["retry_after"]) == (True, 5)
        async with asyncio.timeout(5):
            while True:
                try:
                    async with small.socket("/probe/socket"):
                        break
                except InvalidStatus:
                    continue


async def test_a_preflight_of_a_friend_is_allowed(server: RunningServer) -> None:
    """An allowed origin may send what the API takes."""
    asked = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answered = await request(server, "OPTIONS", "/probe/things", headers=asked)
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize(
    ("origin", "method", "reason"),
    [("https://evil.example", "POST", "origin"), (FRIEND, "TRACE", "method")],
)
async def test_a_preflight_of_anybody_else_is_refused(
    server: RunningServer, origin: str, method: str, reason: str
) -> None:
    """A refused preflight is a registered error, and names no origin."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    found = await problem(server, "OPTIONS", "/probe/things", headers=asked)
    assert (found["status"], found["code"]) == (403, "origin_not_allowed")
    assert found["detail"] == f"Disallowed CORS {reason}; see ALLOWED_ORIGINS."


@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/probe/things", "/errors/x"])
async def test_a_friends_page_may_read_errors_too(server: RunningServer, path: str) -> None:
    """The headers that let a page read an answer are on errors as well."""
    answered = await request(server, "GET", path, headers={"Origin": FRIEND})
    assert answered.headers["access-control-allow-origin"] == FRIEND
    assert "X-Request-ID" in answered.headers["access-control-expose-headers"]
    answered = await request(server, "GET", path, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answered.headers
    assert "Origin" in answered.headers["vary"]


@pytest.mark.parametrize("path", ["/", "/health/live", "/nowhere", "/probe/things", "/errors"])
async def test_every_answer_has_the_security_headers(server: RunningServer, path: str) -> None:
    """Pages, answers and errors make a browser strict, and what is a person's is not stored."""
    answered = await request(server, "GET", path)
    assert "default-src 'none'" in answered.headers["content-security-policy"]
    assert "unsafe" not in answered.headers["content-security-policy"]
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert answered.headers["referrer-policy"] == "no-referrer"
    assert answered.headers["cross-origin-opener-policy"] == "same-origin"
    assert "server" not in answered.headers
    assert ("etag" in answered.headers) != (answered.headers.get("cache-control") == "no-store")


@pytest.mark.parametrize("path", ["/health/live", "/nowhere", "/probe/things"])
async def test_a_request_id_is_taken_over(server: RunningServer, path: str) -> None:
    """A well-formed X-Request-ID is the request's; any other is replaced."""
    given = "Trace.of_a-proxy.0001"
    answered = await request(server, "GET", path, headers={"X-Request-ID": given})
    assert answered.headers["x-request-id"] == given
    for odd in ("short", "a" * 65, "with space", "a;b" * 5, ""):
        answered = await request(server, "GET", path, headers={"X-Request-ID": odd})
        assert re.fullmatch("[0-9a-f]{32}", answered.headers["x-request-id"])


async def test_a_socket_has_its_request_id(server: RunningServer) -> None:
    """The id is in the handshake's answer, in a denial and in an error frame."""
    given = {"X-Request-ID": "Trace.of_a-proxy.0002"}
    async with server.socket("/probe/socket", headers=given) as opened:
        assert opened.connection.response is not None
        assert opened.connection.response.headers["x-request-id"] == given["X-Request-ID"]
    denied = await denial(server, "/nowhere", headers=given)
    assert denied["request_id"] == given["X-Request-ID"]
