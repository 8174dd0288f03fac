"""What a forged OpenID provider can try, and whoever brings what no provider has sent."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from app.core.db import SqlDatabase
from app.features.accounts.providers.attempts import ATTEMPT_LIFETIME
from tests.conftest import settings_for
from tests.core.issuer import rsa_jwk
from tests.core.test_tokens import ABSENT, b64
from tests.features.accounts.holders import CHEAP, holder, outcome
from tests.features.accounts.providing import (
    AUTH,
    CLIENT,
    IDENTITIES,
    REFUSED,
    STEP_UP,
    Forger,
    account_of,
    begin_session,
    last_failure,
    offer,
    somebody,
)
from tests.server import RunningServer

ATTEMPT = (410, "accounts.attempt_refused")
AWAY = (503, "unavailable")
OTHER_KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def common(
    new_sqlite: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server for these tests to share, on SQLite alone: the database has no part in them."""
    settings = settings_for(new_sqlite(), mail_directory=tmp_path_factory.mktemp("mail"))
    with RunningServer(settings) as server:
        server.app.state.passwords._hash = CHEAP
        yield server


class TestWhatIsBroughtBack:
    @pytest.mark.parametrize(
        "changed",
        [
            {"state": "another"},
            {"state": "é"},
            {"attempt": "x"},
            {"attempt": "v1." + "A" * 300},
        ],
        ids=ascii,
    )
    async def test_an_attempt_that_is_not_this_one_is_refused(
        self, client: httpx2.AsyncClient, forger: Forger, changed: dict[str, str]
    ) -> None:
        """And the provider is asked nothing."""
        given = await forger.returned(client)
        answer = await client.post(f"{AUTH}/forged/callback", json=given | changed)
        assert outcome(answer) == ATTEMPT
        assert "/token" not in forger.asked
        assert (await client.post(f"{AUTH}/forged/callback", json=given)).status_code == 200

    async def test_an_attempt_is_good_for_one_provider_and_purpose(
        self,
        client: httpx2.AsyncClient,
        forger: Forger,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """And, where somebody is signed in, for them alone."""
        ann, eve = await holder(common, stored), await holder(common, stored)
        hers, others = (await ann.begin()), (await eve.begin())
        offer(common, "other", forger.url)
        given = await forger.returned(client)
        assert outcome(await client.post(f"{AUTH}/other/callback", json=given)) == ATTEMPT
        for path in (IDENTITIES, STEP_UP):
            assert outcome(await ann.call(hers, "POST", path, json=given)) == ATTEMPT
        async with common.client(hers["access_token"]) as signed_in:
            linking = await forger.returned(signed_in, f"{IDENTITIES}/forged")
            proving = await forger.returned(signed_in, f"{STEP_UP}/forged")
        for path, begins in ((IDENTITIES, linking), (STEP_UP, proving)):
            assert outcome(await eve.call(others, "POST", path, json=begins)) == ATTEMPT
            assert outcome(await client.post(f"{AUTH}/forged/callback", json=begins)) == ATTEMPT
        assert outcome(await ann.call(hers, "POST", IDENTITIES, json=proving)) == ATTEMPT
        assert outcome(await ann.call(hers, "POST", STEP_UP, json=linking)) == ATTEMPT
        again = await ann.begin()
        assert outcome(await ann.call(again, "POST", STEP_UP, json=proving)) == ATTEMPT

    async def test_an_attempt_is_good_for_a_while(
        self,
        client: httpx2.AsyncClient,
        forger: Forger,
        common: RunningServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Ten minutes."""
        given = await forger.returned(client)
        over = time.time() + ATTEMPT_LIFETIME.total_seconds()
        monkeypatch.setattr(common.app.state.provider_attempts, "_clock", lambda: over)
        assert outcome(await client.post(f"{AUTH}/forged/callback", json=given)) == ATTEMPT

    @pytest.mark.parametrize(
        "wrong",
        [
            {"code": ABSENT, "error": "access_denied"},
            {"error": "access_denied"},
            {"code": ""},
            {"code": "x" * 4097},
            {"state": "x" * 256},
            {"attempt": "x" * 1025},
            {"iss": "x" * 256},
            {"code": ["x"]},
            {"code": "\0"},
        ],
        ids=lambda wrong: ascii(wrong)[:40],
    )
    async def test_what_is_no_answer_of_a_provider_is_invalid(
        self, client: httpx2.AsyncClient, forger: Forger, wrong: dict[str, Any]
    ) -> None:
        """It is not quoted, and the provider is asked nothing."""
        given = {k: v for k, v in ((await forger.returned(client)) | wrong).items() if v != ABSENT}
        answer = await client.post(f"{AUTH}/forged/callback", json=given)
        assert outcome(answer) == (422, "invalid_parameter")
        assert "xxx" not in answer.text
        assert "/token" not in forger.asked

    async def test_a_huge_body_is_refused(self, client: httpx2.AsyncClient, forger: Forger) -> None:
        """Before it is read to its end."""
        huge = {"proof": "x" * 2_000_000}
        for path in ("session", "forged/callback"):
            answer = await client.post(f"{AUTH}/{path}", json=huge)
            assert answer.status_code == 413

    async def test_the_answer_of_another_issuer_is_refused(
        self, client: httpx2.AsyncClient, forger: Forger, common: RunningServer
    ) -> None:
        """Where it says whose it is (RFC 9207); where it has to say so it must."""
        for supported, iss, status in (
            (False, None, 200),
            (False, forger.url, 200),
            (False, "https://evil.example", 403),
            (True, None, 403),
            (True, forger.url, 200),
        ):
            forger.configuration["authorization_response_iss_parameter_supported"] = supported
            offer(common, "forged", forger.url)
            given = await forger.returned(client) | ({"iss": iss} if iss else {})
            answer = await client.post(f"{AUTH}/forged/callback", json=given)
            assert answer.status_code == status, (supported, iss)


def half_hash(token: str) -> str:
    """`at_hash` of an access token."""
    digest = hashlib.sha256(token.encode()).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


class TestIdTokens:
    @pytest.mark.parametrize(
        ("said", "header"),
        [
            ({}, {}),
            ({}, {"alg": "ES256"}),
            ({}, {"typ": ABSENT}),
            ({"aud": [CLIENT]}, {}),
            ({"aud": [CLIENT, "other"], "azp": CLIENT}, {}),
            ({"azp": CLIENT}, {}),
            ({"at_hash": half_hash("opaque")}, {}),
            ({"email_verified": "true"}, {}),
        ],
        ids=lambda each: ascii(each)[:40],
    )
    async def test_what_providers_differ_in_is_taken(
        self, client: httpx2.AsyncClient, forger: Forger, said: Any, header: Any
    ) -> None:
        """Both algorithms, and every form of an audience that names this service."""
        said = {"sub": somebody(), "email": somebody()} | said
        assert (await forger.come(client, said, header)).status_code == 200

    @pytest.mark.parametrize(
        ("said", "header"),
        [
            ({"nonce": "another"}, {}),
            ({"nonce": ABSENT}, {}),
            ({"aud": "another"}, {}),
            ({"aud": ABSENT}, {}),
            ({"aud": []}, {}),
            ({"aud": [CLIENT, "other"]}, {}),
            ({"aud": [CLIENT, "other"], "azp": "other"}, {}),
            ({"azp": "other"}, {}),
            ({"iss": "https://evil.example"}, {}),
            ({"iss": ABSENT}, {}),
            ({"sub": ABSENT}, {}),
            ({"sub": 7}, {}),
            ({"sub": ""}, {}),
            ({"sub": "x" * 256}, {}),
            ({"exp": 1, "iat": 0}, {}),
            ({"exp": ABSENT}, {}),
            ({"iat": 9_999_999_000, "exp": 9_999_999_600}, {}),
            ({"nbf": 9_999_999_000}, {}),
            ({"exp": 99_999_999_999}, {}),
            ({"at_hash": "another"}, {}),
            ({"at_hash": 7}, {}),
            ({}, {"alg": "none"}),
            ({}, {"alg": "HS256"}),
            ({}, {"alg": "RS512"}),
            ({}, {"alg": ABSENT}),
            ({}, {"kid": "ec-1"}),
            ({}, {"kid": "unknown"}),
            ({}, {"kid": ABSENT}),
            ({}, {"typ": "at+jwt"}),
            ({}, {"crit": ["exp"]}),
            ({}, {"jwk": rsa_jwk()}),
        ],
        ids=lambda each: ascii(each)[:40],
    )
    async def test_what_is_not_meant_for_this_log_in_is_refused(
        self,
        client: httpx2.AsyncClient,
        forger: Forger,
        stored: SqlDatabase,
        said: Any,
        header: Any,
    ) -> None:
        """By another issuer, for another client, another time, or not signed by the provider."""
        answer = await forger.come(client, said, header)
        assert outcome(answer) == REFUSED
        assert await last_failure(stored) == {"provider": "forged", "why": REFUSED[1]}
        for secret in ("opaque", forger.name):
            assert secret not in answer.text

    async def test_a_signature_has_to_be_of_the_providers_key(
        self, client: httpx2.AsyncClient, forger: Forger
    ) -> None:
        """Of no other key, of no secret that is known, and there has to be one."""
        assert outcome(await forger.come(client, key=OTHER_KEY)) == REFUSED
        for wrong in ("", b64(b"x" * 256)):
            given = await forger.returned(client)
            token = forger.answers["/token"][1]["id_token"].rpartition(".")[0]
            forger.answers["/token"] = (200, {"id_token": f"{token}.{wrong}"})
            answer = await client.post(f"{AUTH}/forged/callback", json=given)
            assert outcome(answer) == REFUSED

    async def test_keys_that_the_provider_has_changed_are_found(
        self, client: httpx2.AsyncClient, forger: Forger
    ) -> None:
        """At once."""
        said = {"sub": somebody(), "email": somebody()}
        assert (await forger.come(client, said)).status_code == 200
        forger.keys = [rsa_jwk("rsa-2")]
        assert (await forger.come(client, said, {"kid": "rsa-2"})).status_code == 200

    async def test_an_address_may_be_told_elsewhere(
        self, client: httpx2.AsyncClient, forger: Forger
    ) -> None:
        """At the userinfo endpoint, where it is told of the same person."""
        forger.configuration["userinfo_endpoint"] = f"{forger.url}/userinfo"
        subject, email = uuid4().hex, somebody()
        said = {"email": email, "email_verified": True, "name": "Zoë"}
        forger.answers["/userinfo"] = (200, {"sub": "somebody else"} | said)
        without = {"sub": subject, "email": ABSENT}
        assert outcome(await forger.come(client, without)) == REFUSED
        forger.answers["/userinfo"] = (200, {"sub": subject} | said)
        made = (await forger.come(client, without)).json()
        pair = (await begin_session(client, made)).json()
        account = await account_of(client, pair)
        assert (account["email"], account["name"]) == (email, "Zoë")

    async def test_what_a_provider_calls_people_is_made_fit_to_show(
        self, client: httpx2.AsyncClient, forger: Forger
    ) -> None:
        """And where it says nothing of use, it is the address that they are called by."""
        for given, name in (
            ("a\nb\0\u202ec", "abc"),
            ("x" * 200, "x" * 80),
            ("\n", None),
            (7, None),
        ):
            email = somebody()
            answer = await forger.come(client, {"sub": email, "email": email, "name": given})
            pair = (await begin_session(client, answer.json())).json()
            account = await account_of(client, pair)
            assert account["name"] == (name or email.partition("@")[0])


class TestAProviderThatIsNotWell:
    @pytest.mark.parametrize(
        "answer",
        [
            (400, {"error": "invalid_grant"}),
            (401, {"error": "invalid_client"}),
            (302, {}),
            (200, {}),
            (200, []),
            (200, {"id_token": 7}),
            (200, {"id_token": "x" * 20_000}),
        ],
        ids=lambda each: ascii(each)[:40],
    )
    async def test_what_it_refuses_is_refused(
        self, client: httpx2.AsyncClient, forger: Forger, answer: Any
    ) -> None:
        """As is what it answers that is of no use."""
        given = await forger.returned(client)
        forger.answers["/token"] = answer
        assert outcome(await client.post(f"{AUTH}/forged/callback", json=given)) == REFUSED

    @pytest.mark.parametrize(
        "answer", [(500, {}), (429, {}), (200, {"pad": "x" * 200_000})], ids=lambda each: each[0]
    )
    async def test_one_that_fails_is_away(
        self, client: httpx2.AsyncClient, forger: Forger, answer: Any
    ) -> None:
        """Also where it answers without an end."""
        given = await forger.returned(client)
        forger.answers["/token"] = answer
        assert outcome(await client.post(f"{AUTH}/forged/callback", json=given)) == AWAY

    async def test_nobody_waits_long_for_one_that_hangs(
        self, client: httpx2.AsyncClient, forger: Forger
    ) -> None:
        """Neither who begins nor who comes back; others are served meanwhile."""
        given = await forger.returned(client)
        forger.instead = b""
        begins = time.monotonic()
        back = asyncio.create_task(client.post(f"{AUTH}/forged/callback", json=given))
        assert (await client.get("/health/live")).is_success
        assert not back.done()
        assert outcome(await back) == AWAY
        waited = time.monotonic() - begins
        assert waited < 5  # 2.5, and what a slow machine adds

    async def test_one_that_is_away_keeps_nobody_from_starting(
        self, client: httpx2.AsyncClient, common: RunningServer
    ) -> None:
        """It is asked when somebody comes, and not by each of many."""
        async with Forger() as forger:
            offered = offer(common, "forged", forger.url)
            forger.instead = b"{"
            answers = [await client.post(f"{AUTH}/forged") for _ in range(5)]
            assert [outcome(answer) for answer in answers] == [AWAY] * 5
            assert answers[0].headers["Retry-After"] == "5"
            assert len(forger.asked) == 1
            forger.instead = None
            offered.keys._refresh_at = 0  # five seconds later
            assert (await client.post(f"{AUTH}/forged")).is_success

    @pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint"])
    async def test_one_without_an_endpoint_is_away(
        self, client: httpx2.AsyncClient, forger: Forger, common: RunningServer, endpoint: str
    ) -> None:
        """Or with one that is no address of the web."""
        for wrong in (None, "javascript:alert(1)", 7):
            forger.configuration[endpoint] = wrong
            offer(common, "forged", forger.url)
            begins = await client.post(f"{AUTH}/forged")
            if begins.is_success:
                given = await forger.returned(client)
                begins = await client.post(f"{AUTH}/forged/callback", json=given)
            assert outcome(begins) == AWAY


async def test_log_ins_are_counted(client: httpx2.AsyncClient, forger: Forger) -> None:
    """By network with those by password, and for each account."""
    begins = await client.post(f"{AUTH}/forged")
    assert '"accounts.log_in"' in begins.headers["RateLimit"]
    made = (await forger.come(client, {"sub": somebody()})).json()
    answers = [await begin_session(client, made) for _ in range(61)]
    assert [answer.status_code for answer in answers] == [200, *[401] * 59, 429]
