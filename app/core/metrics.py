"""What is counted, for Prometheus: every metric of the service, and where it is raised.

Labels have few values, whatever clients send: a route is its template, a method and a close code
one that is known, an error its code in the registry. Counting costs microseconds and waits for
nothing, so it is done whether anybody looks or not; docs/watching.md says what each means.
"""

import os
from functools import cache
from typing import Literal

from prometheus_client import CollectorRegistry, disable_created_metrics, values

from app.core.errors import close_code, registry

PLACE = "DUPLEX_PLACE"

if _place := os.environ.pop(PLACE, None):
    # One of several workers: the values are in files that the parent reads. They are named after
    # the worker's place and not its process, or each restart would leave files behind.
    values.ValueClass = values.MultiProcessValue(lambda: _place)  # type: ignore[no-untyped-call]
disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter

# After the values have been chosen: a metric takes its own as it is made.
from prometheus_client import Counter, Gauge, Histogram  # noqa: E402

Door = Literal["rest", "ws"]

REGISTRY = CollectorRegistry()
UNMATCHED = "none"  # the label of whatever no route took
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROTOCOL_CLOSE_CODES = frozenset({*range(1000, 1004), *range(1005, 1016)})  # RFC 6455, 7.4.1; IANA
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DELIVERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_JOB_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


def _counter(name: str, documentation: str, *labels: str) -> Counter:
    return Counter(name, documentation, labels, namespace="duplex", registry=REGISTRY)


def _histogram(
    name: str, documentation: str, *labels: str, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(
        name, documentation, labels, namespace="duplex", registry=REGISTRY, buckets=buckets
    )


def _gauge(name: str, documentation: str, mode: Literal["livesum", "livemax", "livemin"]) -> Gauge:
    # `mode` is how several workers are one number; of one that has ended nothing is left.
    return Gauge(name, documentation, namespace="duplex", registry=REGISTRY, multiprocess_mode=mode)


# The doors
REQUESTS = _counter("requests", "Requests answered.", "method", "route", "status")
REQUEST_SECONDS = _histogram(
    "request_seconds", "Until an answer begins.", "method", "route", buckets=_BUCKETS
)
HANDSHAKES = _counter("handshakes", "WebSocket handshakes answered.", "route", "status")
CLOSED = _counter("connections_closed", "WebSockets that have ended.", "route", "code")
FRAMES = _counter("frames", "Frames of clients.", "channel", "type", "outcome")
FRAME_SECONDS = _histogram(
    "frame_seconds", "Until a frame has been handled.", "channel", "type", buckets=_BUCKETS
)
ERRORS = _counter("errors", "Errors that clients were told of.", "code", "door")
CONNECTIONS = _gauge("connections", "WebSockets and streams that are open.", "livesum")
CREDENTIALS_REFUSED = _counter("credentials_refused", "Credentials that were not valid.", "kind")
LIMITS_REFUSED = _counter("limits_refused", "What a limit refused.", "limit")
LIMITS_FAILED_OPEN = _counter("limits_failed_open", "Hits let through as nobody could count.")
LOG_IN_FAILURES = _counter("log_in_failures", "Log-ins that failed.")

# Delivery
SUBSCRIPTIONS = _gauge("subscriptions", "Subscriptions to topics.", "livesum")
PUBLISHED = _counter("published", "Events that were published and committed.")
DELIVERIES = _counter("deliveries", "Events handed to subscribers.")
DELIVERY_SECONDS = _histogram(
    "delivery_seconds",
    "From the recording of an event until it is handed to a process's subscribers.",
    buckets=_DELIVERY_BUCKETS,
)
OUTBOX_BYTES = _gauge("outbox_bytes", "Bytes that wait for clients to read.", "livesum")
EVICTIONS = _counter("evictions", "Clients ended as they read too slowly.", "reason")
FEED_LAG_SECONDS = _gauge(
    "feed_lag_seconds", "How long a topic has been behind its log.", "livemax"
)
FEED_LAG_EVENTS = _gauge("feed_lag_events", "Events that a topic is behind its log.", "livemax")
BACKPLANE_CONNECTED = _gauge("backplane_connected", "1 while other processes are heard.", "livemin")

# Jobs, the database and the process
JOBS = _counter("jobs", "Tries of jobs, by how they ended.", "name", "outcome")
JOB_SECONDS = _histogram("job_seconds", "How long a try takes.", "name", buckets=_JOB_BUCKETS)
JOBS_READY = _gauge("jobs_ready", "Jobs that are due and wait; 10,000 at most.", "livemax")
JOBS_PARKED = _gauge("jobs_parked", "Jobs that were given up; 10,000 at most.", "livemax")
POOL_USED = _gauge("database_connections_used", "Database connections in use.", "livesum")
POOL_SIZE = _gauge("database_pool_size", "Database connections that there may be.", "livesum")
LOOP_LAG = _gauge(
    "loop_lag_seconds", "The longest that the event loop was late in 20 seconds.", "livemax"
)

# The series of each: to look one up in its metric takes ten times as long.
_requests, _request_seconds = cache(REQUESTS.labels), cache(REQUEST_SECONDS.labels)
_handshakes, _closed = cache(HANDSHAKES.labels), cache(CLOSED.labels)
_frames, _frame_seconds = cache(FRAMES.labels), cache(FRAME_SECONDS.labels)
_errors, _limits = cache(ERRORS.labels), cache(LIMITS_REFUSED.labels)
_jobs, _job_seconds = cache(JOBS.labels), cache(JOB_SECONDS.labels)
_evictions = {reason: EVICTIONS.labels(reason) for reason in ("outbox", "unread")}
_credentials = {
    kind: CREDENTIALS_REFUSED.labels(kind) for kind in ("token", "key", "cookie", "ticket")
}


def count_request(method: str, route: str, status: int | None, seconds: float | None) -> None:
    """Count a request that has ended.

    Args:
        method: as the client gave it.
        route: the template of the route that took it, or UNMATCHED.
        status: of its answer; None where there was none.
        seconds: until the answer began; None where there was none.
    """
    method = method if method in METHODS else OTHER
    _requests(method, route, _class_of(status)).inc()
    if seconds is not None:
        _request_seconds(method, route).observe(seconds)


def count_handshake(route: str, status: int | None) -> None:
    """Count a handshake that was answered; `status` is 101 for one that was accepted."""
    _handshakes(route, _class_of(status)).inc()


def count_close(route: str, code: int) -> None:
    """Count a WebSocket that has ended with a close code."""
    _closed(route, _known_close_code(code)).inc()


def count_frame(channel: str, kind: str, outcome: str, seconds: float) -> None:
    """Count a frame that was handled.

    Args:
        channel: the template of its route.
        kind: a type that the channel has, or a word for what is none.
        outcome: `ok`, `refused`, `limited` or `failed`.
        seconds: how long it was worked on.
    """
    _frames(channel, kind, outcome).inc()
    _frame_seconds(channel, kind).observe(seconds)


def count_error(code: str, door: Door) -> None:
    """Count an error that a client is told of."""
    _errors(code if code in registry else OTHER, door).inc()


def count_eviction(reason: Literal["outbox", "unread"]) -> None:
    """Count a client that was ended: too much waited for it, or it read nothing for too long."""
    _evictions[reason].inc()


def count_refused_credential(kind: Literal["token", "key", "cookie", "ticket"]) -> None:
    """Count a credential that was not valid."""
    _credentials[kind].inc()


def count_limited(limit: str) -> None:
    """Count what the limit of this name has refused."""
    _limits(limit).inc()


def count_job(name: str, outcome: str, seconds: float | None = None) -> None:
    """Count a try: `done`, `failed`, `parked`, `lost` (its lease ran out) or `given_back`."""
    _jobs(name, outcome).inc()
    if seconds is not None:
        _job_seconds(name).observe(seconds)


def count_delivery(subscribers: int, seconds: float) -> None:
    """Count an event that was handed to so many, so long after it was recorded."""
    DELIVERIES.inc(subscribers)
    # The clocks of two machines may differ by more than it took.
    DELIVERY_SECONDS.observe(max(0.0, seconds))


@cache
def _class_of(status: int | None) -> str:
    return UNMATCHED if status is None else "101" if status == 101 else f"{status // 100}xx"


def _known_close_code(code: int) -> str:
    return str(code) if code in PROTOCOL_CLOSE_CODES or code in _our_close_codes() else OTHER


@cache
def _our_close_codes() -> frozenset[int]:
    return frozenset(each.closes_with or close_code(each.status) for each in registry.values())
