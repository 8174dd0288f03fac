"""What provokes the errors of logging in with a provider."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import httpx2

from app.features.accounts import errors
from tests.core.test_tokens import ABSENT
from tests.features.accounts.people import sign_up
from tests.features.accounts.providing import (
    AUTH,
    IDENTITIES,
    Forger,
    begin_session,
    offer,
)
from tests.provoking import Problem, Provocation, answered
from tests.server import RunningServer

ALONE = "Providers are a matter of REST: a channel takes the tokens it gets there."


async def forged(
    server: RunningServer,
    what: Callable[[httpx2.AsyncClient, Forger], Awaitable[httpx2.Response]],
) -> Problem:
    """The answer to something that somebody does with a provider that says anything."""
    async with Forger() as forger, server.client() as client:
        offer(server, "forged", forger.url)
        return answered(await what(client, forger))


async def another_attempt(client: httpx2.AsyncClient, forger: Forger) -> httpx2.Response:
    """The answer to who brings the attempt of another time."""
    given = await forger.returned(client) | {"state": "another"}
    return await client.post(f"{AUTH}/forged/callback", json=given)


async def address_taken(client: httpx2.AsyncClient, forger: Forger) -> httpx2.Response:
    """The answer to who comes with the address of an account."""
    email = f"{forger.name}@forged.example"
    await sign_up(client, email)
    return await forger.come(client)


async def identity_taken(server: RunningServer) -> Problem:
    """The answer to who would link what is linked to somebody else."""

    async def link(client: httpx2.AsyncClient, forger: Forger) -> httpx2.Response:
        await forger.come(client)
        pair = await sign_up(client)
        client.headers["Authorization"] = f"Bearer {pair['access_token']}"
        given = await forger.returned(client, f"{IDENTITIES}/forged")
        return await client.post(IDENTITIES, json=given)

    return await forged(server, link)


async def last_identity(client: httpx2.AsyncClient, forger: Forger) -> httpx2.Response:
    """The answer to who would lock themselves out."""
    made = (await forger.come(client, {"auth_time": int(time.time())})).json()
    pair = (await begin_session(client, made)).json()
    client.headers["Authorization"] = f"Bearer {pair['access_token']}"
    (only,) = (await client.get(IDENTITIES)).json()["items"]
    return await client.delete(f"{IDENTITIES}/{only['id']}")


async def no_provider(server: RunningServer) -> Problem:
    """The answer about a provider that there is not."""
    async with server.client() as client:
        return answered(await client.post(f"{AUTH}/other"))


async def no_proof(server: RunningServer) -> Problem:
    """The answer to what proves nothing."""
    async with server.client() as client:
        return answered(await begin_session(client, {"proof": "x"}))


async def no_identity(server: RunningServer) -> Problem:
    """The answer about an identity that nobody has."""
    async with server.client() as client:
        await sign_up(client)
    async with server.client(server.token(authenticated_at=datetime.now(UTC))) as client:
        return answered(await client.delete(f"{IDENTITIES}/7"))


PROVOCATIONS = [
    Provocation(errors.ProviderNotFound, rest=no_provider, alone=ALONE),
    Provocation(errors.AttemptRefused, rest=lambda s: forged(s, another_attempt), alone=ALONE),
    Provocation(
        errors.ProviderRefused,
        rest=lambda s: forged(s, lambda client, forger: forger.come(client, {"nonce": "another"})),
        alone=ALONE,
    ),
    Provocation(
        errors.AddressNotVerified,
        rest=lambda s: forged(s, lambda client, forger: forger.come(client, {"email": ABSENT})),
        alone=ALONE,
    ),
    Provocation(errors.LinkFirst, rest=lambda s: forged(s, address_taken), alone=ALONE),
    Provocation(errors.ProofRefused, rest=no_proof, alone=ALONE),
    Provocation(errors.IdentityTaken, rest=identity_taken, alone=ALONE),
    Provocation(errors.IdentityNotFound, rest=no_identity, alone=ALONE),
    Provocation(errors.LastIdentity, rest=lambda s: forged(s, last_identity), alone=ALONE),
]
