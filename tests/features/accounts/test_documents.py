"""OpenAPI of what keys and cookies open."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Depends

from app.core.auth import Admin, CurrentUser, Fresh, has_scope, scope, scopes
from tests.conftest import settings_for
from tests.server import RunningServer

router = APIRouter(prefix="/probe")
READ = scope("books:read", "Read what is in the books")


@router.get("/deep")
async def deep(user: CurrentUser) -> None:
    """For whoever is signed in."""


@router.get("/admin")
async def admin(user: Admin) -> None:
    """For administrators."""


@router.get("/books", dependencies=[Depends(has_scope(READ))])
async def books() -> None:
    """Open to keys."""


@router.delete("/books")
async def clear(user: Fresh) -> None:
    """Not to be undone."""


@router.get("/plain")
async def plain() -> None:
    """Open to everybody."""


@pytest.fixture(scope="module")
def openapi(new_sqlite: Callable[[], str]) -> Iterator[dict[str, Any]]:
    """The document, as a client gets it."""
    with RunningServer(settings_for(new_sqlite()), router) as server:
        document: dict[str, Any] = httpx2.get(f"{server.url}/openapi.json").json()
        yield document


def test_an_operation_lists_the_credentials_it_takes(openapi: dict[str, Any]) -> None:
    """A key only where a guard names a scope or a role, with the scopes that it needs."""
    people: list[dict[str, list[str]]] = [{"OAuth2PasswordBearer": []}, {"Cookie": []}]

    def security(method: str, path: str) -> list[dict[str, list[str]]]:
        found = openapi["paths"][path][method].get("security", [])
        return sorted(
            found, key=lambda each: ["OAuth2PasswordBearer", "Cookie", "ApiKey"].index(*each)
        )

    assert security("get", "/probe/deep") == people
    assert security("get", "/probe/books") == [*people, {"ApiKey": ["books:read"]}]
    assert security("get", "/probe/admin") == [*people, {"ApiKey": ["admin"]}]
    assert security("get", "/probe/plain") == []


def test_each_credential_is_described(openapi: dict[str, Any]) -> None:
    """Keys are bearers with known scopes; the cookie has its name."""
    schemes = openapi["components"]["securitySchemes"]
    key, cookie = schemes["ApiKey"], schemes["Cookie"]
    assert (key["type"], key["scheme"]) == ("http", "bearer")
    for name, meaning in scopes.items():
        assert f"- `{name}`: {meaning}" in key["description"]
    assert (cookie["type"], cookie["in"], cookie["name"]) == ("apiKey", "cookie", "__Host-session")


def test_csrf_is_no_matter_of_what_is_only_read(openapi: dict[str, Any]) -> None:
    """Its error is listed where a cookie does not do alone, and nowhere else."""
    assert "csrf_failed" in forbidden(openapi, "delete")
    assert "csrf_failed" not in forbidden(openapi, "get")


def forbidden(openapi: dict[str, Any], method: str) -> set[str]:
    """The codes of 403 that an operation on the books documents."""
    response = openapi["paths"]["/probe/books"][method]["responses"]["403"]
    return set(response["content"]["application/problem+json"]["examples"])
