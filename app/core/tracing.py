"""Traces by OpenTelemetry: what a request or message led to, in whichever process.

The standard OTEL_* variables configure them. Without OTEL_EXPORTER_OTLP_ENDPOINT (or
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) nothing is set up. A trace goes on where work does, in the form
of W3C Trace Context: with a job, with an event, with a call of another service.
"""

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.caller import current_caller
from app.core.errors import to_app_error
from app.core.observability import log

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult

#: What instrumentations put queries into; tickets and cursors are in queries.
WITH_QUERIES = frozenset({"url.query", "url.full", "http.url", "http.target"})
FLUSH_SECONDS = 1.0

_W3C = TraceContextTextMapPropagator()


def current_traceparent() -> str | None:
    """The current span as a `traceparent` (W3C Trace Context), to go along with what it causes."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent")


class Tracing:
    """The spans of an application; every method is free of cost where nothing is configured.

    Args:
        environment: where the OTEL_* variables are; the SDK itself reads those of the process.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._provider = _provider() if _is_wanted(environment) else None
        self._tracer = self._provider.get_tracer("duplex") if self._provider else None

    @property
    def on(self) -> bool:
        """Whether there are spans."""
        return self._provider is not None

    @property
    def config(self) -> "TelemetryConfig":
        """What FastAPI is told: requests are its own to trace, sockets and health checks not."""
        return {
            "tracer_provider": self._provider,
            "tracing": self.on,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_left_out,
        }

    def start(self) -> None:
        """Begin to export: from a queue of 2048 spans, in a thread that nothing waits for."""
        if self._provider is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))

    async def stop(self, seconds: float = FLUSH_SECONDS) -> None:
        """Export what waits, within this time; then give it up."""
        if self._provider is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        provider = self._provider

        def flush() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # the loop did not wait so long
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=flush, name="flush of spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await done.wait()
                return
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def message(self, channel: str, kind: str) -> AbstractContextManager[None]:
        """A trace for the handling of one message; it links to the handshake of its socket."""
        if self._tracer is None:
            return _NOTHING
        handshake = trace.get_current_span().get_span_context()
        links = [Link(handshake)] if handshake.is_valid else []
        attributes = {
            "duplex.channel": channel,
            "duplex.message": kind,
            "request_id": current_caller().request_id,
        }
        return self._span(f"{channel} {kind}", Context(), SpanKind.SERVER, attributes, links)

    def job(
        self, name: str, number: int, attempt: int, traceparent: str | None
    ) -> AbstractContextManager[None]:
        """A span for one try of a job, in the trace of whoever wanted it."""
        attributes: Attributes = {
            "duplex.job": name,
            "duplex.job_id": number,
            "duplex.attempt": attempt,
        }
        return self._span(f"job {name}", _context(traceparent), SpanKind.CONSUMER, attributes)

    def publish(self, topic: str) -> AbstractContextManager[None]:
        """A span for the publication of an event; `topic` is the pattern of its name."""
        return self._span(f"publish {topic}", None, SpanKind.PRODUCER, {"duplex.topic": topic})

    def deliver(self, topic: str, traceparent: str | None) -> AbstractContextManager[None]:
        """A span for an event of another process, in the trace of whoever published it."""
        if traceparent is None:
            return _NOTHING
        attributes = {"duplex.topic": topic}
        context = _context(traceparent)
        return self._span(f"deliver {topic}", context, SpanKind.CONSUMER, attributes)

    def handshake(self, scope: Scope) -> Span | None:
        """A span for the opening of a socket, in the client's trace if it has one."""
        if self._tracer is None:
            return None
        context = _W3C.extract(dict(Headers(scope=scope)), Context())
        attributes = {"network.protocol.name": "websocket", "url.path": scope["path"]}
        return self._tracer.start_span("WS", context, SpanKind.SERVER, attributes)

    def _span(
        self,
        name: str,
        context: Context | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link] = (),
    ) -> AbstractContextManager[None]:
        if self._tracer is None:
            return _NOTHING
        return _current(self._tracer.start_span(name, context, kind, attributes, links))


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Let `span` be the current one, and end with the block; an error is named by its code."""
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield
        except Exception as exc:
            error = to_app_error(exc)
            span.set_attribute("error.type", error.code)
            if error.status >= 500:
                span.set_status(StatusCode.ERROR)
            raise


_NOTHING: AbstractContextManager[None] = nullcontext()


def _context(traceparent: str | None) -> Context:
    """The context of a span elsewhere; an empty one where there is none, or none that is valid."""
    carrier = {"traceparent": traceparent} if traceparent else {}
    return _W3C.extract(carrier, Context())


def _is_left_out(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["type"] == "websocket" or path.startswith("/health/")


def _is_wanted(environment: Mapping[str, str]) -> bool:
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    endpoint = endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    protocol = protocol or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if not endpoint or exporter == "none":
        return False
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter != "otlp" or protocol != "http/protobuf":
        log.warning("no traces", reason="OTEL_TRACES_EXPORTER is otlp, over http/protobuf")
        return False
    if not endpoint.startswith(("http://", "https://")):
        log.warning("no traces", reason="OTEL_EXPORTER_OTLP_ENDPOINT is http://host:port")
        return False
    return True


def _provider() -> "TracerProvider":
    # Only who has traces loads the SDK.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    named = Resource.create()
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        named = named.merge(Resource({"service.name": "duplex"}))
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.sampler = _without_queries(provider.sampler)
    return provider


def _without_queries(sampler: "Sampler") -> "Sampler":
    """The same sampler. Spans begin with the attributes that it hands on: queries are not."""
    from opentelemetry.sdk.trace import sampling  # noqa: PLC0415

    class WithoutQueries(sampling.Sampler):
        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> "SamplingResult":
            kept = {k: v for k, v in (attributes or {}).items() if k not in WITH_QUERIES}
            return sampler.should_sample(
                parent_context, trace_id, name, kind, kept, links, trace_state
            )

        def get_description(self) -> str:
            return sampler.get_description()

    return WithoutQueries()


class SocketSpans:
    """ASGI middleware: a span for each handshake, which ends as that does and not with the socket.

    A span is exported at its end: one of a socket would be seen hours later, or never.
    """

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        span = self.tracing.handshake(scope) if scope["type"] == "websocket" else None
        if span is None:
            await self.app(scope, receive, send)
            return
        ended = False

        def end(status: int | None) -> None:
            nonlocal ended
            if not ended:
                ended = True
                _describe(span, scope, status)
                span.end()

        async def watching_send(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.close"):
                end(101 if message["type"] == "websocket.accept" else 403)
            elif message["type"] == "websocket.http.response.start":
                end(message["status"])
            await send(message)

        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                await self.app(scope, receive, watching_send)
            finally:
                end(None)


def _describe(span: Span, scope: Scope, status: int | None) -> None:
    if path := getattr(scope.get("route"), "path", None):
        span.update_name(f"WS {path}")
        span.set_attribute("http.route", path)
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    if status is None or status >= 500:
        span.set_status(StatusCode.ERROR)
