"""OpenAPI that tells the truth about errors: collected from `@raises` by walking the dependants."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict

from app.core.boundary import PROBLEM_JSON
from app.core.errors import AppError, InternalError, InvalidParameter, declared


class Problem(BaseModel):
    """An error (RFC 9457), the same at every door."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None
    code: str
    error_code: int | None
    retryable: bool
    request_id: str | None
    retry_after: float | None = None
    errors: list[dict[str, Any]] | None = None


def operations(app: FastAPI) -> Iterator[tuple[Any, Dependant]]:
    """Every route that FastAPI resolves dependencies for, at both doors, with its dependant."""
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is not None:
            yield route, dependant


def methods_at(app: FastAPI, path: str) -> set[str]:
    """The methods that some route takes at this path."""
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        pattern = getattr(route, "path_regex", None)
        if pattern is not None and pattern.match(path):
            found.update(route.methods or ())
    return found


def errors_of(dependant: Dependant) -> set[type[AppError]]:
    """What an operation declares: its own `@raises`, its guards', and a channel's handlers'."""
    found: set[type[AppError]] = set()
    if dependant.call is not None:
        found.update(declared(dependant.call))
        for handler in getattr(dependant.call, "__handlers__", {}).values():
            found.update(declared(handler.function))
    for sub in dependant.dependencies:
        found |= errors_of(sub)
    return found


def declared_errors(app: FastAPI) -> Callable[[object], set[type[AppError]]]:
    """A look-up from an endpoint to the errors it declares, over the routes as they are then."""
    known: dict[int, set[type[AppError]]] = {}

    def look_up(endpoint: object) -> set[type[AppError]]:
        if id(endpoint) not in known:
            for route, dependant in operations(app):
                known.setdefault(id(route.endpoint), set()).update(errors_of(dependant))
        return known.get(id(endpoint), set())

    return look_up


def document_errors(app: FastAPI) -> None:
    """Make `app.openapi()` list each operation's errors as problem+json, with an example each."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        if "Problem" in schema.setdefault("components", {}).setdefault("schemas", {}):
            return schema
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        for route, dependant in operations(app):
            errors = errors_of(dependant) | {InternalError}
            for method in getattr(route, "methods", None) or ():
                operation = schema["paths"].get(route.path_format, {}).get(method.lower())
                if operation:
                    _describe(operation["responses"], errors)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(responses: dict[str, Any], errors: Iterable[type[AppError]]) -> None:
    if "422" in responses:
        responses.pop("422")
        errors = {*errors, InvalidParameter}
    for error in sorted(errors, key=lambda e: (e.status, e.code)):
        response = responses.setdefault(
            str(error.status),
            {
                "description": "",
                "content": {
                    PROBLEM_JSON: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        response["description"] = f"{response['description']} `{error.code}` {error.title}".strip()
        example = error.describe()
        example = {key: example[key] for key in ("type", "title", "status", "code")}
        response["content"][PROBLEM_JSON]["examples"][error.code] = {"value": example}
