"""A receiver of traces over OTLP/HTTP, as a collector is: what it is sent, decoded."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DEADLINE = 20


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it was received; ids in hexadecimal, `parent` empty where it has none."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    failed: bool
    service: str


class Collector:
    """Takes spans for as long as its block lasts; `hangs` leaves requests without an answer."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.raw: list[bytes] = []
        self._spans: list[ReceivedSpan] = []
        self._news = threading.Condition()
        self._over = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hangs:
                    collector._over.wait()
                    return
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector._take(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_request(self, code: Any = "-", size: Any = "-") -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            self.raw.append(body)
            for resource in request.resource_spans:
                named = _values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self._spans.append(_received(span, named["service.name"]))
            self._news.notify_all()

    def until(self, found: Callable[[ReceivedSpan], bool], count: int = 1) -> list[ReceivedSpan]:
        """The spans that are so, once there are that many; in the order that they came in."""
        end = time.monotonic() + DEADLINE
        with self._news:
            while True:
                spans = [span for span in self._spans if found(span)]
                if len(spans) >= count:
                    return spans
                left = end - time.monotonic()
                assert left > 0, f"only {len(spans)} of {count}, among {self._spans}"
                self._news.wait(left)

    def named(self, name: str, count: int = 1) -> list[ReceivedSpan]:
        """The spans of this name, once there are that many."""
        return self.until(lambda span: span.name == name, count)

    @property
    def names(self) -> list[str]:
        """The names of all spans that have come."""
        with self._news:
            return [span.name for span in self._spans]


def _received(span: Any, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_values(span.attributes),
        failed=span.status.code == 2,
        service=service,
    )


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        found[each.key] = getattr(each.value, kind)
    return found
