"""The keys of access tokens: changed while everybody is signed in, and removed in an emergency."""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import SecretStr
from sqlalchemy import update
from starlette.datastructures import State
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus

from app.core import keyring as module
from app.core.auth import KEY_REMOVED, CurrentUser
from app.core.db import SqlDatabase
from app.core.housekeeping import forget_signing_keys
from app.core.jobs import JobRun
from app.core.key_commands import commands
from app.core.keyring import OF_SECRET_KEY, Keyring, SigningKeyRow, UnknownKey
from app.core.secrets_at_rest import NotOpened, Sealed
from app.core.settings import Settings
from app.core.tokens import Reason, TokenRefused
from tests import doors
from tests.conftest import changed_settings
from tests.process import ROOT, command
from tests.server import DEADLINE, RunningServer, Socket

OVERLAP = timedelta(seconds=900)  # an access token's lifetime, and no leeway
router = APIRouter(prefix="/probe")
router.include_router(doors.router)


@router.get("/rest")
async def rest(user: CurrentUser) -> str:
    """The key that whoever asks came by."""
    return user.key


@pytest.fixture
async def db(settings: Settings, engine: str) -> AsyncIterator[SqlDatabase]:
    """The test's database, on each engine."""
    database = SqlDatabase(settings.database, timeout=20)
    yield database
    await database.dispose()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys sign from the moment on that they are made."""
    monkeypatch.setattr(module, "SIGNS_AFTER", timedelta(0))
    monkeypatch.setattr(module, "SIGNS_SOON_AFTER", timedelta(0))


def header(token: str) -> dict[str, Any]:
    """The header of a token."""
    found: dict[str, Any] = json.loads(urlsafe_b64decode(token.split(".", maxsplit=1)[0] + "=="))
    return found


def kid_of(ring: Keyring) -> str:
    """The key that a process signs with."""
    kid: str = header(ring.tokens.issue("1", session="s"))["kid"]
    return kid


def refusal(ring: Keyring, token: str) -> Reason | None:
    """Why a process refuses a token, if it does."""
    try:
        ring.tokens.verify(token)
    except TokenRefused as refused:
        return refused.reason
    return None


async def row_of(db: SqlDatabase, kid: str) -> SigningKeyRow:
    """The row of a key."""
    async with db.reading() as session:
        return await session.get_one(SigningKeyRow, kid)


async def test_who_rotates_nothing_has_the_key_of_the_secret(
    db: SqlDatabase, settings: Settings
) -> None:
    """Without a row, for ever, as if there were no ring."""
    ring = Keyring(db, settings)
    token = ring.tokens.issue("1", session="s")
    await ring.load()
    assert refusal(ring, token) is None
    assert kid_of(ring) == ring.tokens.own_key.kid
    (row,) = await ring.rows()
    assert (row.material, row.verifies_until) == (OF_SECRET_KEY, None)


async def test_every_process_knows_a_key_before_it_signs(
    db: SqlDatabase, settings: Settings
) -> None:
    """The new one some seconds later; the old one verifies until its last token has expired."""
    here, there = Keyring(db, settings), Keyring(db, settings)
    before = datetime.now(UTC)
    made = await here.rotate("ES256")
    assert made.signs_from - before >= module.SIGNS_AFTER
    await there.load()
    assert kid_of(there) == there.tokens.own_key.kid
    assert [key["kid"] for key in there.tokens.public_keys()] == [made.kid]
    old = await row_of(db, here.tokens.own_key.kid)
    assert old.verifies_until == made.signs_from + OVERLAP
    assert (await row_of(db, made.kid)).verifies_until is None


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
async def test_tokens_of_before_are_good_until_they_expire(
    db: SqlDatabase, settings: Settings, at_once: None, algorithm: Any
) -> None:
    """New ones are of the new key, in every process; the algorithm stays unless one is named."""
    here, there = Keyring(db, settings), Keyring(db, settings)
    old = here.tokens.issue("1", session="s")
    first = await here.rotate(algorithm)
    second = await here.rotate()
    for ring in (here, there):
        await ring.load()
        assert refusal(ring, old) is None
        assert kid_of(ring) == second.kid
    assert (first.algorithm, second.algorithm) == (algorithm, algorithm)
    assert refusal(there, here.tokens.issue("1", session="s")) is None


async def test_what_is_secret_of_a_key_is_not_in_the_database(
    db: SqlDatabase, settings: Settings
) -> None:
    """It opens with SECRET_KEY, as the key that it is, and nothing else."""
    ring = Keyring(db, settings)
    made = await ring.rotate("HS256")
    sealed = Sealed(settings.secret_key.get_secret_value())
    assert len(sealed.open(made.material, f"signing_keys/{made.kid}/HS256")) == 32
    for secret, context in (
        ("another-secret-of-32-characters!", f"signing_keys/{made.kid}/HS256"),
        (settings.secret_key.get_secret_value(), "signing_keys/another/HS256"),
        (settings.secret_key.get_secret_value(), f"signing_keys/{made.kid}/ES256"),
    ):
        with pytest.raises(NotOpened):
            Sealed(secret).open(made.material, context)


async def test_of_several_rotations_at_once_one_key_is_the_newest(
    db: SqlDatabase, settings: Settings
) -> None:
    """Every other one has an end."""
    ring = Keyring(db, settings)
    await asyncio.gather(*(ring.rotate() for _ in range(4)))
    rows = await ring.rows()
    assert len(rows) == 5
    assert [row.kid for row in rows if row.is_current] == [rows[-1].kid]


async def test_a_key_is_forgotten_with_its_last_token(
    db: SqlDatabase, settings: Settings, at_once: None
) -> None:
    """First it verifies no more, then it is gone; SECRET_KEY's leaves a row, and never returns."""
    ring, later = Keyring(db, settings), Keyring(db, settings)
    by_secret = ring.tokens.issue("1", session="s")
    first = await ring.rotate()
    await ring.load()
    by_first = ring.tokens.issue("1", session="s")
    second = await ring.rotate()
    over = {"verifies_until": datetime.now(UTC)}
    async with db.unit_of_work() as uow:
        of_before = SigningKeyRow.kid != second.kid
        await uow.execute(update(SigningKeyRow).where(of_before).values(over))
    async with db.unit_of_work() as uow:
        await forget_signing_keys(JobRun(uow, State(), 1, 1))
    assert {row.kid for row in await ring.rows()} == {ring.tokens.own_key.kid, second.kid}
    for each in (ring, later):
        await each.load()
        assert refusal(each, by_secret) is refusal(each, by_first) is Reason.KEY
        assert kid_of(each) == second.kid
    assert first.kid not in {row.kid for row in await later.rows()}


async def test_the_signing_key_is_not_removed_before_another_signs(
    db: SqlDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is made and waited for; what is secret of the removed one is erased."""
    monkeypatch.setattr(module, "SIGNS_AFTER", timedelta(0))
    monkeypatch.setattr(module, "SIGNS_SOON_AFTER", timedelta(milliseconds=300))
    ring = Keyring(db, settings)
    leaked = await ring.rotate("ES256")
    await ring.load()
    token = ring.tokens.issue("1", session="s")
    await ring.remove(leaked.kid)
    removed = await row_of(db, leaked.kid)
    newest = (await ring.rows())[-1]
    assert (newest.algorithm, newest.is_current) == ("ES256", True)
    assert removed.removed_at is not None
    assert removed.removed_at >= newest.signs_from
    assert removed.material == ""
    await ring.load()
    assert refusal(ring, token) is Reason.KEY_REMOVED
    assert kid_of(ring) == newest.kid
    await ring.remove(leaked.kid)  # once more changes nothing
    assert (await row_of(db, leaked.kid)).removed_at == removed.removed_at


async def test_a_key_that_signs_no_more_is_removed_at_once(
    db: SqlDatabase, settings: Settings, at_once: None
) -> None:
    """And no other is made for it."""
    ring = Keyring(db, settings)
    made = await ring.rotate()
    await ring.remove(ring.tokens.own_key.kid)
    assert len(await ring.rows()) == 2
    await ring.load()
    assert kid_of(ring) == made.kid
    with pytest.raises(UnknownKey):
        await ring.remove("none of ours")


async def test_a_removed_secret_key_stays_removed(
    db: SqlDatabase, settings: Settings, at_once: None
) -> None:
    """Its row says so to every process that comes, however late."""
    ring = Keyring(db, settings)
    token = ring.tokens.issue("1", session="s")
    await ring.remove(ring.tokens.own_key.kid)
    async with db.unit_of_work() as uow:
        await uow.execute(
            update(SigningKeyRow)
            .where(SigningKeyRow.kid == ring.tokens.own_key.kid)
            .values(verifies_until=datetime.now(UTC) - timedelta(days=1))
        )
        await forget_signing_keys(JobRun(uow, State(), 1, 1))
    later = Keyring(db, settings)
    await later.load()
    assert refusal(later, token) is Reason.KEY_REMOVED
    assert kid_of(later) != later.tokens.own_key.kid


async def test_another_secret_key_begins_anew(
    db: SqlDatabase, settings: Settings, at_once: None
) -> None:
    """Keys that it cannot read are no keys, and the next rotation ends them."""
    ring = Keyring(db, settings)
    old = await ring.rotate()
    changed = {"secret_key": SecretStr("another-secret-of-32-characters!")}
    other = Keyring(db, changed_settings(settings, changed))
    for _ in range(2):
        await other.load()
        assert kid_of(other) == other.tokens.own_key.kid
    await other.rotate()
    assert (await row_of(db, old.kid)).verifies_until is not None
    await other.remove((await other.rows())[-1].kid)
    await other.load()
    assert refusal(other, other.tokens.issue("1", session="s")) is None


async def code_of(server: RunningServer, token: str) -> str | None:
    """The code of the error that a token gets over REST, or None."""
    async with server.client(token) as client:
        answer = await client.get("/probe/rest")
    return None if answer.is_success else str(answer.json()["code"])


async def until_read(server: RunningServer, token: str) -> None:
    """Wait until a server has read the key of a token."""
    async with asyncio.timeout(DEADLINE), server.client(token) as client:
        while not (await client.get("/probe/rest")).is_success:
            pass


async def denied(server: RunningServer, token: str) -> str:
    """The code that a handshake is denied with."""
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket("/probe/channel", token):
            pass
    return str(json.loads(refused.value.response.body or b"")["code"])


async def test_two_servers_rotate_and_remove(
    serve: Callable[..., RunningServer], db: SqlDatabase, at_once: None
) -> None:
    """Nothing is refused by a rotation; a removal closes sockets on both within a second."""
    first, second = serve(router), serve(router)
    ring = Keyring(db, first.settings)
    old = first.token("1")
    async with AsyncExitStack() as stack:
        of_old = [await opened(stack, each, old) for each in (first, second)]
        made = await ring.rotate("ES256")
        await ring.load()
        new = ring.tokens.issue("2", session="other")
        for server in (first, second):
            await until_read(server, new)
            assert await code_of(server, old) is None
            assert header(server.token("1"))["kid"] == made.kid
        of_new = [await opened(stack, each, new) for each in (first, second)]
        await ring.remove(ring.tokens.own_key.kid)
        async with asyncio.timeout(1.5):  # a second, and what a busy machine adds
            await asyncio.gather(*(told(socket) for sockets in of_old for socket in sockets))
        for server in (first, second):
            assert await code_of(server, old) == await denied(server, old) == "session_revoked"
            assert await code_of(server, new) is None
        for socket in (socket for sockets in of_new for socket in sockets):
            await (await socket.connection.ping())


async def opened(stack: AsyncExitStack, server: RunningServer, token: str) -> list[Socket]:
    """A channel's socket, and a bare one."""
    return [
        await stack.enter_async_context(server.socket(f"/probe/{path}", token))
        for path in ("channel", "bare")
    ]


async def told(socket: Socket) -> None:
    """A socket is told why, and closed."""
    code, reason, frames = await socket.ending()
    assert (code, reason) == (4401, "session_revoked")
    assert frames[-1]["data"]["detail"] == KEY_REMOVED


async def test_public_keys_are_published(
    serve: Callable[..., RunningServer], settings: Settings, at_once: None
) -> None:
    """Those of ES256 and no other, to be kept for a minute, and in OpenAPI."""
    db = SqlDatabase(settings.database)
    ring = Keyring(db, settings)
    await ring.rotate("HS256")
    made = await ring.rotate("ES256")
    await ring.load()
    await db.dispose()
    async with serve().client() as client:
        answer = await client.get("/.well-known/jwks.json")
        document = (await client.get("/openapi.json")).json()
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert answer.json() == {"keys": ring.tokens.public_keys()}
    (key,) = answer.json()["keys"]
    assert (key["kid"], key["alg"], key.get("d")) == (made.kid, "ES256", None)
    assert "/.well-known/jwks.json" in document["paths"]


def test_the_commands(database_url: str, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    """What is there, a new one, and one less; a key that is not there is a sentence."""
    monkeypatch.setenv("DATABASE_URL", database_url)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(commands, arguments)
        assert done.exit_code == code, done.output
        return done.output

    own = run("list").split()[0]
    assert run("list") == f"{own}  HS256  SECRET_KEY            signs, verifies\n"
    made, told = run("rotate", "--algorithm", "ES256").split(" ", 1)
    assert told.startswith("(ES256) signs from ")
    first, second = run("list").splitlines()
    assert "SECRET_KEY            verifies until " in first
    assert second.startswith(f"{made}  ES256  ")
    assert second.endswith("  signs, verifies")
    assert "is removed" in run("remove", own)
    assert "  removed " in run("list").splitlines()[0]
    assert "There is no key -x: `keys list` shows" in run("remove", "-x", code=1)
    monkeypatch.setenv("SECRET_KEY", "another-secret-of-32-characters!")
    assert run("list").count("of another SECRET_KEY") == 1
    monkeypatch.setenv("AUTH_MODE", "oidc")
    monkeypatch.setenv("OIDC_ISSUER", "https://op.example")
    monkeypatch.setenv("OIDC_AUDIENCE", "duplex")
    assert "the provider's keys sign" in run("list", code=1)


def test_the_command_line_has_them(database_url: str) -> None:
    """`python -m app keys`, on a database that is up to date."""
    done = command("keys", "list", root=ROOT, DATABASE_URL=database_url)
    assert (done.returncode, done.stdout.split()[1:3]) == (0, ["HS256", "SECRET_KEY"])
