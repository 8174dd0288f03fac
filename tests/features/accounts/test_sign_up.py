"""Sign-up: one address, one account, and nothing hostile gets in."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from email_validator import validate_email

from tests.features.accounts.people import (
    PASSWORD,
    ask_to_sign_up,
    begin,
    code,
    confirm,
    log_in,
    me,
    shown,
    sign_up,
    token_of,
)
from tests.server import RunningServer

pytestmark = pytest.mark.usefixtures("engine")

LINKS = 3  # of five that an address is sent in an hour

HOSTILE = [
    "",
    "ann",
    "@example.com",
    "ann@",
    "ann@@example.com",
    "ann@localhost",
    "Ann <ann@example.com>",
    " ann@example.com",
    "ann@example.com\n",
    "ann@example.com\r\nBcc: all@example.com",
    "ann\n@example.com",
    "ann\0@example.com",
    "ann\ud800@example.com",
    "ann\u200b@example.com",
    "ann\u202e@example.com",
    "ann@exa\u200bmple.com",
    "ann@exam ple.com",
    "ann@example.com,bob@example.com",
    "ann@[127.0.0.1]",
    '"a nn"@example.com',
    "ann@xn--.com",
    "\ufdfa" * 63 + "@example.com",
    "a" * 65 + "@example.com",
    "a" * 10_000 + "@example.com",
    None,
    7,
    ["ann@example.com"],
    {"$ne": ""},
]


SPELLINGS = [
    ("Ann@example.com", "aNN@EXAMPLE.com"),
    ("STRASSE@example.com", "straße@example.com"),
    ("bob@example.com", "\uff42\uff4f\uff42@example.com"),  # fullwidth
    ("e\u0301ve@example.com", "\xe9ve@example.com"),  # two code points, and one
    ("ann@bücher.example", "ann@xn--bcher-kva.example"),
    ("eve@example.com", "eve@\uff25xample.com"),
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "  "}, "name"),
    ({"name": "a" * 81}, "name"),
    ({"name": "Ann\nLee"}, "name"),
    ({"name": "Ann\x7f"}, "name"),
    ({"roles": ["admin"]}, "roles"),
    ({"id": 1}, "id"),
]


async def test_an_account_is_what_was_signed_up_with_and_never_its_password(
    server: RunningServer,
) -> None:
    """The answer has the address as it was written; the password is nowhere in it."""
    async with server.client() as client:
        made = await sign_up(client, "Ann.Lee+list@Example.COM", name="  Ann Lee ")
    account = made["account"]
    assert account.keys() == {"id", "email", "name", "roles", "has_password", "created_at"}
    assert account["email"] == "Ann.Lee+list@Example.COM"
    assert account["name"] == "Ann Lee"
    assert account["roles"] == []
    assert PASSWORD not in json.dumps(made)


async def test_two_spellings_of_an_address_are_one(server: RunningServer) -> None:
    """Whoever signs up again is told so by mail, and each spelling logs in to the account."""
    async with server.client() as client:
        for first, second in SPELLINGS:
            assert (await sign_up(client, first))["account"]["email"] == first
            asked = await ask_to_sign_up(client, second)
            assert asked.status_code == 202
            assert "already" in (await shown(client, asked))["subject"], second
            pair = (await log_in(client, second)).json()
            assert (await me(client, pair["access_token"])).json()["email"] == first


async def test_addresses_that_only_look_alike_are_two(server: RunningServer) -> None:
    """Cyrillic and Latin letters are other letters, so it is another account."""
    async with server.client() as client:
        latin, cyrillic = await sign_up(client), await sign_up(client, "\u0430nn@example.com")
    assert latin["account"]["id"] != cyrillic["account"]["id"]


async def test_of_twenty_links_to_one_address_at_once_one_is_taken(server: RunningServer) -> None:
    """One account is made; the others are told that somebody was faster."""
    async with server.client() as client:
        asked = [await ask_to_sign_up(client) for _ in range(LINKS)]
        tokens = [await token_of(client, answer) for answer in asked]
        answers = await asyncio.gather(*(confirm(client, token) for token in tokens))
    assert Counter(answer.is_success for answer in answers) == {True: 1, False: len(tokens) - 1}
    refused = {code(answer) for answer in answers if not answer.is_success}
    assert refused <= {"accounts.email_taken", "accounts.link_refused"}


async def test_a_hostile_address_is_an_invalid_parameter(server: RunningServer) -> None:
    """No address that is none gets an account or a 500, and none is echoed."""
    async with server.client() as client:
        for address in HOSTILE:
            answer = await client.post(
                "/api/v1/accounts/sign-up",
                content=_json({"email": address, "name": "Ann"}),
                headers={"Content-Type": "application/json"},
            )
            assert answer.status_code == 422, ascii(address)
            assert code(answer) == "invalid_parameter"
            assert len(answer.content) < 2000


async def test_a_megabyte_is_refused_before_anybody_parses_it_as_an_address(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length is checked first, at sign-up and at log-in: the library takes seconds."""
    parsed: list[int] = []

    def watched(address: str, **kwargs: Any) -> Any:
        parsed.append(len(address))
        return validate_email(address, **kwargs)

    monkeypatch.setattr("app.core.schemas.validate_email", watched)
    monkeypatch.setattr("app.features.accounts.users.validate_email", watched)
    huge = "a" * 1_000_000 + "@example.com"
    async with server.client() as client:
        assert code(await ask_to_sign_up(client, huge)) == "invalid_parameter"
        assert code(await log_in(client, huge)) == "accounts.wrong_credentials"
    assert max(parsed, default=0) <= 255


async def test_what_is_wrong_with_a_sign_up_is_said(server: RunningServer) -> None:
    """The field is named, what it held is not; no field can be set that is not asked for."""
    async with server.client() as client:
        for changed, where in WRONG:
            answer = await ask_to_sign_up(client, **changed)
            assert (answer.status_code, code(answer)) == (422, "invalid_parameter"), changed
            assert [error["loc"] for error in answer.json()["errors"]] == [["body", where]]
            assert "aaaa" not in answer.text


async def test_the_longest_and_strangest_that_is_taken_works(server: RunningServer) -> None:
    """A name in any script and a password of 200 characters make a token that is good."""
    async with server.client() as client:
        password = ("\U0001f600 päß " * 25)[:200]
        made = await sign_up(client, password=password, name="\U0001f600ב" * 40)
        pair = (await log_in(client, password=password)).json()
        assert (await me(client, pair["access_token"])).json() == made["account"]


@pytest.mark.parametrize("password", ["a" * 9, "a" * 201, None])
async def test_a_password_has_10_to_200_characters(server: RunningServer, password: Any) -> None:
    """Another is refused, and the link is still good."""
    async with server.client() as client:
        token = await token_of(client, await ask_to_sign_up(client))
        answer = await confirm(client, token, password)
        assert (answer.status_code, code(answer)) == (422, "invalid_parameter")
        assert [error["loc"] for error in answer.json()["errors"]] == [["body", "password"]]
        assert "aaaa" not in answer.text
        assert (await confirm(client, token)).status_code == 201


async def test_an_account_is_only_for_whoever_has_its_token(server: RunningServer) -> None:
    """`me` answers nobody without a token."""
    async with server.client() as client:
        await begin(client)
        nobody = await client.get("/api/v1/accounts/me")
    assert (nobody.status_code, code(nobody)) == (401, "authentication_failed")
    assert nobody.headers["WWW-Authenticate"] == "Bearer"


def _json(content: object) -> bytes:
    return json.dumps(content).encode()  # a lone surrogate goes out as an escape
