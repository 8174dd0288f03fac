"""People who hold an authenticator, on a server that a module's tests share."""

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2
import pyotp
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import select

from app.core.audit import AuditRow
from app.core.db import SqlDatabase
from app.features.accounts.codes import STEP_SECONDS
from app.features.accounts.models import User
from tests.features.accounts.people import PASSWORD, code
from tests.server import RunningServer

FACTOR = "/api/v1/accounts/me/second-factor"
CHEAP = PasswordHash([Argon2Hasher(memory_cost=64, time_cost=1, parallelism=1)])
HASH = CHEAP.hash(PASSWORD)


class Clock:
    """What the server's authenticators go by; it stands still unless a test moves it on."""

    def __init__(self) -> None:
        self.now = 2_000_000_010.0

    def __call__(self) -> float:
        return self.now

    def move(self, steps: int = 3) -> None:
        """Go on by so many steps: past all codes that were good."""
        self.now += steps * STEP_SECONDS


@dataclass
class Holder:
    """Somebody with an account, as a client sees them."""

    server: RunningServer
    id: int
    email: str
    secret: str = ""
    recovery_codes: list[str] = field(default_factory=list)

    def code(self, steps: int = 0) -> str:
        """What the authenticator shows so many steps from now."""
        clock: Clock = self.server.app.state.second_factors.clock
        return pyotp.TOTP(self.secret).at(clock.now + steps * STEP_SECONDS)

    def wrong_code(self) -> str:
        """Six digits that the authenticator does not show for the next while."""
        shown = {self.code(steps) for steps in range(-4, 5)}
        return next(each for number in range(10) if (each := f"{number:06}") not in shown)

    async def log_in(
        self, otp: str | None = None, password: str = PASSWORD, **headers: str
    ) -> httpx2.Response:
        """The answer to a log-in."""
        form = {"username": self.email, "password": password} | ({"otp": otp} if otp else {})
        async with self.server.client() as client:
            return await client.post("/api/v1/auth/login", data=form, headers=headers)

    async def begin(self, otp: str | None = None, **headers: str) -> dict[str, Any]:
        """A session's first pair of tokens."""
        answer = await self.log_in(otp, **headers)
        assert answer.status_code == 200, answer.text
        pair: dict[str, Any] = answer.json()
        return pair

    async def call(
        self, pair: dict[str, Any], method: str, path: str, **kwargs: Any
    ) -> httpx2.Response:
        """The answer to a request with an access token."""
        async with self.server.client(pair["access_token"]) as client:
            return await client.request(method, path, **kwargs)

    async def step_up(self, pair: dict[str, Any], **proof: str) -> httpx2.Response:
        """The answer to a new proof."""
        return await self.call(pair, "POST", "/api/v1/auth/step-up", json=proof)

    async def enrol(self, pair: dict[str, Any]) -> None:
        """Set an authenticator up and confirm it; the code of now is used up by that."""
        begun = await self.call(pair, "POST", FACTOR)
        assert begun.status_code == 201, begun.text
        self.secret = begun.json()["secret"]
        done = await self.call(pair, "POST", f"{FACTOR}/confirm", json={"code": self.code()})
        assert done.status_code == 200, done.text
        self.recovery_codes = done.json()["recovery_codes"]


async def holder(server: RunningServer, database: SqlDatabase) -> Holder:
    """Somebody new with an account, without a second factor."""
    email = f"{uuid4().hex}@example.com"
    user = User(
        email=email,
        email_key=email,
        name="Ann",
        password_hash=HASH,
        roles=[],
        created_at=datetime.now(UTC),
    )
    async with database.unit_of_work() as uow:
        uow.add(user)
    return Holder(server, user.id, email)


async def enrolled(server: RunningServer, database: SqlDatabase) -> tuple[Holder, dict[str, Any]]:
    """Somebody with a second factor, and a session that was begun before there was one."""
    person = await holder(server, database)
    pair = await person.begin()
    await person.enrol(pair)
    return person, pair


async def recorded(database: SqlDatabase, person: Holder) -> list[str]:
    """What the audit log has of somebody, in its order."""
    query = select(AuditRow.action).where(AuditRow.subject == str(person.id))
    async with database.reading() as session:
        return list(await session.scalars(query.order_by(AuditRow.id)))


def claims(pair: dict[str, Any]) -> dict[str, Any]:
    """What the access token of a pair says."""
    payload = pair["access_token"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return found


def outcome(answer: httpx2.Response) -> tuple[int, str]:
    """The status and the code of an error."""
    return answer.status_code, code(answer)


async def failures(database: SqlDatabase, person: Holder) -> int | None:
    """How many wrong passwords and codes in a row are counted."""
    async with database.reading() as session:
        return await session.scalar(select(User.failures).where(User.id == person.id))
