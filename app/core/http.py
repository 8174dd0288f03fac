"""ASGI middleware that both doors pass: what is refused before any route is looked up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.boundary import ProblemResponse, error_of
from app.core.errors import (
    AppError,
    BodyTooLarge,
    HeadersTooLarge,
    HostNotAllowed,
    OriginNotAllowed,
    Overloaded,
    TooManyConnections,
    to_app_error,
)
from app.core.limits import Limits, client_address, headers_of

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16_384

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src {connect}",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def route_path(scope: Scope) -> str:
    """The path that routes are matched with: without the prefix that a proxy has stripped."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class PlainTextErrors:
    """Lets an error that the framework's own middleware answers as text/plain leave registered.

    Those are a body too large, an unknown host and a preflight of a foreign origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        held: Message | None = None

        async def replacing_send(message: Message) -> None:
            nonlocal held
            kind = message["type"]
            if kind.endswith("http.response.start") and _is_plain_error(message):
                held = message
            elif held is None:
                await send(message)
            elif not message.get("more_body"):
                exc = _registered(held["status"], message.get("body", b"").decode(errors="replace"))
                response = ProblemResponse(*error_of(HTTPConnection(scope), exc))
                scope["state"]["error"] = exc.code
                for name, value in Headers(scope=held).items():
                    if not name.startswith("content-"):
                        response.headers[name] = value
                await response(scope, receive, send)

        await self.app(scope, receive, replacing_send)


def _is_plain_error(start: Message) -> bool:
    kind = Headers(scope=start).get("content-type", "")
    return bool(start["status"] >= 400) and kind.startswith("text/plain")


def _registered(status: int, text: str) -> AppError:
    if status == 413:
        return BodyTooLarge()
    if text == "Invalid host header":
        return HostNotAllowed("Add the host name to ALLOWED_HOSTS to serve it.")
    if text.startswith("Disallowed CORS"):
        return OriginNotAllowed(f"{text}; see ALLOWED_ORIGINS.")
    return to_app_error(HTTPException(status, text))


class KnownHosts(TrustedHostMiddleware):
    """Starlette's check of the Host header, which leaves the health checks out.

    A load balancer asks for those by address, and they tell nobody anything.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope).startswith("/health/"):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class ClientLimit:
    """Counts requests and handshakes against RATE_LIMIT, and tells what limits leave of them.

    The health checks are left out: whoever asks for them has to be answered.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.limits.client and not route_path(scope).startswith("/health/"):
            await self.limits.hit_by(self.limits.client, scope)

        async def telling_send(message: Message) -> None:
            standings = scope["state"].get("limits")
            if message["type"] == "http.response.start" and standings:
                MutableHeaders(scope=message).update(headers_of(standings.values()))
            await send(message)

        await self.app(scope, receive, telling_send)


class HeaderLimit:
    """Refuses more headers than a client needs; h11 limits only those that come in parts."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = scope["headers"]
            size = sum(len(name) + len(value) for name, value in headers)
            if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
                raise HeadersTooLarge
        await self.app(scope, receive, send)


class SecurityHeaders:
    """Adds what makes a browser strict, unless the response has set it itself.

    Args:
        reached: origins beside our own that the page may ask.
    """

    def __init__(self, app: ASGIApp, *, reached: Sequence[str]) -> None:
        self.app = app
        self.policy = CONTENT_SECURITY_POLICY.format(connect=" ".join(("'self'", *reached)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def adding_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", self.policy)
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("referrer-policy", "no-referrer")
                headers.setdefault("cross-origin-opener-policy", "same-origin")
                # An answer of the API is one person's; a file may be kept and is asked for again.
                kept = "no-cache" if "etag" in headers else "no-store"
                headers.setdefault("cache-control", kept)
            await send(message)

        await self.app(scope, receive, adding_send)


class _Places:
    """So many places for each key; any number where `limit` is 0."""

    def __init__(self, limit: int, refusal: str) -> None:
        self._limit = limit
        self._refusal = refusal
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self, key: str) -> Iterator[None]:
        """Take a place as long as the block lasts. Raises TooManyConnections if there is none."""
        if self._limit and self._taken[key] >= self._limit:
            raise TooManyConnections(self._refusal, retry_after=5)
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


class _Admission:
    """Takes the place of a WebSocket's user, and lets none be accepted for whom there is none."""

    def __init__(self, scope: Scope, send: Send, users: _Places, places: ExitStack) -> None:
        self._scope = scope
        self._send = send
        self._users = users
        self._places = places
        self._placed = False
        self._accepted = False
        self._refused: TooManyConnections | None = None

    def check(self) -> None:
        """Take the place, once it is known whose. Raises TooManyConnections, once."""
        principal = self._scope["state"].get("principal")
        if principal is None or self._placed or self._refused:
            return
        try:
            self._places.enter_context(self._users.place(principal.subject))
        except TooManyConnections as error:
            self._refused = error
            raise
        self._placed = True

    async def send(self, message: Message) -> None:
        """Pass a message on, where it may be sent."""
        kind = message["type"]
        if kind == "websocket.accept" or self._accepted:
            self.check()
        if self._refused and not self._accepted and not kind.startswith("websocket.http."):
            raise self._refused  # whoever sends this believes that it was accepted
        self._accepted |= kind == "websocket.accept"
        await self._send(message)


class WebSocketGate:
    """Refuses a handshake of a foreign page (RFC 6455 section 10.2), and one too many.

    Args:
        origins: origins beside our own, as https://app.example.com; * for any.
        limit: how many WebSockets may be open at once.
        per_address: how many of one address; 0 for any number.
        per_user: how many of one user; 0 for any number. A user is known when the endpoint
            accepts, or says more after it has; who knows sooner calls `scope["duplex.admit"]()`.
    """

    def __init__(
        self, app: ASGIApp, *, origins: list[str], limit: int, per_address: int, per_user: int
    ) -> None:
        self.app = app
        self.origins = frozenset(origins)
        self.limit = limit
        self.open = 0
        self.addresses = _Places(per_address, "See WS_MAX_PER_ADDRESS.")
        self.users = _Places(per_user, "See WS_MAX_PER_USER.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, headers.get("host", "")):
            raise OriginNotAllowed("See ALLOWED_ORIGINS.")
        if self.open >= self.limit:
            raise Overloaded(retry_after=5)
        self.open += 1
        try:
            with ExitStack() as places:
                places.enter_context(self.addresses.place(client_address(scope)))
                admission = _Admission(scope, send, self.users, places)
                scope["duplex.admit"] = admission.check
                await self.app(scope, receive, admission.send)
        finally:
            self.open -= 1

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin in self.origins or "*" in self.origins:
            return True
        return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
