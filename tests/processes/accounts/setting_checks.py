"""What changes with the settings that only accounts look at."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update

from app.features.accounts.models import Session
from tests.core.issuer import Issuer
from tests.dns import name_server, use_name_server
from tests.features.accounts.mailbox import Mailbox, ask
from tests.processes.checks import Serve, database_of, sets
from tests.server import RunningServer

NEW = {"email": "ann@example.com", "name": "Ann"}
PASSWORD = "correct horse staple"


@sets("email_check_dns")
async def _(serve: Serve) -> None:
    with name_server({}) as dns:
        for asks, status in ((True, 422), (False, 202)):
            server = serve(email_check_dns=asks)
            if asks:
                use_name_server(server, dns)
            async with server.client() as http:
                answered = await http.post("/api/v1/accounts/sign-up", json=NEW)
            assert answered.status_code == status


async def _signs_in(server: RunningServer) -> Any:
    """The first tokens of a new account."""
    mailbox, email = Mailbox(server), f"{uuid4().hex}@example.com"
    async with server.client() as http:
        await ask(http, "sign-up", email=email, name="Ann")
        token = await mailbox.token(email)
        return (await ask(http, "confirm", token=token, password=PASSWORD)).json()


@sets("session_days")
async def _(serve: Serve) -> None:
    for days in (1, 30):
        server = serve(session_days=days)
        await _signs_in(server)
        database = database_of(server)
        async with database.reading() as session:
            found = (await session.scalars(select(Session).order_by(Session.created_at))).all()
        await database.dispose()
        assert found[-1].expires_at - found[-1].created_at == timedelta(days=days)


@sets("session_max_days")
async def _(serve: Serve) -> None:
    """A session of forty days ago is refreshed where one may be older."""
    statuses = []
    for days in (39, 41):
        server = serve(session_max_days=days)
        pair = await _signs_in(server)
        database = database_of(server)
        async with database.unit_of_work() as uow:
            begun = datetime.now(UTC) - timedelta(days=40)
            await uow.execute(update(Session).values(created_at=begun))
        await database.dispose()
        async with server.client() as client:
            token = {"refresh_token": pair["refresh_token"]}
            refreshed = await client.post("/api/v1/auth/refresh", json=token)
        statuses.append(refreshed.status_code)
    assert statuses == [401, 200]


@sets("sign_in_providers")
async def _(serve: Serve) -> None:
    path = "/api/v1/auth/providers"
    async with serve().client() as http:
        assert (await http.get(path)).json() == {"items": []}
    async with Issuer() as issuer:
        issuer.configuration["authorization_endpoint"] = f"{issuer.url}/auth"
        known = {"issuer": issuer.url, "client_id": "duplex", "label": "Ours"}
        server = await asyncio.to_thread(serve, sign_in_providers={"ours": known})
        async with server.client() as http:
            listed = (await http.get(path)).json()
            begun = (await http.post(f"{path}/ours")).json()
    assert listed == {"items": [{"name": "ours", "label": "Ours"}]}
    assert begun["url"].startswith(f"{issuer.url}/auth?")
    assert "client_id=duplex&" in begun["url"]


@sets("password_workers")
async def _(serve: Serve) -> None:
    for workers in (1, 4):
        passwords = serve(password_workers=workers).app.state.passwords
        passwords._hash = _Slow()
        await asyncio.gather(*(passwords.hash("x") for _ in range(6)))
        assert _Slow.most == workers


class _Slow:
    """A hash that only counts how many are at it."""

    now = most = 0

    def hash(self, password: str) -> str:
        """Take a moment."""
        type(self).now += 1
        type(self).most = max(self.most, self.now)
        time.sleep(0.02)
        type(self).now -= 1
        return password
