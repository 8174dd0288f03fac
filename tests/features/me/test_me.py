"""Who asks, as they are told themselves."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
import httpx2
import pytest

from app.core.auth import ADMIN
from tests.conftest import settings_for
from tests.core.issuer import AUDIENCE, Issuer
from tests.server import RunningServer

FIELDS = {
    *("subject", "name", "roles", "scopes"),
    *("methods", "authenticated_at", "expires_at", "session"),
}


@pytest.fixture(scope="module")
def server(new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service, whose own tokens are taken."""
    with RunningServer(settings_for(new_sqlite())) as server:
        yield server


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """A provider."""
    async with Issuer() as issuer:
        yield issuer


async def asked(server: RunningServer, token: str | None) -> httpx2.Response:
    """The answer to whoever asks who they are."""
    async with server.client(token) as client:
        return await client.get("/api/v1/me")


def seconds(moment: str) -> int:
    """Seconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp())


async def test_who_has_a_token(server: RunningServer) -> None:
    """All that the token says of them, in an order that does not change, and nothing secret."""
    now = datetime.now(UTC).replace(microsecond=0)
    token = server.token("7", roles=["cook", "admin"], authenticated_at=now, methods=["pwd", "otp"])
    answer = await asked(server, token)
    assert answer.headers["cache-control"] == "no-store"
    me: dict[str, Any] = answer.json()
    assert me.keys() == FIELDS
    assert seconds(me.pop("authenticated_at")) == int(now.timestamp())
    lifetime = server.settings.access_token_seconds
    assert 0 <= seconds(me.pop("expires_at")) - int(now.timestamp()) - lifetime <= 60
    assert me == {
        "subject": "7",
        "name": "Ann",
        "roles": ["admin", "cook"],
        "scopes": None,
        "methods": ["otp", "pwd"],
        "session": "session-7",
    }


async def test_who_is_limited(server: RunningServer) -> None:
    """They see to what, whatever that is."""
    me = (await asked(server, server.token("7", scopes=[ADMIN]))).json()
    assert (me["scopes"], me["authenticated_at"]) == ([ADMIN], None)


async def test_who_is_nobody(server: RunningServer) -> None:
    """They are refused."""
    answer = await asked(server, None)
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")


async def test_who_is_known_to_a_provider(new_sqlite: Callable[[], str], issuer: Issuer) -> None:
    """What the provider's token says, in the service's words."""
    settings = settings_for(
        new_sqlite(), auth_mode="oidc", oidc_issuer=issuer.url, oidc_audience=AUDIENCE
    )
    token = issuer.token({"name": "Ann", "roles": ["cook"], "scope": "a b", "sid": "s-1"})
    server = RunningServer(settings)
    await anyio.to_thread.run_sync(server.__enter__)  # which asks the issuer for its keys
    try:
        me = (await asked(server, token)).json()
    finally:
        await anyio.to_thread.run_sync(server.__exit__, None, None, None)
    assert me.keys() == FIELDS
    assert (me["subject"], me["name"], me["session"]) == ("ann", "Ann", "s-1")
    assert (me["roles"], me["scopes"]) == (["cook"], ["a", "b"])
