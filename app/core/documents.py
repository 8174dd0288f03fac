"""OpenAPI that tells the truth about errors and access, found by walking the dependants.

Errors are what `@raises` declares; access is what guards ask for, and the credentials there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import and_
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict

from app.core.auth import Access, Credential, asked_by, current_user, scheme_of, scopes
from app.core.boundary import PROBLEM_JSON
from app.core.errors import AppError, InternalError, InvalidParameter, declared
from app.core.idempotency import IdempotencyKeyReused
from app.core.metrics import UNMATCHED


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


def errors_of(dependant: Dependant, credentials: Sequence[Credential] = ()) -> set[type[AppError]]:
    """What an operation declares: its own `@raises`, its guards', and a channel's handlers'.

    Where somebody has to be signed in, it is also what `credentials` declare.
    """
    found: set[type[AppError]] = set()
    if dependant.call is current_user:
        found.update(*(declared(credential) for credential in credentials))
    if dependant.call is not None:
        found.update(declared(dependant.call))
        for handler in getattr(dependant.call, "__handlers__", {}).values():
            found.update(declared(handler.function))
            if handler.takes_key:
                found.add(IdempotencyKeyReused)
    for sub in dependant.dependencies:
        found |= errors_of(sub, credentials)
    return found


def access_of(dependant: Dependant) -> Access | None:
    """What the guards of an operation ask for; None where nobody has to be signed in."""
    found = [access for sub in dependant.dependencies if (access := access_of(sub)) is not None]
    if dependant.call is current_user or found:
        found.append(asked_by(dependant.call))
    return reduce(and_, found) if found else None


def declared_errors(app: FastAPI) -> Callable[[object], set[type[AppError]]]:
    """A look-up from an endpoint to the errors it declares, over the routes as they are then."""
    known: dict[int, set[type[AppError]]] = {}

    def look_up(endpoint: object) -> set[type[AppError]]:
        if id(endpoint) not in known:
            for route, dependant in operations(app):
                errors = errors_of(dependant, app.state.credentials)
                known.setdefault(id(route.endpoint), set()).update(errors)
        return known.get(id(endpoint), set())

    return look_up


def declared_access(app: FastAPI) -> Callable[[object], Access]:
    """A look-up from an endpoint to what its guards ask for, over the routes as they are then.

    Of an endpoint with several routes it is what the least open of them asks for.
    """
    known: dict[int, Access] = {}

    def look_up(endpoint: object) -> Access:
        if id(endpoint) not in known:
            found: dict[int, Access] = {}
            for route, dependant in operations(app):
                access = access_of(dependant) or Access()
                other = found.setdefault(id(route.endpoint), access)
                if other.takes_limited:
                    found[id(route.endpoint)] = access
            known.update(found)
        return known.get(id(endpoint), Access())

    return look_up


def templates(app: FastAPI) -> Callable[[object], str]:
    """A look-up from an endpoint to the template of its route: `/api/v1/rooms/{room_id}`.

    Of an endpoint with several routes it is the first; UNMATCHED for what is no endpoint of it.
    """
    known: dict[int, str] = {}
    rest = iter_route_contexts(app.routes)  # made one by one, from the first look-up on

    def look_up(endpoint: object) -> str:
        while id(endpoint) not in known:
            route = next(rest, None)
            if route is None:
                return UNMATCHED
            if (of_route := getattr(route, "endpoint", None)) is not None:
                known.setdefault(id(of_route), str(route.path))
        return known[id(endpoint)]

    return look_up


def document(app: FastAPI) -> None:
    """Make `app.openapi()` list what each operation asks for and its errors, with an example each.

    Errors are problem+json. What guards ask for is in `security`, in words in the description,
    and for programs in `x-requires`.
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        if "Problem" in schema.setdefault("components", {}).setdefault("schemas", {}):
            return schema
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        for route, dependant in operations(app):
            errors = errors_of(dependant, app.state.credentials) | {InternalError}
            access = access_of(dependant)
            for method in getattr(route, "methods", None) or ():
                operation = schema["paths"].get(route.path_format, {}).get(method.lower())
                if operation:
                    meant = {error for error in errors if method not in error.never_by}
                    _describe(operation["responses"], meant)
                    if access is not None:
                        _describe_access(operation, access, app.state.credentials)
        _describe_schemes(schema["components"], app.state.credentials)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_access(
    operation: dict[str, Any], access: Access, credentials: Iterable[Credential]
) -> None:
    asked = sorted({*(access.scopes or ()), *(access.roles & scopes.keys())})
    for credential in credentials:
        scheme = scheme_of(credential)
        if scheme and (access.takes_limited or not scheme.limited):
            operation["security"].append({scheme.name: asked if scheme.limited else []})
    requires: dict[str, Any] = {}
    words = []
    if access.scopes:
        requires["scopes"] = sorted(access.scopes)
        words.append(f"Of a key or a limited token it takes {_listed('scope', access.scopes)}.")
    elif not access.takes_limited:
        words.append("No key and no limited token may do this.")
    if access.roles:
        requires["roles"] = sorted(access.roles)
        words.append(f"It takes {_listed('role', access.roles)}.")
    if access.within is not None:
        requires["max_age"] = int(access.within.total_seconds())
        requires["second_factor"] = access.second_factor
        how = " by a second factor" if access.second_factor else ""
        minutes = f"{access.within.total_seconds() / 60:g}"
        words.append(f"It takes somebody who proved within {minutes} minutes{how} who they are.")
    operation["x-requires"] = requires
    operation["description"] = "\n\n".join((operation.get("description", ""), *words)).strip()


def _listed(kind: str, names: Iterable[str]) -> str:
    quoted = [f"`{name}`" for name in sorted(names)]
    return f"the {kind}{'s' if len(quoted) > 1 else ''} {', '.join(quoted)}"


def _describe_schemes(components: dict[str, Any], credentials: Iterable[Credential]) -> None:
    schemes = components.setdefault("securitySchemes", {})
    for credential in credentials:
        if scheme := scheme_of(credential):
            told = dict(scheme.definition)
            if scheme.limited:
                known = [f"- `{name}`: {meaning}" for name, meaning in sorted(scopes.items())]
                told["description"] = "\n".join((told["description"], "", *known))
            schemes[scheme.name] = told


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
