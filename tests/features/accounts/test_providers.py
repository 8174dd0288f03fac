"""Logging in with an OpenID provider, and linking accounts to it: with a real one, mostly."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from app.core.db import SqlDatabase
from app.features.accounts.models import Identity, User
from app.features.accounts.providers.attempts import PROOF_LIFETIME
from tests.core.test_tokens import ABSENT
from tests.features.accounts.holders import (
    FACTOR,
    Holder,
    claims,
    enrolled,
    failures,
    holder,
    outcome,
    recorded,
)
from tests.features.accounts.mailbox import Mailbox, text_of, token_in
from tests.features.accounts.people import PASSWORD, me, refresh
from tests.features.accounts.providing import (
    AUTH,
    IDENTITIES,
    LONGEST,
    REFUSED,
    STEP_UP,
    Forger,
    account_of,
    begin_session,
    begun,
    last_failure,
    log_in,
    offer,
    proof,
    returned,
    somebody,
    with_password,
)
from tests.features.accounts.test_step_up import STEP_UP as STEP_UP_REQUIRED
from tests.features.accounts.test_step_up import grown_old
from tests.openid import OwnProvider
from tests.server import RunningServer

PROOF = (401, "accounts.proof_refused")


@pytest.fixture(scope="module")
def provider() -> Iterator[OwnProvider]:
    """The real one."""
    with OwnProvider() as provider:
        yield provider


@pytest.fixture(autouse=True)
def offered(common: RunningServer, provider: OwnProvider) -> None:
    """The server lets people log in with it: as a client with a secret, and as one without."""
    common.app.state.providers.by_name.clear()
    offer(common, "real", provider.issuer, "sign-in")
    offer(common, "public", provider.issuer, "sign-in-public", "")


async def newcomer(
    common: RunningServer, client: httpx2.AsyncClient, provider: OwnProvider
) -> tuple[Holder, dict[str, Any]]:
    """Somebody with an account and no password, and their tokens."""
    email = somebody()
    pair = await log_in(client, provider, email)
    account = await account_of(client, pair)
    return Holder(common, account["id"], email), pair


async def link(
    person: Holder, pair: dict[str, Any], provider: OwnProvider, login: str
) -> httpx2.Response:
    """The answer to somebody who links their account to who they are at the provider."""
    async with person.server.client(pair["access_token"]) as signed_in:
        given = await returned(signed_in, provider, f"{IDENTITIES}/real", login)
        return await signed_in.post(IDENTITIES, json=given)


class TestLoggingIn:
    async def test_the_providers_are_listed(self, client: httpx2.AsyncClient) -> None:
        """By name and label, and nothing else of them is told."""
        answer = await client.get(AUTH)
        names = [{"name": "real", "label": "Real"}, {"name": "public", "label": "Public"}]
        assert answer.json() == {"items": names}
        unknown = (404, "accounts.provider_not_found")
        assert outcome(await client.post(f"{AUTH}/other")) == unknown
        given = {"code": "x", "state": "x", "attempt": "x"}
        assert outcome(await client.post(f"{AUTH}/other/callback", json=given)) == unknown

    async def test_where_the_browser_is_sent(
        self, client: httpx2.AsyncClient, provider: OwnProvider, common: RunningServer
    ) -> None:
        """With a challenge, a state and a nonce of its own each time, and back to the page."""
        url, other = [httpx2.URL((await begun(client, f"{AUTH}/real"))["url"]) for _ in "ab"]
        said = dict(url.params)
        assert str(url).startswith(f"{provider.issuer}/auth?")
        assert said["redirect_uri"] == f"{common.url}/"
        assert said["response_type"] == "code"
        assert said["scope"] == "openid email profile"
        assert (said["code_challenge_method"], len(said["code_challenge"])) == ("S256", 43)
        for name in ("state", "nonce", "code_challenge"):
            assert said[name] != other.params[name]

    async def test_a_session_is_as_fresh_as_the_log_in_at_the_provider(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        forger: Forger,
    ) -> None:
        """A provider is asked when that was; where it does not say, the session is not fresh."""
        url = httpx2.URL((await begun(client, f"{AUTH}/real"))["url"])
        assert url.params["max_age"] == str(LONGEST)
        now = int(time.time())
        told = claims(await log_in(client, provider, somebody()))["auth_time"]
        assert now - 5 <= told <= time.time()
        for said, auth_time in (({"auth_time": now - 7200}, now - 7200), ({}, None)):
            answer = await forger.come(client, said | {"email": somebody()})
            pair = (await begin_session(client, answer.json())).json()
            assert claims(pair).get("auth_time") == auth_time
            forger.name = somebody()

    @pytest.mark.parametrize("name", ["real", "public"])
    async def test_who_comes_for_the_first_time_gets_an_account(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        stored: SqlDatabase,
        common: RunningServer,
        name: str,
    ) -> None:
        """Without a password; who comes again has the same, and their sessions say how."""
        email = somebody()
        given = await proof(client, provider, email, name)
        assert given["second_factor"] is False
        pair = (await begin_session(client, given)).json()
        account = await account_of(client, pair)
        assert (account["email"], account["name"]) == (email, "Ann")
        assert account["has_password"] is False
        assert claims(pair)["amr"] == ["fed"]
        again = await log_in(client, provider, email, name)
        assert (await account_of(client, again))["id"] == account["id"]
        ann = Holder(common, account["id"], email)
        did = ["account.created", "identity.linked", "session.begun", "session.begun"]
        assert await recorded(stored, ann) == did
        assert outcome(await with_password(client, email)) == (401, "accounts.wrong_credentials")

    async def test_somebody_who_comes_twice_at_a_time_gets_one_account(
        self, client: httpx2.AsyncClient, provider: OwnProvider, stored: SqlDatabase
    ) -> None:
        """Both times they are let in."""
        email = somebody()
        given = [await returned(client, provider, f"{AUTH}/real", email) for _ in range(3)]
        answers = await asyncio.gather(
            *(client.post(f"{AUTH}/real/callback", json=each) for each in given)
        )
        assert [answer.status_code for answer in answers] == [200] * 3
        async with stored.reading() as session:
            found = await session.scalars(select(Identity.user_id).where(Identity.email == email))
            assert len(found.all()) == 1

    async def test_a_code_is_good_once(
        self, client: httpx2.AsyncClient, provider: OwnProvider
    ) -> None:
        """The provider refuses it then."""
        given = await returned(client, provider, f"{AUTH}/real", somebody())
        answers = [await client.post(f"{AUTH}/real/callback", json=given) for _ in "ab"]
        assert answers[0].status_code == 200
        assert outcome(answers[1]) == REFUSED

    async def test_a_proof_is_good_once(
        self, client: httpx2.AsyncClient, provider: OwnProvider
    ) -> None:
        """Also of two at one moment; a later one makes those of before good no more."""
        email = somebody()
        earlier, given = [await proof(client, provider, email) for _ in "ab"]
        answers = await asyncio.gather(*(begin_session(client, given) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
        for used in (given, earlier):
            assert outcome(await begin_session(client, used)) == PROOF

    async def test_a_proof_is_good_for_a_while(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Five minutes; and what is no proof, or was changed, is none."""
        given = await proof(client, provider, somebody())
        attempt = await begun(client, f"{AUTH}/real")
        other = "A" if given["proof"][20] != "A" else "B"
        altered = given["proof"][:20] + other + given["proof"][21:]
        for wrong in ("x", given["proof"][:-2], altered, attempt["attempt"], "v1.é"):
            assert outcome(await begin_session(client, {"proof": wrong})) == PROOF
        over = time.time() + PROOF_LIFETIME.total_seconds()
        with monkeypatch.context() as moved:
            moved.setattr(common.app.state.provider_attempts, "_clock", lambda: over)
            assert outcome(await begin_session(client, given)) == PROOF
        assert (await begin_session(client, given)).status_code == 200

    @pytest.mark.parametrize("login", ["unverified-ann@example.com", "no-address"])
    async def test_an_address_that_is_not_verified_makes_no_account(
        self, client: httpx2.AsyncClient, provider: OwnProvider, stored: SqlDatabase, login: str
    ) -> None:
        """Anybody could say that it is theirs."""
        given = await returned(client, provider, f"{AUTH}/real", login)
        answer = await client.post(f"{AUTH}/real/callback", json=given)
        assert outcome(answer) == (403, "accounts.address_not_verified")
        why = {"provider": "real", "why": "accounts.address_not_verified"}
        assert await last_failure(stored) == why

    async def test_an_account_with_the_address_is_not_linked_by_itself(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """Its owner may be somebody else: they log in and link it, in whatever case it is spelt."""
        ann = await holder(common, stored)
        login = ann.email.replace("@example.com", "@EXAMPLE.com")
        given = await returned(client, provider, f"{AUTH}/real", login)
        answer = await client.post(f"{AUTH}/real/callback", json=given)
        assert outcome(answer) == (409, "accounts.link_first")
        assert (await link(ann, await ann.begin(), provider, login)).status_code == 201
        pair = await log_in(client, provider, login)
        assert (await account_of(client, pair))["id"] == ann.id

    async def test_whoever_has_a_second_factor_gives_a_code(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """The proof waits for it; a wrong one counts as at a log-in."""
        ann, pair = await enrolled(common, stored)
        await link(ann, pair, provider, ann.email)
        given = await proof(client, provider, ann.email)
        assert given["second_factor"] is True
        required = (401, "accounts.second_factor_required")
        assert outcome(await begin_session(client, given)) == required
        wrong = await begin_session(client, given, otp=ann.wrong_code())
        assert outcome(wrong) == (401, "accounts.wrong_code")
        assert await failures(stored, ann) == 1
        right = await begin_session(client, given, otp=ann.code(1))
        assert claims(right.json())["amr"] == ["fed", "otp"]
        assert await failures(stored, ann) == 0
        assert outcome(await begin_session(client, given, otp=ann.code(1))) == PROOF

    @pytest.mark.parametrize("column", ["disabled_at", "locked_until"])
    async def test_an_account_that_takes_no_log_in_is_not_told_of(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
        column: str,
    ) -> None:
        """Disabled or locked, it is as if the proof were none; the audit log knows."""
        ann, _ = await newcomer(common, client, provider)
        async with stored.unit_of_work() as uow:
            until = {column: datetime.now(UTC) + timedelta(hours=1)}
            await uow.execute(update(User).where(User.id == ann.id).values(**until))
        answer = await begin_session(client, await proof(client, provider, ann.email))
        assert outcome(answer) == PROOF
        assert (await recorded(stored, ann))[-1] == "log_in.failed"

    async def test_a_session_may_be_in_a_cookie(
        self, client: httpx2.AsyncClient, provider: OwnProvider, common: RunningServer
    ) -> None:
        """The same proof begins it, once; no page of elsewhere can."""
        email = somebody()
        given = await proof(client, provider, email)
        body, path = {"proof": given["proof"]}, "/api/v1/auth/cookie/provider"
        foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        answer = await client.post(path, json=body, headers=foreign)
        assert outcome(answer) == (403, "csrf_failed")
        answer = await client.post(path, json=body)
        assert answer.status_code == 201
        assert answer.json()["account"]["email"] == email
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-session=")
        assert "HttpOnly" in cookie
        brought = {"Cookie": cookie.partition(";")[0]}
        read = await client.get("/api/v1/auth/cookie", headers=brought)
        assert read.json()["csrf_token"] == answer.json()["csrf_token"]
        assert outcome(await client.post(path, json=body)) == PROOF


class TestLinking:
    async def test_an_account_is_linked_and_unlinked(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """Its owner is told by mail of both, and all other sessions end with the link."""
        mailbox = Mailbox(common)
        ann = await holder(common, stored)
        pair, login = await ann.begin(), somebody()
        made = await link(ann, pair, provider, login)
        assert made.status_code == 201
        identity = made.json()
        assert (identity["provider"], identity["label"]) == ("real", "Real")
        assert identity["email"] == login
        assert (await link(ann, pair, provider, login)).json() == identity
        listed = await ann.call(pair, "GET", IDENTITIES)
        assert listed.json() == {"items": [identity]}
        other = await log_in(client, provider, login)
        assert (await account_of(client, other))["id"] == ann.id
        gone = await ann.call(pair, "DELETE", f"{IDENTITIES}/{identity['id']}")
        assert gone.status_code == 204
        assert outcome(await me(client, other["access_token"])) == (401, "session_revoked")
        assert (await me(client, pair["access_token"])).status_code == 200
        assert (await ann.call(pair, "GET", IDENTITIES)).json() == {"items": []}
        told = [await mailbox.mail(ann.email, number) for number in (1, 2)]
        assert all("Real" in text_of(mail) for mail in told)
        did = await recorded(stored, ann)
        assert [each for each in did if "identity" in each] == [
            "identity.linked",
            "identity.unlinked",
        ]

    async def test_an_identity_is_one_persons(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """Nobody else links it, sees it or takes it away."""
        ann, pair = await newcomer(common, client, provider)
        (mine,) = (await ann.call(pair, "GET", IDENTITIES)).json()["items"]
        eve = await holder(common, stored)
        hers = await eve.begin()
        taken = await link(eve, hers, provider, ann.email)
        assert outcome(taken) == (409, "accounts.identity_taken")
        gone = await eve.call(hers, "DELETE", f"{IDENTITIES}/{mine['id']}")
        assert outcome(gone) == (404, "accounts.identity_not_found")
        assert (await eve.call(hers, "GET", IDENTITIES)).json() == {"items": []}

    async def test_it_takes_a_fresh_proof(self, common: RunningServer, stored: SqlDatabase) -> None:
        """To begin a link, and to take one away."""
        ann = await holder(common, stored)
        old = await grown_old(common, stored, await ann.begin())
        for method, path in (("POST", f"{IDENTITIES}/real"), ("DELETE", f"{IDENTITIES}/7")):
            assert outcome(await ann.call(old, method, path)) == STEP_UP_REQUIRED

    async def test_the_only_way_to_log_in_stays(
        self, client: httpx2.AsyncClient, provider: OwnProvider, common: RunningServer
    ) -> None:
        """Until there is another: one more link, or a password, which a mailed link sets."""
        mailbox = Mailbox(common)
        ann, pair = await newcomer(common, client, provider)
        (only,) = (await ann.call(pair, "GET", IDENTITIES)).json()["items"]
        path = f"{IDENTITIES}/{only['id']}"
        last = (409, "accounts.last_identity")
        assert outcome(await ann.call(pair, "DELETE", path)) == last
        second = (await link(ann, pair, provider, somebody())).json()
        assert (await ann.call(pair, "DELETE", path)).status_code == 204
        path = f"{IDENTITIES}/{second['id']}"
        assert outcome(await ann.call(pair, "DELETE", path)) == last
        await client.post("/api/v1/accounts/password/forgot", json={"email": ann.email})
        mails = [await mailbox.mail(ann.email, number) for number in (1, 2, 3)]
        (reset,) = [mail for mail in mails if "#reset?" in text_of(mail)]
        choice = {"token": token_in(reset), "password": PASSWORD}
        assert (await client.post("/api/v1/accounts/password/reset", json=choice)).is_success
        pair = await ann.begin()
        assert (await account_of(client, pair))["has_password"] is True
        assert (await ann.call(pair, "DELETE", path)).status_code == 204

    async def test_a_provider_that_is_set_no_more_is_named_by_its_host(
        self, client: httpx2.AsyncClient, provider: OwnProvider, common: RunningServer
    ) -> None:
        """The link stays."""
        ann, pair = await newcomer(common, client, provider)
        common.app.state.providers.by_name.clear()
        (shown,) = (await ann.call(pair, "GET", IDENTITIES)).json()["items"]
        assert shown["provider"] is None
        assert shown["label"] == f"127.0.0.1:{provider.port}"


class TestStepUp:
    async def test_a_new_log_in_at_the_provider_makes_a_session_fresh(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """For who has no password; refresh tokens of before are used up."""
        ann, pair = await newcomer(common, client, provider)
        old = await grown_old(common, stored, pair)
        assert outcome(await ann.call(old, "POST", FACTOR)) == STEP_UP_REQUIRED
        async with common.client(old["access_token"]) as signed_in:
            given = await returned(signed_in, provider, f"{STEP_UP}/real", ann.email)
            answer = await signed_in.post(STEP_UP, json=given)
        assert answer.status_code == 200
        fresh = answer.json()
        assert claims(fresh)["sid"] == claims(old)["sid"]
        assert (await ann.call(fresh, "POST", FACTOR)).status_code == 201
        assert "step_up.proved" in await recorded(stored, ann)
        stolen = await refresh(client, old["refresh_token"])
        assert outcome(stolen) == (401, "accounts.refresh_reused")

    async def test_it_takes_an_identity_of_ones_own(
        self,
        client: httpx2.AsyncClient,
        provider: OwnProvider,
        common: RunningServer,
        stored: SqlDatabase,
    ) -> None:
        """Somebody else at the provider proves nothing, and nor does who has a second factor."""
        ann, pair = await newcomer(common, client, provider)
        for login in (somebody(), (await newcomer(common, client, provider))[0].email):
            async with common.client(pair["access_token"]) as signed_in:
                given = await returned(signed_in, provider, f"{STEP_UP}/real", login)
                assert outcome(await signed_in.post(STEP_UP, json=given)) == REFUSED
        assert await failures(stored, ann) == 0
        await ann.enrol(pair)
        async with common.client(pair["access_token"]) as signed_in:
            given = await returned(signed_in, provider, f"{STEP_UP}/real", ann.email)
            answer = await signed_in.post(STEP_UP, json=given)
        assert outcome(answer) == (401, "accounts.second_factor_required")

    async def test_it_takes_a_log_in_of_now(
        self, client: httpx2.AsyncClient, forger: Forger, common: RunningServer
    ) -> None:
        """A provider that does not say when, or says earlier, has not asked anew."""
        said = {"sub": somebody(), "email": somebody()}
        made = (await forger.come(client, said)).json()
        pair = (await begin_session(client, made)).json()
        now = int(time.time())
        async with common.client(pair["access_token"]) as signed_in:
            url = httpx2.URL((await begun(signed_in, f"{STEP_UP}/forged"))["url"])
            assert (url.params["prompt"], url.params["max_age"]) == ("login", "0")
            assert url.params["tenant"] == "1"
            for at, expected in ((ABSENT, REFUSED), (now - 60, REFUSED), (now + 60, None)):
                path = f"{STEP_UP}/forged"
                given = await forger.returned(signed_in, path, said | {"auth_time": at})
                answer = await signed_in.post(STEP_UP, json=given)
                assert (outcome(answer) if answer.is_error else None) == expected
