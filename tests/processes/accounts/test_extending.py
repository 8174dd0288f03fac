"""The error, route and channel of docs/extending.md: 15 lines in a copy of accounts, and used."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from tests.processes.guide import GUIDE, Person, added, blocks, check, put, running
from tests.server import Socket


def test_an_error_a_route_and_a_channel_take_fifteen_lines(tree: Path) -> None:
    """Counted from the diff of formatted files, imports included, in no more than four files."""
    put(tree, blocks(first=True))
    check(tree)
    lines = added(tree)
    assert set(lines) == {name for name, _ in blocks(first=True)}
    assert sum(map(len, lines.values())) <= 15, lines
    assert len(lines) <= 4
    said = f"{sum(map(len, lines.values()))} lines in {['', 'one', 'two'][len(lines)]} files"
    assert said in GUIDE


def test_the_error_is_at_both_doors(tree: Path) -> None:
    """The new route and the new channel let their owner in, and refuse others with the error."""
    put(tree, blocks(first=True))
    with running(tree, f"sqlite:///{tree}/first.db") as url:
        ann, bob = Person(url, "1", "Ann"), Person(url, "2", "Bob")
        path = f"/accounts/{ann.subject}"
        assert ann.ask("GET", f"{path}/greeting").json() == "Hello, Ann."
        over_rest = bob.ask("GET", f"{path}/greeting")
        assert over_rest.status_code == 403
        described = httpx2.get(f"{url}/errors/accounts.not_yours").json()
        schema = httpx2.get(f"{url}/openapi.json").json()
        asyncio.run(_at_the_channel(ann, bob, path, over_rest.json()))
    assert described["close_code"] == 4403
    operation = schema["paths"]["/api/v1/accounts/{account_id}/greeting"]["get"]
    assert "accounts.not_yours" in operation["responses"]["403"]["description"]


async def _at_the_channel(ann: Person, bob: Person, path: str, over_rest: dict[str, Any]) -> None:
    async with ann.socket(f"{path}/ws") as connection:
        socket = Socket(connection)
        assert (await socket.frame())["type"] == "welcome"
        assert (await socket.ask("ping"))["type"] == "pong"
    with pytest.raises(InvalidStatus, match="403"):
        async with bob.socket(f"{path}/ws"):
            pass
    async with bob.socket(f"{path}/ws", page=True) as connection:
        code, reason, (frame,) = await Socket(connection).ending()
    assert (code, reason) == (4403, "accounts.not_yours")
    own = {"instance": None, "request_id": None}
    assert frame["data"] | own == over_rest | own
