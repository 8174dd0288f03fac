"""`create_app(settings)`: the only place where everything is wired."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from prometheus_client import Gauge
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import features, pages
from app.core import housekeeping, mail, metrics
from app.core.background import Periodic
from app.core.boundary import ErrorBoundary, answer
from app.core.connections import OpenConnections
from app.core.db import SqlDatabase
from app.core.documents import (
    declared_access,
    declared_errors,
    document,
    methods_at,
    templates,
)
from app.core.errors import AppError, MethodNotAllowed, NotFound
from app.core.http import (
    ClientLimit,
    HeaderLimit,
    KnownHosts,
    PlainTextErrors,
    SecurityHeaders,
    WebSocketGate,
    route_path,
)
from app.core.idempotency import IdempotencyKeys
from app.core.jobs import JobQueue, JobRoutes, JobRunner
from app.core.keyring import Keyring
from app.core.keyring import router as keyring_router
from app.core.limits import Limits, whole_client
from app.core.observability import RequestContext
from app.core.oidc import OpenIdProvider, document_provider
from app.core.outbound import OutboundClient
from app.core.revocations import Revocations
from app.core.sampling import LoopLag, sampling
from app.core.settings import Environment, Settings
from app.core.tickets import by_ticket
from app.core.tracing import FLUSH_SECONDS, SocketSpans, Tracing
from app.core.watchdog import Watchdog
from app.realtime import EventHub
from app.realtime.backplane import Backplane, MemoryBackplane

EXCEPTIONS = (
    AppError,
    HTTPException,
    WebSocketException,
    RequestValidationError,
    WebSocketRequestValidationError,
)


def create_app(settings: Settings) -> FastAPI:
    """The whole service as an ASGI application; of the environment OTEL_* alone is read."""
    tracing = Tracing()
    app = FastAPI(
        telemetry=tracing.config,
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
    app.state.tracing = tracing
    app.state.database = SqlDatabase(
        settings.database,
        pool_size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
    )
    local = features.local if settings.auth_mode == "local" else []
    # What proves who somebody is beside an access token: API keys, cookies, tickets.
    app.state.credentials = [by_ticket, *features.credentials]
    for people in local:
        app.state.credentials += people.credentials
    app.state.outbound = OutboundClient(
        timeout=settings.outbound_timeout_seconds,
        retries=settings.outbound_retries,
        token_hosts=frozenset(settings.outbound_token_hosts),
    )
    app.state.idempotency = IdempotencyKeys(settings.idempotency_lifetime)
    app.state.limits = Limits(
        settings.redis_url.get_secret_value() if settings.redis_url else None,
        settings.redis_prefix,
        client=whole_client(settings.rate_limit),
    )
    app.state.connections = OpenConnections()
    app.state.revocations = Revocations(
        app.state.database, app.state.connections, keep=settings.revocation_lifetime
    )
    app.state.backplane = _backplane(settings)
    app.state.hub = EventHub(
        app.state.database, app.state.backplane, app.state.revocations, tracing
    )
    # What runs beside the requests, as Periodic.
    app.state.background = [app.state.revocations.polling]
    # What a process knows before it takes a token.
    app.state.loaded_first = [app.state.revocations.load]
    _verify_tokens(app)
    app.state.jobs = JobQueue(app.state.database, _job_routes(people.jobs for people in local))
    app.state.mail = mail.Mailer(settings, app.state.jobs)
    for provide in (*features.services, *(people.provide for people in local)):
        provide(app.state)
    if settings.jobs_in_process:
        app.state.background.append(_job_runner(app))
    if settings.metrics_port:
        app.state.background += _measuring(app)
    app.state.declared_errors = declared_errors(app)
    app.state.template_of = templates(app)
    app.state.access = declared_access(app)

    app.include_router(features.router)
    for people in local:
        app.include_router(people.router, prefix="/api/v1")
    app.include_router(pages.router)
    if app.state.mail.is_shown:
        app.include_router(mail.development)
    app.frontend("/", directory=pages.WEB, fallback=None, check_dir=True)
    app.router.default = _nothing_here
    document(app)
    if settings.auth_mode == "oidc":
        document_provider(app, settings.oidc_issuer)
    _add_middleware(app, settings)
    return app


def _backplane(settings: Settings) -> Backplane:
    if settings.redis_url is None:
        return MemoryBackplane()
    from app.realtime.redis_backplane import RedisBackplane  # noqa: PLC0415 - only who uses Redis

    return RedisBackplane(settings.redis_url.get_secret_value(), settings.redis_prefix)


def _verify_tokens(app: FastAPI) -> None:
    """Have access tokens verified: our own, by keys of the database, or a provider's."""
    state, settings = app.state, app.state.settings
    if settings.auth_mode == "oidc":
        state.verifier = provider = OpenIdProvider(settings, state.outbound)
        state.background.append(provider.keys.refreshing)
        state.loaded_first.append(provider.keys.load)
    else:
        keyring = Keyring(state.database, settings, state.revocations)
        state.verifier = state.tokens = keyring.tokens
        state.background.append(keyring.polling)
        state.loaded_first.append(keyring.load)
        app.include_router(keyring_router)


def _job_routes(local: Iterable[JobRoutes]) -> JobRoutes:
    routes = JobRoutes()
    for part in (housekeeping.jobs, mail.jobs, features.jobs, *local):
        routes.include(part)
    return routes


def _job_runner(app: FastAPI) -> JobRunner:
    state, settings = app.state, app.state.settings
    return JobRunner(
        state.jobs,
        state.database,
        state,
        at_once=settings.jobs_at_once,
        shutdown_seconds=settings.shutdown_seconds,
        ending=lambda: state.connections.draining,
        tracing=state.tracing,
    )


def _measuring(app: FastAPI) -> list[LoopLag | Periodic]:
    """What sets the gauges that Prometheus reads."""
    state = app.state
    gauges: dict[Gauge, Callable[[], float]] = {
        metrics.CONNECTIONS: lambda: len(state.connections),
        metrics.SUBSCRIPTIONS: state.hub.subscriptions,
        metrics.OUTBOX_BYTES: state.hub.unread,
        metrics.FEED_LAG_SECONDS: lambda: state.hub.lag()[0],
        metrics.FEED_LAG_EVENTS: lambda: state.hub.lag()[1],
        metrics.BACKPLANE_CONNECTED: lambda: state.backplane.connected,
        metrics.POOL_USED: lambda: state.database.connections_used,
        metrics.POOL_SIZE: lambda: state.database.pool_size,
    }
    return [LoopLag(), sampling(gauges, state.jobs.backlog)]


def _exception_handlers() -> dict[int | type[Exception], Any]:
    # Any: Starlette's type knows no handler for WebSockets, which its code calls all the same.
    return {405: _wrong_method} | dict.fromkeys(EXCEPTIONS, answer)


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    # The last one added is the first that a request meets.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(
        WebSocketGate,
        origins=settings.allowed_origins,
        limit=settings.ws_max_connections,
        per_address=settings.ws_max_per_address,
        per_user=settings.ws_max_per_user,
    )
    app.add_middleware(KnownHosts, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(ClientLimit, limits=app.state.limits)
    app.add_middleware(HeaderLimit)
    app.add_middleware(ErrorBoundary)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
        expose_headers=["X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"],
    )
    app.add_middleware(PlainTextErrors)
    app.add_middleware(SecurityHeaders, reached=pages.reached(settings))
    app.add_middleware(RequestContext)
    if app.state.tracing.on:
        app.add_middleware(SocketSpans, tracing=app.state.tracing)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound


async def _wrong_method(request: Request, exc: Exception) -> Response | None:
    # The framework names the methods of the first route of this path only (RFC 9110, 15.5.6).
    allowed = methods_at(request.app, route_path(request.scope))
    return await answer(request, MethodNotAllowed(headers={"Allow": ", ".join(sorted(allowed))}))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = app.state
    tasks: list[asyncio.Task[None]] = []
    development = state.settings.environment is Environment.DEVELOPMENT
    watchdog = Watchdog(state.settings.watchdog_seconds, ends=not development)
    try:
        watchdog.start()
        state.tracing.start()
        background = [*await state.hub.start(), *state.background]
        for load in state.loaded_first:  # with a start that fails rather than one that lets in
            await load()
        tasks += (asyncio.create_task(each.run(), name=each.name) for each in background)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await state.hub.stop()
        await state.outbound.pool.close()
        await state.limits.close()
        await state.database.dispose()
        await state.tracing.stop(min(FLUSH_SECONDS, state.settings.shutdown_seconds / 5))
        watchdog.stop()
