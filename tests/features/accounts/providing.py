"""People who come from an OpenID provider, for the tests of accounts: a real one, or a forger."""

from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx2
from pydantic import SecretStr
from sqlalchemy import select

from app.core.audit import AuditRow
from app.core.db import SqlDatabase
from app.core.sign_in_providers import SignInProvider
from app.features.accounts.providers.client import Provider
from tests.core.issuer import Issuer
from tests.features.accounts.people import PASSWORD, me
from tests.openid import OwnProvider
from tests.server import RunningServer

AUTH = "/api/v1/auth/providers"
IDENTITIES = "/api/v1/accounts/me/identities"
STEP_UP = "/api/v1/auth/step-up/provider"
CLIENT = "duplex"
REFUSED = (403, "accounts.provider_refused")
LONGEST = 90 * 86_400
SECRET = "a+secret: of the%20tests"


def offer(
    server: RunningServer, name: str, issuer: str, client_id: str = CLIENT, secret: str = SECRET
) -> Provider:
    """Let people log in with a provider from now on; it sends them back to the server's page."""
    known = SignInProvider(
        issuer=issuer, client_id=client_id, client_secret=SecretStr(secret), label=name.title()
    )
    made = Provider(name, known, f"{server.url}/", server.app.state.outbound, 0, LONGEST)
    server.app.state.providers.by_name[name] = made
    return made


async def begun(client: httpx2.AsyncClient, path: str) -> dict[str, str]:
    """Where the browser is sent to, and the attempt."""
    answer = await client.post(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


async def returned(
    client: httpx2.AsyncClient, provider: OwnProvider, path: str, login: str
) -> dict[str, str]:
    """What somebody brings back who was sent to a real provider from `path` and logged in there."""
    begins = await begun(client, path)
    return provider.sent_back(begins["url"], login) | {"attempt": begins["attempt"]}


async def proof(
    client: httpx2.AsyncClient, provider: OwnProvider, login: str, name: str = "real"
) -> dict[str, Any]:
    """What the service says to somebody who has logged in at a real provider."""
    given = await returned(client, provider, f"{AUTH}/{name}", login)
    answer = await client.post(f"{AUTH}/{name}/callback", json=given)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def log_in(
    client: httpx2.AsyncClient, provider: OwnProvider, login: str, name: str = "real"
) -> dict[str, Any]:
    """The first pair of tokens of somebody who logs in by a real provider."""
    given = await proof(client, provider, login, name)
    answer = await client.post(f"{AUTH}/session", json={"proof": given["proof"]})
    assert answer.status_code == 200, answer.text
    pair: dict[str, Any] = answer.json()
    return pair


class Forger(Issuer):
    """A provider that answers the code of whoever comes with whatever a test wants."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.name = uuid4().hex  # of who comes, unless it is changed
        self.configuration |= {
            "authorization_endpoint": f"{self.url}/auth?tenant=1",
            "token_endpoint": f"{self.url}/token",
        }
        return self

    @property
    def claims(self) -> dict[str, Any]:
        """What an ID token says unless it is changed."""
        email = {"email": f"{self.name}@forged.example", "email_verified": True}
        return super().claims | {"aud": CLIENT, "name": "Ann"} | email

    def id_token(self, nonce: str, claims: Any = None, header: Any = None, **more: Any) -> str:
        """An ID token that differs from a good one in what is given."""
        said = {"nonce": nonce} | (claims or {})
        return self.token(said, {"typ": "JWT"} | (header or {}), **more)

    async def returned(
        self,
        client: httpx2.AsyncClient,
        path: str = f"{AUTH}/forged",
        claims: Any = None,
        header: Any = None,
        **more: Any,
    ) -> dict[str, str]:
        """What somebody brings back; the token endpoint will answer with this ID token."""
        begins = await begun(client, path)
        query = parse_qs(urlsplit(begins["url"]).query)
        token = self.id_token(query["nonce"][0], claims, header, **more)
        tokens = {"id_token": token, "access_token": "opaque", "token_type": "Bearer"}
        self.answers["/token"] = (200, tokens)
        return {"code": "x", "state": query["state"][0], "attempt": begins["attempt"]}

    async def come(self, client: httpx2.AsyncClient, *args: Any, **kwargs: Any) -> httpx2.Response:
        """The answer to somebody who comes back with that ID token to log in."""
        given = await self.returned(client, f"{AUTH}/forged", *args, **kwargs)
        return await client.post(f"{AUTH}/forged/callback", json=given)


async def with_password(client: httpx2.AsyncClient, email: str) -> httpx2.Response:
    """The answer to a log-in with an address and a password."""
    form = {"username": email, "password": PASSWORD}
    return await client.post("/api/v1/auth/login", data=form)


async def account_of(client: httpx2.AsyncClient, pair: dict[str, Any]) -> dict[str, Any]:
    """The account that tokens speak of."""
    found: dict[str, Any] = (await me(client, pair["access_token"])).json()
    return found


async def begin_session(
    client: httpx2.AsyncClient, given: dict[str, Any], **more: str
) -> httpx2.Response:
    """The answer to a proof."""
    return await client.post(f"{AUTH}/session", json={"proof": given["proof"]} | more)


async def last_failure(database: SqlDatabase) -> dict[str, Any]:
    """What the audit log says of the last log-in that failed."""
    failed = select(AuditRow.details).where(AuditRow.action == "log_in.failed")
    async with database.reading() as session:
        found: dict[str, Any] | None = await session.scalar(
            failed.order_by(AuditRow.id.desc()).limit(1)
        )
    assert found
    return found


def somebody() -> str:
    """An address that nobody has yet."""
    return f"{uuid4().hex}@example.com"
