"""docs/calling-others.md works: its code is run, against a warehouse of the test's own."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import APIRouter

from tests.core.upstream import Upstream, response
from tests.server import RunningServer

GUIDE = (Path(__file__).parent.parent / "docs" / "calling-others.md").read_text()
NAME = "stock_of_the_guide"


@pytest.fixture
def router() -> Iterator[APIRouter]:
    """The router of the guide."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    module = sys.modules[NAME] = ModuleType(NAME)  # where a class looks its annotations up
    exec(compile(code, NAME, "exec"), vars(module))  # noqa: S102 - it is ours
    yield module.router
    del sys.modules[NAME]


async def test_the_example_calls_the_warehouse(
    serve: Callable[..., RunningServer], router: APIRouter
) -> None:
    """At both doors: with the caller's token, a name that is quoted, and every kind of answer."""
    server = serve(router, outbound_token_hosts="127.0.0.1", outbound_retries=0)
    token = server.token()
    known, unknown = response(200, b'{"count": 3}'), response(404)
    plays = [known, unknown, response(400), response(503), response(200, b"<html>")]
    async with Upstream(*plays, *plays) as upstream, server.client(token) as http:
        object.__setattr__(server.settings, "warehouse_url", upstream.url)
        answers = [(await http.get("/stock/a%3Fb")).json() for _ in plays]
        async with server.socket("/stock/ws", token) as socket:
            frames = [(await socket.ask("ask", {"item": "a/../b"}))["data"] for _ in plays]
    assert answers[0] == frames[0] == {"count": 3}
    for told in (answers, frames):
        assert [each["code"] for each in told[1:]] == [
            "not_found",
            *["upstream_failed"] * 3,
        ]
    assert [each.target for each in upstream.asked] == [
        *["/items/a%3Fb"] * 5,
        *["/items/a%2F..%2Fb"] * 5,
    ]
    assert {each.headers["Authorization"] for each in upstream.asked} == {f"Bearer {token}"}


async def test_its_errors_are_in_the_documents(
    serve: Callable[..., RunningServer], router: APIRouter
) -> None:
    """Nobody has to declare them."""
    async with serve(router).client() as http:
        schema = (await http.get("/openapi.json")).json()
    responses = schema["paths"]["/stock/{item}"]["get"]["responses"]
    assert "`upstream_failed`" in responses["502"]["description"]
    assert "`upstream_timeout`" in responses["504"]["description"]
