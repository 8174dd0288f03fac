"""The pages that the service serves itself: the registry of errors, Swagger UI, and which
examples have a page of their own.
"""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from app.core.errors import NotFound, registry

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
async def pages() -> dict[str, Any]:
    """The features that have a page, which the front page loads."""
    return {"pages": sorted(page.parent.name for page in WEB.glob("*/page.js"))}
