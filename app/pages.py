"""The pages that the service serves itself: the registry of errors, Swagger UI, and which
features have a page of their own.
"""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Header, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import iter_route_contexts

from app.core.errors import NotFound, registry
from app.core.settings import Settings

WEB = Path(__file__).parent.parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> FileResponse:
    """Swagger UI, from this server alone."""
    return FileResponse(WEB / "docs.html")


@router.get("/errors")
async def errors(accept: Annotated[str, Header()] = "") -> Response:
    """Every error that a client can meet: a page for a browser, else JSON."""
    if "text/html" in accept:
        return FileResponse(WEB / "errors.html", headers={"Vary": "Accept"})
    listed = [error.describe() for _, error in sorted(registry.items())]
    return JSONResponse({"errors": listed}, headers={"Vary": "Accept"})


@router.get("/errors/{code}")
async def error(code: str, accept: Annotated[str, Header()] = "") -> Response:
    """One error, where its `type` points."""
    if code not in registry:
        raise NotFound("No error has this code.")
    if "text/html" in accept:
        return RedirectResponse(f"../errors#{code}", headers={"Vary": "Accept"})
    return JSONResponse(registry[code].describe(), headers={"Vary": "Accept"})


@router.get("/pages.json")
async def pages(request: Request) -> dict[str, Any]:
    """The features that have a page, which the front page loads, and what signs people in."""
    mounted = _mounted(request.app)
    return {
        "pages": sorted(page.parent.name for page in _of_features("page.js", mounted)),
        "sign_in": _sign_in(request.app.state.settings, mounted),
    }


def _sign_in(settings: Settings, mounted: set[str]) -> dict[str, Any]:
    """The module that signs people in, and what it has to know."""
    for module in _of_features("sign-in.js", mounted):
        return {"module": module.relative_to(WEB).as_posix()}
    return {
        "module": "core/provider.js",
        "issuer": settings.oidc_issuer,
        "client_id": settings.oidc_client_id,
        "scope": settings.oidc_client_scope,
        "audience": settings.oidc_audience,
    }


def reached(settings: Settings) -> list[str]:
    """The origins beside our own that the front page asks: where people log in, a provider's."""
    if settings.auth_mode == "local" or not settings.oidc_client_id:
        return []
    issuer = urlsplit(settings.oidc_issuer)
    return [f"{issuer.scheme}://{issuer.netloc}"]


def _of_features(file: str, mounted: set[str]) -> list[Path]:
    """The files of this name in the folders of features that are there."""
    return sorted(found for found in WEB.glob(f"*/{file}") if found.parent.name in mounted)


def _mounted(app: FastAPI) -> set[str]:
    """The features that have a route here: those of accounts have none beside a provider."""
    above = "app.features."
    modules = (
        getattr(getattr(route, "endpoint", None), "__module__", "")
        for route in iter_route_contexts(app.routes)
    )
    return {each.removeprefix(above).split(".")[0] for each in modules if each.startswith(above)}
