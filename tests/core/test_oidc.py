"""AUTH_MODE=oidc: a real provider's tokens are taken at both doors, and nobody else's."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import APIRouter, Depends, Request, WebSocket
from websockets.exceptions import InvalidStatus

from app.core import provider_keys as module
from app.core.auth import ADMIN, CurrentUser, Principal, has_scope
from app.core.db import Database
from app.core.errors import Unavailable
from app.core.oidc import MAX_LENGTH, OpenIdProvider
from app.core.outbound import OutboundClient
from app.core.settings import Settings
from app.core.token_form import Reason, TokenRefused
from app.core.tokens import Claims, Key, Tokens
from app.realtime import Channel
from tests.conftest import SECRET, settings_for
from tests.core.issuer import AUDIENCE, Issuer, ec_jwk, payload, rsa_jwk
from tests.core.test_tokens import ABSENT, NOT_AN_OBJECT, b64, mac
from tests.openid import AUDIENCE as REAL_AUDIENCE
from tests.openid import OwnProvider
from tests.server import DEADLINE, RunningServer

MANY = [f"role-{n}" for n in range(40)]
BAD_ALGORITHMS = ("none", "HS256", "RS512", "PS256", "ES384", ABSENT, None, ["RS256"], "rs256")
BAD_TYPES = ("logout+jwt", "dpop+jwt", "rt+jwt", "", None, 1)
BAD_NAMES = ("crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc")
BAD_AUDIENCES: tuple[Any, ...] = (ABSENT, None, [], [[AUDIENCE]], {}, "")
BAD_SUBJECTS = (ABSENT, None, "", "x" * 256, "a\nb", 7, "Zoë")

router = APIRouter(prefix="/probe")
Anybody = Annotated[Principal, Depends(has_scope())]
Administering = Annotated[Principal, Depends(has_scope(ADMIN))]


def shown(user: Principal) -> dict[str, Any]:
    """All that a guard knows, but the times."""
    told = {"subject": user.subject, "name": user.name, "session": user.session}
    scopes = None if user.scopes is None else sorted(user.scopes)
    return told | {"roles": sorted(user.roles), "scopes": scopes}


@router.get("/rest")
async def rest(user: Anybody) -> dict[str, Any]:
    """Who asks."""
    return shown(user)


@router.get("/administers")
async def administers(user: Administering) -> str:
    """Who has the scope for it."""
    return user.subject


@router.get("/unlimited")
async def unlimited(user: CurrentUser) -> str:
    """Who is limited to nothing."""
    return user.subject


@router.post("/end/{kind}/{key}")
async def end(db: Database, kind: str, key: str, request: Request) -> None:
    """Revoke a session, or a subject."""
    revocations = request.app.state.revocations
    async with db.unit_of_work() as uow:
        (revocations.revoke_session if kind == "session" else revocations.revoke_subject)(uow, key)


@router.websocket("/bare")
async def bare(websocket: WebSocket, user: Anybody) -> None:
    """Says who asks, and stays open."""
    await websocket.accept()
    await websocket.send_json({"type": "you", "data": shown(user)})
    await websocket.receive()


@router.websocket("/channel")
class ProbeChannel(Channel):
    """Open to whoever is signed in."""

    user: Anybody


async def ask(server: RunningServer, token: str) -> dict[str, Any]:
    """What both doors answer to a token, which is the same."""
    async with server.client(token) as client:
        answer: dict[str, Any] = (await client.get("/probe/rest")).json()
    try:
        async with server.socket("/probe/bare", token) as socket:
            other = (await socket.frame())["data"]
    except InvalidStatus as refused:
        other = json.loads(refused.response.body or b"")
    assert answer.get("code") == other.get("code")
    assert "code" in answer or answer == other
    return answer


@pytest.fixture(scope="module")
def provider() -> Iterator[OwnProvider]:
    """The real one."""
    with OwnProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(provider: OwnProvider, new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """A service that takes its tokens."""
    with RunningServer(settings_of(provider, new_sqlite()), router) as server:
        yield server


def settings_of(provider: OwnProvider, url: str) -> Settings:
    """Settings of a service that takes the real provider's tokens."""
    oidc = {"auth_mode": "oidc", "oidc_issuer": provider.issuer}
    oidc |= {"oidc_audience": REAL_AUDIENCE, "oidc_roles_claim": "realm.roles"}
    return settings_for(url, token_leeway_seconds=5, **oidc)


class TestARealProvider:
    """`oidc-provider` of npm, run by node."""

    async def test_a_machine(self, provider: OwnProvider, server: RunningServer) -> None:
        """By client credentials, ES256: it is called by its client's id."""
        token = provider.machine_token()
        assert await ask(server, token) == {
            "subject": "machine",
            "name": "machine",
            "session": payload(token)["jti"],
            "roles": ["robot"],
            "scopes": ["read"],
        }

    async def test_a_person(self, provider: OwnProvider, server: RunningServer) -> None:
        """Who signed in in a browser, RS256; the ID token that came along lets nobody in."""
        tokens = provider.person_tokens("ann")
        assert await ask(server, tokens["access_token"]) == {
            "subject": "ann",
            "name": "Ann",
            "session": payload(tokens["access_token"])["jti"],
            "roles": ["editor"],
            "scopes": ["read"],
        }
        assert (await ask(server, tokens["id_token"]))["code"] == "authentication_failed"

    async def test_scopes_are_those_of_the_token(
        self, provider: OwnProvider, server: RunningServer
    ) -> None:
        """What it was not given for is refused, and what no guard names a scope of."""
        for scope, codes in (("read", [403, 403]), ("admin", [200, 403])):
            async with server.client(provider.machine_token(scope)) as client:
                paths = ("/probe/administers", "/probe/unlimited")
                answers = [await client.get(path) for path in paths]
            assert [answer.status_code for answer in answers] == codes

    async def test_revocations_work(self, provider: OwnProvider, server: RunningServer) -> None:
        """By session and by subject: the token is refused, and its sockets are closed."""
        for kind, key, login in (("session", None, "bob"), ("subject", "eve", "eve")):
            token = provider.person_tokens(login)["access_token"]
            async with server.socket("/probe/channel", token) as socket, server.client() as client:
                await socket.ask("ping")
                await client.post(f"/probe/end/{kind}/{key or payload(token)['jti']}")
                assert (await socket.ending())[:2] == (4401, "session_revoked")
            assert (await ask(server, token))["code"] == "session_revoked"

    async def test_nobody_elses_token_is_taken(self, server: RunningServer) -> None:
        """Not our own of AUTH_MODE=local either, though SECRET_KEY is the same."""
        settings = server.settings
        ours = Tokens(
            SECRET,
            issuer=settings.oidc_issuer,
            audience=REAL_AUDIENCE,
            lifetime=timedelta(minutes=5),
        )
        token = ours.issue("1", session="s")
        assert (await ask(server, token))["code"] == "authentication_failed"

    async def test_there_are_no_accounts(
        self, provider: OwnProvider, server: RunningServer
    ) -> None:
        """No routes, no keys of our own; whoever reads OpenAPI is sent to the provider."""
        async with server.client() as client:
            document = (await client.get("/openapi.json")).json()
            for path in ("/api/v1/auth/login", "/api/v1/accounts", "/.well-known/jwks.json"):
                assert (await client.get(path)).status_code == 404
        assert not [path for path in document["paths"] if "/auth/" in path or "/accounts" in path]
        schemes = document["components"]["securitySchemes"].values()
        address = f"{provider.issuer}/.well-known/openid-configuration"
        assert {"type": "openIdConnect", "openIdConnectUrl": address} in schemes
        assert not [scheme for scheme in schemes if scheme["type"] == "oauth2"]

    async def test_the_provider_changes_its_keys(
        self, provider: OwnProvider, server: RunningServer
    ) -> None:
        """A token of a new one is taken at once, those of keys that are gone no more."""
        old = provider.machine_token()
        assert (await ask(server, old))["subject"] == "machine"
        provider.rotate()
        server.app.state.verifier.keys._ask_at = 0  # half a minute has gone by
        assert (await ask(server, provider.machine_token()))["subject"] == "machine"
        assert (await ask(server, old))["code"] == "authentication_failed"

    async def test_the_provider_goes_away(
        self,
        provider: OwnProvider,
        server: RunningServer,
        new_sqlite: Callable[[], str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its keys are kept; a process that never had them starts, and says 503 for a while."""
        server.app.state.verifier.keys._ask_at = 0
        token = provider.machine_token()
        assert (await ask(server, token))["subject"] == "machine"
        provider.kill()
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
        with RunningServer(settings_of(provider, new_sqlite()), router) as late:
            assert (await ask(late, token))["code"] == "unavailable"
            assert (await ask(server, token))["subject"] == "machine"
            async with late.browser_socket("/probe/bare", token) as socket:
                assert (await socket.ending())[:2] == (1013, "unavailable")
            provider.start()
            token = provider.machine_token()
            async with asyncio.timeout(DEADLINE), late.client(token) as client:
                while not (await client.get("/probe/rest")).is_success:
                    pass
            assert (await ask(late, token))["subject"] == "machine"


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer that signs anything."""
    async with Issuer() as issuer:
        yield issuer


Make = Callable[..., Awaitable[OpenIdProvider]]


@pytest.fixture
async def make(issuer: Issuer) -> AsyncIterator[Make]:
    """Makes verifiers of its tokens, which have its keys."""
    outbound = OutboundClient(timeout=5, retries=0)

    async def verifier(**settings: Any) -> OpenIdProvider:
        provider = OpenIdProvider(issuer.settings(**settings), outbound)
        await provider.keys.load()
        return provider

    yield verifier
    await outbound.pool.close()


async def refusal(verifier: OpenIdProvider, token: Any) -> Reason | None:
    """Why a token is refused, if it is."""
    try:
        await verifier.claims_of(token)
    except TokenRefused as refused:
        return refused.reason
    return None


class TestWhatIsTaken:
    async def test_what_a_token_says(self, issuer: Issuer, make: Make) -> None:
        """Every claim in its place."""
        verifier = await make(oidc_roles_claim="realm.roles")
        said = {"name": "Zoë", "sid": "session-1", "realm": {"roles": ["admin", "x"]}}
        said |= {"scope": "a b", "scp": ["b", "c"], "amr": ["pwd", "otp"], "client_id": "app"}
        now = issuer.claims["iat"]
        times = {"iat": now, "exp": now + 600, "auth_time": now - 60}
        claims = await verifier.claims_of(issuer.token(said | times))
        assert claims == Claims(
            subject="ann",
            name="Zoë",
            session="session-1",
            roles=frozenset({"admin", "x"}),
            token_id="token-1",
            issued_at=datetime.fromtimestamp(now, UTC),
            expires_at=datetime.fromtimestamp(now + 600, UTC),
            scopes=frozenset("abc"),
            authenticated_at=datetime.fromtimestamp(now - 60, UTC),
            methods=frozenset({"pwd", "otp"}),
            key="rsa-1",
        )

    @pytest.mark.parametrize(
        "header",
        [{}, {"alg": "ES256"}, {"x5t": "x"}, {"pi.atm": "1"}]
        + [{"typ": typ} for typ in (ABSENT, "JWT", "jwt", "AT+JWT", "application/at+jwt")],
    )
    async def test_headers(self, issuer: Issuer, make: Make, header: Any) -> None:
        """Both algorithms, every type that an access token has, and names that say nothing."""
        assert await refusal(await make(), issuer.token(header=header)) is None

    @pytest.mark.parametrize(
        "said",
        [
            {"aud": [AUDIENCE]},
            {"aud": ["https://other.example", AUDIENCE]},
            {"sub": "x" * 255},
            {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
            {"azp": AUDIENCE},
            {"typ": "Bearer", "nonce": "as Keycloak has it"},
            {"nonce": "and the header says at+jwt"},
            {"token_use": "access"},
            {"pad": "x" * 4000},
        ],
        ids=lambda said: ascii(said)[:40],
    )
    async def test_claims(self, issuer: Issuer, make: Make, said: Any) -> None:
        """What providers differ in."""
        assert await refusal(await make(), issuer.token(said)) is None

    @pytest.mark.parametrize(
        ("said", "name"),
        [
            ({}, ""),
            ({"name": "Zoë Ωμέγα"}, "Zoë Ωμέγα"),
            ({"preferred_username": "ann"}, "ann"),
            ({"name": " ", "preferred_username": "ann"}, "ann"),
            ({"name": "x" * 200}, "x" * 80),
            ({"name": "a\nb\0\ud800\u202ec"}, "abc"),
            ({"name": ["Ann"], "preferred_username": 7}, ""),
            ({"client_id": "app"}, ""),
            ({"sub": "job", "client_id": "job"}, "job"),
            ({"sub": "job", "azp": "job"}, "job"),
            ({"sub": "job@clients", "azp": "job"}, "job"),
        ],
    )
    async def test_names(self, issuer: Issuer, make: Make, said: Any, name: str) -> None:
        """A person's own, cut and cleaned; a machine's is its client's id, a person's never is."""
        assert (await (await make()).claims_of(issuer.token(said))).name == name

    async def test_sessions(self, issuer: Issuer, make: Make) -> None:
        """The provider's; else the token's own; else one of the subject and the second."""
        verifier = await make()
        now = issuer.claims["iat"]

        async def session(**said: Any) -> str:
            return (await verifier.claims_of(issuer.token({"iat": now} | said))).session

        assert await session(sid="s") == "s"
        assert await session() == "token-1"
        derived = await session(jti=ABSENT)
        assert derived == await session(jti=ABSENT)
        assert len({derived, await session(jti=ABSENT, sub="bob")}) == 2
        assert len({derived, await session(jti=ABSENT, iat=now - 1)}) == 2

    @pytest.mark.parametrize(
        ("claim", "said", "roles"),
        [
            ("roles", {}, set()),
            ("roles", {"roles": ["a", "b"]}, {"a", "b"}),
            ("roles", {"roles": "a b"}, {"a", "b"}),
            ("roles", {"roles": {"a": 1}}, set()),
            ("roles", {"roles": ["a", 1, None, "", "of two words", "x" * 65, "\ud800"]}, {"a"}),
            ("a.b", {"a": {"b": ["x"]}}, {"x"}),
            ("a.b", {"a.b": ["x"], "a": {"b": ["y"]}}, {"x"}),
            ("a.b", {"a": ["b"]}, set()),
            ("https://duplex.example/roles", {"https://duplex.example/roles": ["x"]}, {"x"}),
            (
                "groups",
                {"groups": [f"role-{n}" for n in range(40)]},
                {f"role-{n}" for n in range(40)},
            ),
        ],
    )
    async def test_roles(
        self, issuer: Issuer, make: Make, claim: str, said: Any, roles: set[str]
    ) -> None:
        """A list or words, at a path or under a name with dots; what cannot be one is none."""
        verifier = await make(oidc_roles_claim=claim)
        assert (await verifier.claims_of(issuer.token(said))).roles == roles

    @pytest.mark.parametrize(
        ("said", "scopes"),
        [
            ({}, set()),
            ({"scope": ""}, set()),
            ({"scope": "a b"}, {"a", "b"}),
            ({"scp": "a b"}, {"a", "b"}),
            ({"scp": ["a", "b"]}, {"a", "b"}),
            ({"scope": ["a", "\ud800"]}, {"a"}),
        ],
    )
    async def test_scopes(self, issuer: Issuer, make: Make, said: Any, scopes: set[str]) -> None:
        """A token is good for those that it names; where scopes are not used, for everything."""
        assert (await (await make()).claims_of(issuer.token(said))).scopes == frozenset(scopes)
        free = await make(oidc_scopes=False)
        assert (await free.claims_of(issuer.token(said))).scopes is None


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            *(
                ({"alg": alg}, Reason.ALGORITHM)
                for alg in ("none", "HS256", "RS512", "PS256", "ES384")
            ),
            *(({"alg": alg}, Reason.ALGORITHM) for alg in BAD_ALGORITHMS),
            *(({"typ": typ}, Reason.TYPE) for typ in BAD_TYPES),
            *(({name: "x"}, Reason.HEADER) for name in BAD_NAMES),
            *(({"kid": kid}, Reason.KEY) for kid in (ABSENT, None, 1, ["rsa-1"], "", "other")),
            ({"kid": "ec-1"}, Reason.ALGORITHM),
            ({"alg": "ES256", "kid": "rsa-1"}, Reason.ALGORITHM),
        ],
    )
    async def test_headers(self, issuer: Issuer, make: Make, header: Any, reason: Reason) -> None:
        """Other algorithms, other kinds of token, keys brought along, and keys of other names."""
        assert await refusal(await make(), issuer.token(header=header)) is reason

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            *(
                ({"iss": iss}, Reason.ISSUER)
                for iss in ("https://other.example", "HTTP://127.0.0.1")
            ),
            *(({"aud": aud}, Reason.AUDIENCE) for aud in ("x", AUDIENCE + "/", AUDIENCE.upper())),
            ({"aud": ["x", AUDIENCE + "/"]}, Reason.AUDIENCE),
            *(({"aud": aud}, Reason.CLAIMS) for aud in BAD_AUDIENCES),
            *(({"sub": sub}, Reason.CLAIMS) for sub in BAD_SUBJECTS),
            *(({name: ABSENT}, Reason.CLAIMS) for name in ("iss", "iat", "exp")),
            *(({"exp": exp}, Reason.CLAIMS) for exp in (None, "9999999999", 1e12, True, 10**400)),
            ({"exp": 1}, Reason.LIFETIME),
            ({"iat": 1}, Reason.LIFETIME),
            *(({name: "x"}, Reason.TYPE) for name in ("cnf", "events")),
            ({"token_use": "id"}, Reason.TYPE),
            *(({"typ": typ}, Reason.TYPE) for typ in ("ID", "Refresh", "Offline", "DPoP", None)),
        ],
        ids=lambda value: ascii(value)[:40],
    )
    async def test_claims(self, issuer: Issuer, make: Make, said: Any, reason: Reason) -> None:
        """Another issuer or audience, no subject, odd times, and tokens of other kinds."""
        assert await refusal(await make(), issuer.token(said)) is reason

    @pytest.mark.parametrize("typ", ["JWT", ABSENT])
    @pytest.mark.parametrize("name", ["nonce", "at_hash", "c_hash", "s_hash"])
    async def test_id_tokens(self, issuer: Issuer, make: Make, name: str, typ: Any) -> None:
        """What only an ID token says makes it none of access, though the audience is right."""
        token = issuer.token({name: "x"}, {"typ": typ})
        assert await refusal(await make(), token) is Reason.TYPE

    @pytest.mark.parametrize(
        ("moved", "reason"),
        [
            ({"iat": -700, "exp": -30}, Reason.EXPIRED),
            ({"iat": -700, "exp": -20}, None),
            ({"iat": 20, "exp": 600}, None),
            ({"iat": 60, "exp": 600}, Reason.NOT_YET_VALID),
            ({"nbf": 20}, None),
            ({"nbf": 60}, Reason.NOT_YET_VALID),
            ({"iat": 0, "exp": 86_400}, None),
            ({"iat": 0, "exp": 86_401}, Reason.LIFETIME),
            ({"iat": 0, "exp": 0}, Reason.LIFETIME),
        ],
    )
    async def test_times(self, issuer: Issuer, make: Make, moved: Any, reason: Any) -> None:
        """The leeway is granted at both ends; a day is the longest life."""
        verifier = await make(token_leeway_seconds=30)
        now = issuer.claims["iat"]
        token = issuer.token({name: now + seconds for name, seconds in moved.items()})
        assert await refusal(verifier, token) is reason

    async def test_signatures(self, issuer: Issuer, make: Make) -> None:
        """Of another key, of another token, of none, and an HMAC by what is public."""
        verifier = await make()
        good = issuer.token()
        text, _, signature = good.rpartition(".")
        other = issuer.token({"sub": "bob"}).rpartition(".")[0]
        forged = [
            issuer.token(key=rsa.generate_private_key(65537, 2048)),
            issuer.token(header={"alg": "ES256"}, key=ec.generate_private_key(ec.SECP256R1())),
            f"{other}.{signature}",
            f"{text}.",
            f"{text}.{b64(bytes(256))}",
            f"{text}.{mac(text, json.dumps(rsa_jwk()))}",
        ]
        for token in forged:
            assert await refusal(verifier, token) is Reason.SIGNATURE

    @pytest.mark.parametrize("raw", NOT_AN_OBJECT, ids=lambda raw: repr(raw[:16]))
    async def test_no_claims(self, issuer: Issuer, make: Make, raw: bytes) -> None:
        """A signed payload that is not one JSON object with distinct names."""
        assert await refusal(await make(), issuer.token(raw)) is Reason.MALFORMED

    async def test_no_tokens(self, issuer: Issuer, make: Make) -> None:
        """What is none by its form, or too long."""
        verifier = await make()
        for token in ("", None, b"a.b.c", "a.b.c", issuer.token() + "=", " " + issuer.token()):
            assert await refusal(verifier, token) in (Reason.MISSING, Reason.MALFORMED)
        assert await refusal(verifier, issuer.token({"pad": "x" * MAX_LENGTH})) is Reason.TOO_LONG


class TestKeys:
    @pytest.mark.parametrize(
        "jwk",
        [
            rsa_jwk(kid=ABSENT),
            rsa_jwk(kid=7),
            rsa_jwk(kid="line\n"),
            rsa_jwk(use="enc"),
            rsa_jwk(alg="PS256"),
            rsa_jwk(alg="RS512"),
            rsa_jwk(n=ABSENT),
            rsa_jwk(n=7),
            rsa_jwk(e="AA"),
            rsa_jwk(e=b64(b"\xff" * 5)),
            rsa_jwk(n=b64(b"\xff" * 128)),
            rsa_jwk(n=b64(b"\xff" * 2048)),
            ec_jwk(crv="P-384"),
            ec_jwk(x=b64(b"\x01" * 32)),
            ec_jwk(y="!"),
            ec_jwk(alg="ES384"),
            {"kty": "oct", "kid": "oct-1", "k": b64(b"x" * 32)},
            {"kty": ["RSA"], "kid": "x"},
            {},
            None,
            "x",
            7,
        ],
    )
    def test_what_is_no_key(self, jwk: Any) -> None:
        """Nameless, for another use or algorithm, weak, huge, off the curve, or no JWK at all."""
        assert Key.of_jwk(jwk) is None

    async def test_one_that_is_none_spoils_no_other(self, issuer: Issuer, make: Make) -> None:
        """A provider may publish what we do not know."""
        issuer.keys = [None, {"kty": "OKP", "kid": "ed"}, *issuer.keys, rsa_jwk(kid=ABSENT)]
        assert await refusal(await make(), issuer.token()) is None

    async def test_a_key_that_is_not_known_is_fetched_once(
        self, issuer: Issuer, make: Make
    ) -> None:
        """However many come with it at a time; and not again for half a minute."""
        verifier = await make()
        issuer.keys.append(rsa_jwk("rsa-2"))
        issuer.asked.clear()
        token = issuer.token(header={"kid": "rsa-2"})
        assert await asyncio.gather(*(refusal(verifier, token) for _ in range(50))) == [None] * 50
        assert issuer.asked == [module.DISCOVERY, "/jwks"]
        issuer.asked.clear()
        unknown = [issuer.token(header={"kid": f"guess-{n}"}) for n in range(20)]
        found = await asyncio.gather(*(refusal(verifier, token) for token in unknown))
        assert set(found) == {Reason.KEY}
        assert issuer.asked == []
        verifier.keys._ask_at = 0  # half a minute later
        assert await refusal(verifier, unknown[0]) is Reason.KEY
        assert len(issuer.asked) == 2

    async def test_whoever_leaves_takes_nothing_from_the_others(
        self, issuer: Issuer, make: Make
    ) -> None:
        """A request that is cancelled while it asks does not count as having asked."""
        verifier = await make()
        issuer.keys.append(rsa_jwk("rsa-2"))
        token = issuer.token(header={"kid": "rsa-2"})
        issuer.instead = b""
        issuer.asked.clear()
        leaves = asyncio.create_task(verifier.claims_of(token))
        async with asyncio.timeout(DEADLINE):
            while not issuer.asked:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        issuer.instead = None
        leaves.cancel()
        await asyncio.gather(leaves, return_exceptions=True)
        assert await refusal(verifier, token) is None

    async def test_keys_are_fetched_again_by_and_by(self, issuer: Issuer, make: Make) -> None:
        """Without anybody asking, and what is gone is gone; not more often than it is due."""
        verifier = await make()
        issuer.keys = [ec_jwk()]
        await verifier.keys.refresh()
        assert await refusal(verifier, issuer.token()) is None
        verifier.keys._refresh_at = 0
        await verifier.keys.refresh()
        assert await refusal(verifier, issuer.token()) is Reason.KEY
        assert await refusal(verifier, issuer.token(header={"alg": "ES256"})) is None

    @pytest.mark.parametrize(
        "broken",
        [
            {"instead": b"{"},
            {"instead": b"[]"},
            {"instead": b'{"issuer": 1}'},
            {"configuration": {"issuer": "ISSUER", "jwks_uri": "JWKS", "pad": "x" * 300_000}},
            {"instead": b""},
            {"configuration": {"issuer": "https://other.example", "jwks_uri": "JWKS"}},
            {"configuration": {"issuer": "ISSUER"}},
            {"configuration": {"issuer": "ISSUER", "jwks_uri": "file:///etc/passwd"}},
            {"configuration": {"issuer": "ISSUER", "jwks_uri": "not an address"}},
            {"configuration": {"issuer": "ISSUER", "jwks_uri": ["JWKS"]}},
            {"keys": []},
            {"keys": None},
            {"keys": {"kid": rsa_jwk()}},
        ],
    )
    async def test_a_provider_that_is_not_well(
        self, issuer: Issuer, make: Make, broken: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Is one that is away: keys that are known stay; whether others are is not known."""
        verifier = await make()
        monkeypatch.setattr(module, "FETCH_SECONDS", 0.2)
        verifier.keys._outbound = replace(verifier.keys._outbound, timeout=0.2)
        for name, value in broken.items():
            here = {"ISSUER": issuer.url, "JWKS": f"{issuer.url}/jwks"}
            told = isinstance(value, dict) and name == "configuration"
            found = {k: here.get(str(v), v) for k, v in value.items()} if told else value
            setattr(issuer, name, found)
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable):
                await verifier.claims_of(issuer.token(header={"kid": "rsa-2"}))
        assert await refusal(verifier, issuer.token()) is None

    async def test_an_https_issuer_has_https_keys(
        self, issuer: Issuer, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over plain HTTP they could be anybody's."""
        https = "https://op.example"
        verifier = await make(oidc_issuer=https)

        async def read(url: str) -> dict[str, Any]:
            return {"issuer": https, "jwks_uri": "http://op.example/jwks", "keys": [rsa_jwk()]}

        monkeypatch.setattr(verifier.keys, "_json", read)
        await verifier.keys.load()
        with pytest.raises(Unavailable):
            await verifier.claims_of(issuer.token())

    async def test_its_absence_is_told_once(
        self, issuer: Issuer, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And its return, in the log."""
        caplog.set_level(logging.WARNING)
        verifier = await make()
        for instead in (b"{", b"{", None, None):
            issuer.instead = instead
            await verifier.keys.load()
        told = [record for record in caplog.records if "identity provider" in str(record.msg)]
        assert len(told) == 2


async def test_revocations_outlive_the_longest_token() -> None:
    """A day, which is what a provider's token may live."""
    oidc = {"auth_mode": "oidc", "oidc_issuer": "https://op.example", "oidc_audience": "x"}
    assert settings_for("sqlite:///x.db", **oidc).revocation_lifetime > timedelta(hours=24)
