"""Several providers: who somebody is at one says nothing of who that is at another."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from app.core.db import SqlDatabase
from tests.features.accounts.holders import holder, outcome
from tests.features.accounts.providing import (
    AUTH,
    IDENTITIES,
    Forger,
    account_of,
    begin_session,
    offer,
    somebody,
)
from tests.server import RunningServer

#: The database has no part in it.
pytestmark = pytest.mark.parametrize("shared_url", ["sqlite"], indirect=True)


@pytest.fixture
async def forgers(common: RunningServer) -> AsyncIterator[dict[str, Forger]]:
    """Two providers that say what they like."""
    async with AsyncExitStack() as stack:
        made = {name: await stack.enter_async_context(Forger()) for name in ("one", "two")}
        for name, forger in made.items():
            offer(common, name, forger.url)
        yield made


async def come(
    client: httpx2.AsyncClient, forgers: dict[str, Forger], name: str, **said: Any
) -> httpx2.Response:
    """The answer to somebody who comes back from a provider to log in."""
    given = await forgers[name].returned(client, f"{AUTH}/{name}", said)
    return await client.post(f"{AUTH}/{name}/callback", json=given)


async def test_one_subject_at_two_providers_is_two_people(
    common: RunningServer, forgers: dict[str, Forger]
) -> None:
    """An account is linked to an issuer and its subject, never to a subject alone."""
    ids = []
    async with common.client() as client:
        for name in ("one", "two", "one"):
            come_back = await come(client, forgers, name, sub="7", email=f"7.{name}@example.com")
            assert come_back.status_code == 200, come_back.text
            pair = (await begin_session(client, come_back.json())).json()
            ids.append((await account_of(client, pair))["id"])
    assert ids[0] == ids[2] != ids[1]


async def test_one_address_at_two_providers_links_nothing(
    common: RunningServer, stored: SqlDatabase, forgers: dict[str, Forger]
) -> None:
    """Whoever has an account is asked to log in to it, and to link the other provider there."""
    email = somebody()
    async with common.client() as client:
        first = await come(client, forgers, "one", sub="8", email=email)
        pair = (await begin_session(client, first.json())).json()
        second = await come(client, forgers, "two", sub="8", email=email)
        assert outcome(second) == (409, "accounts.link_first")
    ann = await holder(common, stored)
    (link,) = (await ann.call(pair, "GET", IDENTITIES)).json()["items"]
    assert link["provider"] == "one"
