"""`create_app(settings)`: the only place where everything is wired."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import features, pages
from app.core.boundary import ErrorBoundary, answer
from app.core.db import SqlDatabase
from app.core.documents import declared_errors, document_errors, methods_at
from app.core.errors import AppError, MethodNotAllowed, NotFound
from app.core.http import (
    HeaderLimit,
    KnownHosts,
    PlainTextErrors,
    SecurityHeaders,
    WebSocketGate,
    route_path,
)
from app.core.observability import RequestContext
from app.core.settings import Settings
from app.core.tokens import Tokens
from app.features.accounts.passwords import Passwords
from app.realtime import EventHub

EXCEPTIONS = (
    AppError,
    HTTPException,
    WebSocketException,
    RequestValidationError,
    WebSocketRequestValidationError,
)


def create_app(settings: Settings) -> FastAPI:
    """The whole service as an ASGI application; nothing is read but `settings`."""
    app = FastAPI(
        title="Duplex",
        description="REST and WebSockets as equals. Every error is listed at [errors](errors).",
        version="0.1.0",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=_exception_handlers(),
    )
    app.state.settings = settings
    app.state.database = SqlDatabase(
        settings.database,
        pool_size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
    )
    app.state.tokens = Tokens(
        settings.secret_key.get_secret_value(),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        lifetime=settings.access_token_lifetime,
        leeway=settings.token_leeway,
    )
    app.state.passwords = Passwords(settings.password_workers)
    app.state.hub = EventHub()
    app.state.declared_errors = declared_errors(app)

    app.include_router(features.router)
    app.include_router(pages.router)
    app.frontend("/", directory=pages.WEB, fallback=None, check_dir=True)
    app.router.default = _nothing_here
    document_errors(app)
    _add_middleware(app, settings)
    return app


def _exception_handlers() -> dict[int | type[Exception], Any]:
    # Any: Starlette's type knows no handler for WebSockets, which its code calls all the same.
    return {405: _wrong_method} | dict.fromkeys(EXCEPTIONS, answer)


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    # The last one added is the first that a request meets.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(
        WebSocketGate, origins=settings.allowed_origins, limit=settings.ws_max_connections
    )
    app.add_middleware(KnownHosts, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(HeaderLimit)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )
    app.add_middleware(PlainTextErrors)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestContext)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound


async def _wrong_method(request: Request, exc: Exception) -> Response | None:
    # The framework names the methods of the first route of this path only (RFC 9110, 15.5.6).
    allowed = methods_at(request.app, route_path(request.scope))
    return await answer(request, MethodNotAllowed(headers={"Allow": ", ".join(sorted(allowed))}))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.database.dispose()
