"""Calling other services over HTTP: limited in time, size and number, and tried again with care.

    answer = await outbound.request("GET", f"{STOCK}/items/7", forward_token=True)
    if answer.status_code == 404:
        raise ItemNotFound
    return answer.into(Item)

The address is never a client's: what a client sends goes into it quoted, or into `params`.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import count
from typing import Annotated, Any, Self, TypeVar

import httpx2
from fastapi import Depends
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import BaseModel, ValidationError
from starlette.requests import HTTPConnection

from app.core.auth import SUBPROTOCOL, offered_after
from app.core.caller import current_caller
from app.core.errors import UpstreamError, raises
from app.core.observability import log
from app.core.tracing import current_traceparent

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110, 9.2.2
PASSING = frozenset({429, 502, 503, 504})
CONNECT_SECONDS = 3.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds between two tries
CONNECTIONS = 100
IDLE_CONNECTIONS, IDLE_SECONDS = 20, 30.0
MAX_BYTES = 4 * 2**20
MAX_REDIRECTS = 5
OF_ITS_TRANSFER = frozenset({"content-encoding", "content-length", "transfer-encoding"})

M = TypeVar("M", bound=BaseModel)
Params = Mapping[str, str | int | float | bool | None]


class UpstreamFailed(UpstreamError):
    """Another service that this one needs refused the call, or answered with nothing of use."""

    status = 502
    code = "upstream_failed"
    title = "Another service that is needed for this fails."


class UpstreamTimeout(UpstreamError):
    """Another service that this one needs did not answer in time."""

    status = 504
    code = "upstream_timeout"
    title = "Another service that is needed for this takes too long."


@dataclass(slots=True)
class Pool:
    """The connections of a process to other services, opened when the first is needed."""

    connections: int = CONNECTIONS
    _client: httpx2.AsyncClient | None = None

    def client(self) -> httpx2.AsyncClient:
        """What sends requests; nothing of one call is left in it for the next."""
        if self._client is None:
            self._client = httpx2.AsyncClient(
                # The environment could send tokens through a proxy, and .netrc add its own.
                trust_env=False,
                verify=_tls(),
                timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx2.Limits(
                    max_connections=self.connections,
                    max_keepalive_connections=IDLE_CONNECTIONS,
                    keepalive_expiry=IDLE_SECONDS,
                ),
                # A cookie that one caller is given must not be sent for another.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._client

    async def close(self) -> None:
        """Close all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


@cache
def _tls() -> ssl.SSLContext:
    # These log whole addresses, with their query, and headers.
    for chatty in ("httpx2", "httpcore2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return ssl.create_default_context()


class Answer(httpx2.Response):
    """What another service answered, read to its end."""

    def raise_for_status(self) -> Self:
        """The answer itself. Raises UpstreamFailed where its status is not one of success."""
        if not self.is_success:
            raise _told(UpstreamFailed, self.request, f"status {self.status_code}")
        return self

    def into(self, model: type[M]) -> M:
        """The body as a model. Raises UpstreamFailed as above, and where it is not of that form."""
        try:
            return model.model_validate_json(self.raise_for_status().content)
        except ValidationError:
            raise _told(UpstreamFailed, self.request, f"no {model.__name__}") from None


class _TryFailed(Exception):
    """A try that brought no answer of use; `passing` where another one may bring it."""

    def __init__(
        self, error: type[UpstreamError], reason: str, *, passing: bool = False, asked: float = 0
    ) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason
        self.passing = passing
        self.asked = asked  # seconds to wait, as the service asks for


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundClient:
    """Calls other services.

    Args:
        timeout: seconds that a call may take, with all its tries and the waits between them.
        retries: how often a call is repeated at most.
        token_hosts: where a caller's token may be passed on to: `host`, or `host:port`.
        max_bytes: the largest body taken, decompressed.
        pool: the connections, shared by all clients that are made of this one.
        connection: on whose behalf the calls are made, if on anybody's.
    """

    timeout: float
    retries: int
    token_hosts: frozenset[str] = frozenset()
    max_bytes: int = MAX_BYTES
    pool: Pool = field(default_factory=Pool)
    connection: HTTPConnection | None = None

    def on_behalf_of(self, connection: HTTPConnection) -> Self:
        """The same client, for whoever is at the other end of `connection`."""
        return replace(self, connection=connection)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, str] | None = None,
        content: bytes | None = None,
        forward_token: bool = False,
        follow_redirects: bool = False,
    ) -> Answer:
        """The answer of another service, whose status is below 500 and not 429.

        Where the method is idempotent, a connection that fails and the statuses 429, 502, 503 and
        504 lead to another try, after a random wait that doubles, or the `Retry-After` that was
        sent; one of more than five seconds ends the tries.

        Args:
            method: of HTTP, in capitals.
            url: an absolute address, http or https.
            params: the query; None leaves one out.
            headers: beside `X-Request-ID` and, where there is a trace, `traceparent`.
            json: a body, sent as JSON.
            data: a body, sent as a form.
            content: a body, sent as it is.
            forward_token: pass on the token that the caller came with, if they came with one.
            follow_redirects: up to five; no token goes along to another host.

        Raises:
            UpstreamTimeout: there is no answer in time.
            UpstreamFailed: there is none, or one of another status, or it is too large.
            ValueError: the address is not absolute, or its host may get no token.

        The answer's `raise_for_status()` and `into()` raise UpstreamFailed as well.
        """
        request = self.pool.client().build_request(
            method,
            _absolute(url),
            params=params and {name: value for name, value in params.items() if value is not None},
            headers=headers,
            json=json,
            data=data,
            content=content,
        )
        if request_id := current_caller().request_id:
            request.headers["X-Request-ID"] = request_id
        if traceparent := current_traceparent():
            request.headers["traceparent"] = traceparent
        if forward_token:
            self._forward_token(request)
        try:
            async with asyncio.timeout(self.timeout) as timer:
                until = timer.when() or 0.0
                return await self._tried(request, MAX_REDIRECTS if follow_redirects else 0, until)
        except TimeoutError:
            raise _told(UpstreamTimeout, request, "no answer in time") from None

    def _forward_token(self, request: httpx2.Request) -> None:
        host, port = request.url.host, request.url.port
        port = port or {"http": 80, "https": 443}[request.url.scheme]
        if not {host, f"{host}:{port}"} & self.token_hosts:
            raise ValueError(f"{host}:{port} is none of OUTBOUND_TOKEN_HOSTS: it gets no token")
        if token := _token_of(self.connection):
            request.headers["Authorization"] = f"Bearer {token}"

    async def _tried(self, request: httpx2.Request, redirects: int, until: float) -> Answer:
        tries = 1 + (self.retries if request.method in IDEMPOTENT else 0)
        for number in count(1):
            try:
                return await self._try(request, redirects)
            except _TryFailed as failed:
                wait = failed.asked + _backed_off(number)
                late = asyncio.get_running_loop().time() + wait >= until
                if not failed.passing or number == tries or failed.asked > LONGEST_WAIT or late:
                    raise _told(failed.error, request, failed.reason, tries=number) from None
            await asyncio.sleep(wait)
        raise AssertionError  # count() has no end

    async def _try(self, request: httpx2.Request, redirects: int) -> Answer:
        try:
            for _ in range(redirects + 1):
                response = await self.pool.client().send(request, stream=True)
                try:
                    if not redirects or response.next_request is None:
                        return await self._read(response)
                    request = response.next_request
                finally:
                    await response.aclose()
        except httpx2.LocalProtocolError:  # it would quote what is wrong
            raise ValueError("a header or the address cannot be sent over HTTP") from None
        except httpx2.TransportError as exc:
            raise _failed(exc) from None
        except httpx2.DecodingError:
            raise _TryFailed(UpstreamFailed, "not in the encoding that it says") from None
        raise _TryFailed(UpstreamFailed, "too many redirects")

    async def _read(self, response: httpx2.Response) -> Answer:
        """The whole of a response. Raises _TryFailed for a status of failure and a large body."""
        status = response.status_code
        if status >= 500 or status == 429:
            passing, asked = status in PASSING, _retry_after(response)
            raise _TryFailed(UpstreamFailed, f"status {status}", passing=passing, asked=asked)
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.max_bytes:
                raise _TryFailed(UpstreamFailed, f"more than {self.max_bytes} bytes")
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name not in OF_ITS_TRANSFER
        ]
        return Answer(status, headers=headers, content=bytes(body), request=response.request)


def _absolute(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:  # it would quote it
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("the address of another service is absolute: https://host/path")
    return parsed


def _failed(exc: httpx2.TransportError) -> _TryFailed:
    error = UpstreamTimeout if isinstance(exc, httpx2.TimeoutException) else UpstreamFailed
    broken = (httpx2.NetworkError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError)
    return _TryFailed(error, type(exc).__name__, passing=isinstance(exc, broken))


def _retry_after(response: httpx2.Response) -> float:
    """How many seconds the service asks to wait (RFC 9110, 10.2.3); 0 where it does not."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked[:9])
    try:
        at = parsedate_to_datetime(asked)
    except ValueError:
        return 0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _backed_off(tries: int) -> float:
    longest = min(FIRST_WAIT * 2.0 ** (tries - 1), LONGEST_WAIT)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _told(
    error: type[UpstreamError], request: httpx2.Request, reason: str, *, tries: int = 1
) -> UpstreamError:
    """The error to raise, once the log has what it is about."""
    # No path and no query: a token may be in them.
    host = request.url.host
    log.warning("upstream", method=request.method, host=host, reason=reason, tries=tries)
    return error(host=host)


def _token_of(connection: HTTPConnection | None) -> str | None:
    """The token that a caller came with, or has refreshed since."""
    if connection is None:
        return None
    refreshed: str | None = getattr(connection.state, "token", None)
    scheme, bearer = get_authorization_scheme_param(connection.headers.get("Authorization"))
    given = bearer if scheme.lower() == "bearer" else None
    return refreshed or given or offered_after(connection, SUBPROTOCOL)


@raises(UpstreamFailed, UpstreamTimeout)
async def _outbound(connection: HTTPConnection) -> OutboundClient:
    client: OutboundClient = connection.app.state.outbound
    return client.on_behalf_of(connection)


Outbound = Annotated[OutboundClient, Depends(_outbound)]
"""The client for other services, injected; what it raises is declared with it."""
