"""One line for each request and each connection, and the id that ties errors to them."""

import logging
import re
import sys
import time
from typing import Any
from uuid import uuid4

import structlog
from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.caller import caller_of, enter
from app.core.errors import Restarting, UpstreamError, to_app_error
from app.core.metrics import UNMATCHED, count_close, count_handshake, count_request

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
SECRET_KEYS = re.compile(r"authorization|cookie|password|secret|token|body|query", re.IGNORECASE)
# uvicorn writes an ERROR for each, the second with a traceback, though nothing of ours is wrong.
FAULTS_OF_CLIENTS = ("without completing handshake", "Invalid UTF-8 sequence received")

log = structlog.stdlib.get_logger("duplex")


def configure_logging(*, level: str, json: bool) -> None:
    """Send structlog's lines and those of every library to standard output, in one format.

    Args:
        level: the least important level that is written.
        json: a JSON object a line, for machines; otherwise text for a person.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _name_trace,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    renderer: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        # Plain tracebacks: the pretty ones print local variables, and those may be secrets.
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Below WARNING uvicorn prints WebSocket addresses with their query, and the headers of
    # handshakes.
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.setLevel(logging.WARNING)
    uvicorn.addFilter(_is_worth_a_line)
    for chatty in ("aiosqlite", "asyncio", "alembic", "sqlalchemy.engine", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in FAULTS_OF_CLIENTS)


def _name_trace(_: Any, __: str, line: dict[str, Any]) -> dict[str, Any]:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line["trace_id"] = trace.format_trace_id(span.trace_id)
    return line


def _redact(_: Any, __: str, line: dict[str, Any]) -> dict[str, Any]:
    for key in line:
        if SECRET_KEYS.search(key):
            line[key] = "[redacted]"
    return line


class RequestContext:
    """ASGI middleware: gives each request and connection its id; logs and counts it as it ends.

    An `X-Request-ID` of 8 to 64 letters, digits, `.`, `_` or `-` is taken over, any other is
    replaced. The line names the path and never the query, a header or a body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["began"] = time.monotonic()
        trace.get_current_span().set_attribute("request_id", request_id)
        enter(caller_of(scope, request_id))
        seen: dict[str, Any] = {}
        started = time.perf_counter()

        async def watching_send(message: Message) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                seen["status"] = message["status"]
                seen["answered"] = time.perf_counter() - started
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif kind == "websocket.accept":
                message.setdefault("headers", [])
                MutableHeaders(scope=message)["x-request-id"] = request_id
                seen["accepted"] = True
                count_handshake(_template(scope), 101)
            elif kind == "websocket.close":
                seen.setdefault("close_code", message.get("code", 1000))
            await send(message)

        async def watching_receive() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                seen.setdefault("close_code", message.get("code", 1005))
            return message

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, watching_receive, watching_send)
            finally:
                _log_end(scope, seen, time.perf_counter() - started)
                _count_end(scope, seen)


def _log_end(scope: Scope, seen: dict[str, Any], seconds: float) -> None:
    state = scope["state"]
    line: dict[str, Any] = {"path": scope["path"], "ms": round(seconds * 1000, 1)}
    if scope["type"] == "http":
        line["method"] = scope["method"]
    if client := scope.get("client"):
        line["client"] = client[0]
    if principal := state.get("principal"):
        line["user"] = principal.subject
    if code := state.get("error"):
        line["error"] = code
    line |= {key: seen[key] for key in ("status", "close_code") if key in seen}
    accepted = seen.get("accepted")
    log.info("connection" if accepted else "request", **line)


def _count_end(scope: Scope, seen: dict[str, Any]) -> None:
    template, status = _template(scope), seen.get("status")
    if seen.get("accepted"):
        count_close(template, seen.get("close_code", 1006))
    elif scope["type"] == "websocket":
        count_handshake(template, status)
    else:
        answered = seen.get("answered")
        if answered is not None:  # a long poll is not slow
            answered = max(0.0, answered - scope["state"].get("waited", 0.0))
        count_request(scope["method"], template, status, answered)


def _template(scope: Scope) -> str:
    """The route that took a request: of `/rooms/7` that is `/rooms/{room_id}`."""
    endpoint, app = scope.get("endpoint"), scope.get("app")
    if endpoint is None or app is None:
        return UNMATCHED
    template: str = app.state.template_of(endpoint)
    return template


def report(exc: Exception) -> None:
    """Log an error that is ours, with its traceback; one of the client's needs no line.

    One of another service's names that service: a traceback of ours would say nothing about it.
    """
    status = to_app_error(exc).status
    if isinstance(exc, Restarting):
        return  # it is meant, and told to every connection: the server has a line for all of them
    if isinstance(exc, UpstreamError):
        log.warning("upstream error", error=exc.code, host=exc.host)
    elif status == 503:
        log.warning("unavailable", reason=type(exc).__name__)
    elif status >= 500:
        log.error("unexpected error", exc_info=exc)
