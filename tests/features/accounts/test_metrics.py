"""What is counted of those who may not come in."""

import pytest

from tests.counting import Added
from tests.features.accounts.people import log_in, sign_up
from tests.server import RunningServer


async def test_a_log_in_that_fails_counts(server: RunningServer) -> None:
    """A wrong password and an unknown address, alike; the right one does not."""
    failed = Added("duplex_log_in_failures_total")
    async with server.client() as http:
        await sign_up(http, email="ann@example.com")
        await log_in(http, email="ann@example.com")
        assert failed() == 0
        await log_in(http, email="ann@example.com", password="not-the-password-of-ann")
        await log_in(http, email="nobody@example.com")
    assert failed() == 2


@pytest.mark.parametrize("kind", ["key", "cookie"])
async def test_a_credential_that_is_not_valid_counts(server: RunningServer, kind: str) -> None:
    """By its kind; none of it is in a label."""
    refused = Added("duplex_credentials_refused_total", kind=kind)
    headers = {
        "key": {"Authorization": "Bearer dpx_nonsense"},
        "cookie": {"Cookie": "__Host-session=nonsense"},
    }[kind]
    async with server.client() as http:
        assert (await http.get("/api/v1/me", headers=headers)).status_code == 401
    assert refused() == 1
