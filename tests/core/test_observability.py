"""The log of a running process: one line for each request and connection, and no secret."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.process import PROGRAM, running, token

ORIGIN = "https://friend.example"
PASSWORD = "hunter2-the-password"
QUERY = "token-in-the-query"
COOKIE = "value-of-a-cookie"
GIVEN_ID = "Trace.of_a-proxy.0003"
#: With a route that takes secrets, and one for whoever is signed in.
SECRETIVE = PROGRAM.replace(
    "features.router.include_router",
    """
from typing import Annotated
from pydantic import Field
from app.core.errors import AuthenticationFailed, raises
from app.core.schemas import Schema

class Secrets(Schema):
    token: str
    password: Annotated[str, Field(min_length=10)]

@router.post("/probe/secrets")
@raises(AuthenticationFailed)
async def secrets(given: Secrets) -> None:
    raise AuthenticationFailed("It opens nothing.")

@router.get("/probe/me")
async def me(user: CurrentUser) -> str:
    return user.subject

features.router.include_router""",
)


@dataclass
class Log:
    """All that a process wrote while it was asked these things."""

    output: str
    token: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines that are JSON."""
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def one(self, event: str, **fields: Any) -> dict[str, Any]:
        """The only line of an event with these fields."""
        found = [
            line for line in self.lines if line["event"] == event and fields.items() <= line.items()
        ]
        assert len(found) == 1, (event, fields, self.output)
        return found[0]


@pytest.fixture(scope="module")
def log() -> Log:
    """The log at LOG_LEVEL=debug of a process that was asked a little of everything."""
    access_token = token()
    given = {"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "ALLOWED_ORIGINS": ORIGIN}
    with running(program=SECRETIVE, **given) as process:
        with httpx2.Client(base_url=process.url) as client:
            refused = {"token": PASSWORD, "password": PASSWORD}
            client.post("/probe/secrets", json=refused)
            client.post("/probe/secrets", json=refused | {"password": "short"})
            client.post("/probe/secrets", content=f'{{"password": "{PASSWORD}')
            client.get("/probe/me", headers={"Authorization": f"Bearer {access_token}x"})
            client.headers["Authorization"] = f"Bearer {access_token}"
            client.headers["Cookie"] = f"session={COOKIE}"
            client.get("/probe/me", headers={"X-Request-ID": GIVEN_ID})
            client.get(f"/nowhere?token={QUERY}&access_token={access_token}")
            client.get("/health/live")
        asyncio.run(_sockets(process.ws_url, access_token))
    return Log(process.output, access_token)


async def _sockets(url: str, token: str) -> None:
    address = f"{url}/not/a/socket?token={QUERY}"
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"session={COOKIE}"}
    async with connect(
        f"{url}/probe?token={QUERY}&ticket={QUERY}",
        additional_headers={"Cookie": f"session={COOKIE}"},
        subprotocols=["bearer", token],  # type: ignore[list-item]
        proxy=None,
    ) as opened:
        await opened.close(4000, "bye")
    for origin in (None, ORIGIN, "https://evil.example"):
        with pytest.raises(InvalidStatus):
            await connect(
                address,
                origin=origin,  # type: ignore[arg-type]
                additional_headers=headers,
                subprotocols=["bearer", token],  # type: ignore[list-item]
                proxy=None,
            )


def test_no_secret_is_in_the_log(log: Log) -> None:
    """No token, query, cookie, password or header value is anywhere in what is written."""
    secrets = (log.token, PASSWORD, QUERY, COOKIE, log.token.split(".")[2])
    assert [secret for secret in secrets if secret in log.output] == []
    assert "Bearer " not in log.output
    assert "?" not in "".join(line.get("path", "") for line in log.lines)


def test_every_line_is_json(log: Log) -> None:
    """With LOG_FORMAT=json, all but the address for a person is an object a line."""
    others = [line for line in log.output.splitlines() if not line.startswith("{")]
    assert len(others) == 1
    assert others[0].startswith("Duplex is at http://127.0.0.1:")
    for line in log.lines:
        assert {"event", "level", "logger", "timestamp"} <= set(line)


def test_a_request_is_one_line(log: Log) -> None:
    """It names method, path, status, time, client, the user and the request id."""
    line = log.one("request", path="/probe/me", status=200)
    assert line["ms"] > 0
    expected = {
        "level": "info",
        "method": "GET",
        "status": 200,
        "client": "127.0.0.1",
        "user": "1",
        "request_id": GIVEN_ID,
    }
    assert expected.items() <= line.items()
    assert "error" not in line


def test_a_refused_request_names_its_error(log: Log) -> None:
    """The line of a request that was refused has the code of the error."""
    expected = {
        ("/probe/secrets", 401): "authentication_failed",
        ("/probe/secrets", 415): "unsupported_media_type",
        ("/probe/secrets", 422): "invalid_parameter",
        ("/probe/me", 401): "authentication_failed",
        ("/nowhere", 404): "not_found",
    }
    for (path, status), code in expected.items():
        assert log.one("request", path=path, status=status)["error"] == code


def test_a_connection_is_one_line(log: Log) -> None:
    """It names path, close code, time, client, the user and a request id, when it ends."""
    line = log.one("connection")
    assert {"path": "/probe", "close_code": 4000, "client": "127.0.0.1", "user": "1"}.items() <= (
        line.items()
    )
    assert line["ms"] > 0
    assert len(line["request_id"]) == 32
    assert "status" not in line


def test_a_denied_handshake_is_one_line(log: Log) -> None:
    """A denial has its status and code; uvicorn's own lines about it are gone."""
    denied = [line for line in log.lines if line.get("path") == "/not/a/socket"]
    assert [line["status"] for line in denied] == [404, 404, 403]
    assert [line["error"] for line in denied] == ["not_found", "not_found", "origin_not_allowed"]
    assert not [line for line in log.lines if line["logger"].startswith("uvicorn")]


def test_what_is_the_clients_doing_is_no_warning(log: Log) -> None:
    """However many clients are refused, the log has nothing above info."""
    assert {line["level"] for line in log.lines} <= {"debug", "info"}


def test_each_request_has_an_id_of_its_own(log: Log) -> None:
    """No two lines share an id, but those of one request."""
    ids = [line["request_id"] for line in log.lines if line["event"] in ("request", "connection")]
    assert len(set(ids)) == len(ids) >= 11
