"""OpenAPI as it is served: errors of each operation and what it asks for, from its guards."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends

from app.core.auth import (
    Admin,
    CurrentUser,
    Fresh,
    Principal,
    has_scope,
    proved_within,
    scope,
)
from app.core.documents import errors_of, methods_at, operations
from app.core.errors import (
    AuthenticationFailed,
    Forbidden,
    InsufficientScope,
    NotFound,
    SessionRevoked,
    TokenExpired,
    Unavailable,
    raises,
    registry,
)
from app.realtime import Channel, Message, on
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter(prefix="/probe")


@raises(NotFound)
async def inner_guard(user: CurrentUser) -> int:
    return 1


async def outer_guard(inner: Annotated[int, Depends(inner_guard)]) -> int:
    return inner


@router.get("/deep")
@raises(Unavailable)
async def deep(outer: Annotated[int, Depends(outer_guard)], limit: int) -> int:
    """Its errors are declared at three depths."""
    return outer + limit


@router.get("/admin")
async def admin(user: Admin) -> None:
    """For administrators."""


SHELVES = scope("shelves:read", "Read what is on the shelves")
Coded = Annotated[Principal, Depends(proved_within(timedelta(minutes=5), second_factor=True))]


@router.get("/shelves", dependencies=[Depends(has_scope(SHELVES))])
async def shelves() -> None:
    """Open to keys."""


@router.delete("/shelves")
async def clear(user: Fresh, coded: Coded) -> None:
    """Not to be undone."""


@router.get("/plain")
async def plain() -> None:
    """Raises nothing of its own."""


@router.post("/several")
@router.put("/several")
async def several() -> None:
    """Two operations of one function."""


class Say(Message):
    """Says nothing."""

    type = "say"


@router.websocket("/channel")
class ProbeChannel(Channel):
    """Its handler raises what its guards do not."""

    user: CurrentUser

    @on
    @raises(Forbidden)
    async def say(self, say: Say) -> None:
        """Raises nothing here."""


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service with the probes."""
    with RunningServer(settings_for(new_sqlite()), router) as running:
        yield running


@pytest.fixture(scope="module")
def openapi(server: RunningServer) -> dict[str, Any]:
    """The document, as a client gets it; it is the same each time."""
    document: dict[str, Any] = httpx2.get(f"{server.url}/openapi.json").json()
    assert document == httpx2.get(f"{server.url}/openapi.json").json()
    return document


def codes(openapi: dict[str, Any], method: str, path: str) -> dict[str, set[str]]:
    """The codes that an operation documents, by status."""
    responses = openapi["paths"][path][method]["responses"]
    return {
        status: set(response["content"]["application/problem+json"]["examples"])
        for status, response in responses.items()
        if status >= "400"
    }


def test_an_operation_lists_the_errors_of_its_guards(openapi: dict[str, Any]) -> None:
    """What guards of guards declare is among the operation's errors."""
    assert codes(openapi, "get", "/probe/deep") == {
        "401": {"authentication_failed", "session_revoked", "token_expired"},
        "403": {"insufficient_scope"},
        "404": {"not_found"},
        "422": {"invalid_parameter"},
        "500": {"internal"},
        "503": {"unavailable"},
    }
    assert codes(openapi, "get", "/probe/admin")["403"] == {
        "forbidden",
        "insufficient_scope",
    }
    assert codes(openapi, "get", "/probe/plain") == {"500": {"internal"}}
    assert codes(openapi, "post", "/probe/several") == codes(openapi, "put", "/probe/several")


def test_an_error_is_documented_as_it_is_sent(openapi: dict[str, Any]) -> None:
    """Each error has the media type, the schema and an example of what a client gets."""
    response = openapi["paths"]["/probe/admin"]["get"]["responses"]["403"]
    content = response["content"]
    assert list(content) == ["application/problem+json"]
    content = content["application/problem+json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert content["examples"]["forbidden"]["value"] == {
        "type": "/errors/forbidden",
        "title": "You may not do this.",
        "status": 403,
        "code": "forbidden",
    }
    assert "`forbidden` You may not do this." in response["description"]


def test_the_frameworks_own_error_is_gone(openapi: dict[str, Any]) -> None:
    """Nothing in the document speaks of HTTPValidationError, which is never sent."""
    assert "ValidationError" not in str(openapi)
    assert "Problem" in openapi["components"]["schemas"]


def test_every_documented_error_is_registered(openapi: dict[str, Any]) -> None:
    """Each code in the document is an entry of the registry, with its status."""
    seen = 0
    for path, methods in openapi["paths"].items():
        for method in methods:
            for status, found in codes(openapi, method, path).items():
                assert {registry[code].status for code in found} == {int(status)}
                seen += len(found)
    assert seen > 20


def test_every_operation_says_what_it_does(openapi: dict[str, Any]) -> None:
    """Each operation has a description, from its docstring."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), (method, path)


def test_a_channel_declares_its_handlers_errors(server: RunningServer) -> None:
    """What a channel can answer with is what its guards and its handlers declare."""
    found = {
        route.path: errors_of(dependant)
        for route, dependant in operations(server.app)
        if route.path == "/probe/channel"
    }
    guards = {AuthenticationFailed, TokenExpired, SessionRevoked, InsufficientScope}
    assert found == {"/probe/channel": {*guards, Forbidden}}


def test_the_methods_of_an_address_are_those_of_all_its_routes(server: RunningServer) -> None:
    """Routes of one address, wherever they were included, add up."""
    assert methods_at(server.app, "/probe/several") == {"POST", "PUT"}
    assert methods_at(server.app, "/probe/nowhere") == set()


async def test_a_problem_fits_its_own_schema(
    server: RunningServer, openapi: dict[str, Any]
) -> None:
    """The members that are always sent are those that the schema requires."""
    async with server.client() as client:
        problem = (await client.get("/probe/deep")).json()
    schema = openapi["components"]["schemas"]["Problem"]
    assert set(schema["required"]) <= set(problem) <= set(schema["properties"])


def test_an_operation_lists_the_credentials_it_takes(openapi: dict[str, Any]) -> None:
    """An access token wherever a guard asks who it is, and nowhere else."""

    def security(method: str, path: str) -> list[dict[str, list[str]]]:
        found: list[dict[str, list[str]]] = openapi["paths"][path][method].get("security", [])
        return found

    for path in ("/probe/deep", "/probe/shelves", "/probe/admin"):
        assert {"OAuth2PasswordBearer": []} in security("get", path)
    assert security("get", "/probe/plain") == []


def test_an_operation_says_what_its_guards_ask_for(openapi: dict[str, Any]) -> None:
    """In words for people and in `x-requires` for programs; of two ages the shorter."""
    shelves, clear = (openapi["paths"]["/probe/shelves"][method] for method in ("get", "delete"))
    assert shelves["x-requires"] == {"scopes": ["shelves:read"]}
    assert "it takes the scope `shelves:read`." in shelves["description"]
    assert clear["x-requires"] == {"max_age": 300, "second_factor": True}
    assert "No key and no limited token may do this." in clear["description"]
    assert "within 5 minutes by a second factor who they are." in clear["description"]
    admin = openapi["paths"]["/probe/admin"]["get"]
    assert admin["x-requires"] == {"roles": ["admin"]}
    assert "It takes the role `admin`." in admin["description"]
    assert "x-requires" not in openapi["paths"]["/probe/plain"]["get"]
