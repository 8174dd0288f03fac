"""What is no address gets nowhere, whichever request brings it."""

import asyncio
import json
from typing import Any

import pytest

from app.core.db import SqlDatabase
from tests.features.accounts.holders import holder, outcome
from tests.features.accounts.mailbox import API
from tests.features.accounts.people import PASSWORD, code
from tests.features.accounts.test_sign_up import HOSTILE
from tests.server import RunningServer

#: The database has no part in it.
pytestmark = pytest.mark.parametrize("shared_url", ["sqlite"], indirect=True)

JSON = {"Content-Type": "application/json"}


def escaped(**content: Any) -> bytes:
    """JSON in ASCII: a lone surrogate goes out as an escape."""
    return json.dumps(content).encode()


async def test_a_hostile_address_is_refused_wherever_one_is_given(
    common: RunningServer, stored: SqlDatabase
) -> None:
    """By whoever forgot a password, and by who is signed in and wants another; none is echoed."""
    ann = await holder(common, stored)
    token = (await ann.begin())["access_token"]
    async with common.client(token) as client:
        for address in HOSTILE:
            for path, more in (("password/forgot", {}), ("me/email", {"password": PASSWORD})):
                body = escaped(email=address, **more)
                answer = await client.post(f"{API}/{path}", content=body, headers=JSON)
                assert outcome(answer) == (422, "invalid_parameter"), (path, ascii(address))
                assert len(answer.content) < 2000


async def test_a_hostile_address_is_nobodys_at_a_log_in(common: RunningServer) -> None:
    """It is an unknown one, or none at all; never a crash, and no cookie."""
    hostile = [each for each in HOSTILE if isinstance(each, str) and each]
    async with common.client() as client:

        async def log_in(address: str, path: str) -> None:
            form = {"username": address.encode(errors="replace").decode(), "password": PASSWORD}
            answer = await client.post(f"/api/v1/auth/{path}", data=form)
            assert code(answer) in ("accounts.wrong_credentials", "invalid_parameter")
            assert "set-cookie" not in answer.headers

        paths = ("login", "cookie") * len(hostile)  # in turns: each takes a hash of full cost
        await asyncio.gather(*map(log_in, hostile, paths))
