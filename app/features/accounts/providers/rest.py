"""Logging in with providers over REST, and linking accounts to them.

A page that is a program goes this way: it begins, keeps the attempt, sends the browser to the
provider, and brings here what that sends back in the address of the page.
"""

from fastapi import APIRouter, Depends, Request, Response

from app.core.auth import CurrentUser, Fresh
from app.core.errors import Unavailable, raises
from app.core.schemas import Id
from app.features.accounts.browser.cookie import check_page
from app.features.accounts.browser.rest import kept
from app.features.accounts.browser.schemas import BrowserSession
from app.features.accounts.browser.service import BrowserSessions
from app.features.accounts.errors import (
    AccountGone,
    AccountLocked,
    AddressNotVerified,
    AttemptRefused,
    CsrfFailed,
    IdentityNotFound,
    IdentityTaken,
    LastIdentity,
    LinkFirst,
    ProofRefused,
    ProviderNotFound,
    ProviderRefused,
    SecondFactorRequired,
    WrongCode,
)
from app.features.accounts.notices import CHANGES
from app.features.accounts.people.service import People
from app.features.accounts.providers.attempts import Proof, linking, stepping_up
from app.features.accounts.providers.schemas import (
    Begun,
    LinkedIdentities,
    LinkedIdentity,
    ListedProvider,
    LogIn,
    Proved,
    ProviderList,
    Return,
)
from app.features.accounts.providers.service import Identities
from app.features.accounts.sessions.schemas import TokenPair
from app.features.accounts.throttles import LOG_INS, Throttled

COUNTED = [Depends(LOG_INS)]

router = APIRouter(tags=["providers"])


@router.get("/auth/providers")
async def listed(identities: Identities) -> ProviderList:
    """The providers to log in with, if there are any."""
    providers = identities.providers.by_name.values()
    return ProviderList(
        items=[ListedProvider(name=each.name, label=each.known.label) for each in providers]
    )


@router.post("/auth/providers/session", dependencies=COUNTED)
@raises(ProofRefused, SecondFactorRequired, WrongCode)
async def log_in(identities: Identities, throttle: Throttled, given: LogIn) -> TokenPair:
    """Begin a session by a proof, which is good once.

    Whoever has a second factor is told so, and sends the proof again with a code.
    """
    return await identities.log_in(await _proof(identities, throttle, given), given.otp)


@router.post("/auth/cookie/provider", status_code=201, dependencies=COUNTED)
@raises(ProofRefused, SecondFactorRequired, WrongCode, AccountGone, CsrfFailed)
async def log_in_by_cookie(
    request: Request,
    response: Response,
    identities: Identities,
    throttle: Throttled,
    browser: BrowserSessions,
    people: People,
    given: LogIn,
) -> BrowserSession:
    """The same, and the session is in a cookie."""
    check_page(request)
    pair = await identities.log_in(await _proof(identities, throttle, given), given.otp)
    return await kept(response, pair, browser, people)


@router.post("/auth/providers/{name}", dependencies=COUNTED)
@raises(ProviderNotFound, Unavailable)
async def begin(identities: Identities, name: str) -> Begun:
    """Begin to log in with a provider."""
    return await identities.begin(name)


@router.post("/auth/providers/{name}/callback", dependencies=COUNTED)
@raises(
    ProviderNotFound, AttemptRefused, ProviderRefused, AddressNotVerified, LinkFirst, Unavailable
)
async def come_back(identities: Identities, name: str, given: Return) -> Proved:
    """Bring what the provider has sent back, for a proof to begin a session with.

    Who comes for the first time gets an account, unless there is one with their address: then
    they log in to it, and link it.
    """
    return await identities.prove(name, given)


@router.post("/auth/step-up/provider/{name}", dependencies=COUNTED)
@raises(ProviderNotFound, Unavailable)
async def begin_step_up(identities: Identities, user: CurrentUser, name: str) -> Begun:
    """Begin to prove again who one is, by a new log-in at a linked provider."""
    return await identities.begin(name, stepping_up(user), again=True)


@router.post("/auth/step-up/provider", dependencies=COUNTED)
@raises(
    AttemptRefused,
    ProviderRefused,
    AccountGone,
    AccountLocked,
    SecondFactorRequired,
    Unavailable,
)
async def step_up(identities: Identities, user: CurrentUser, given: Return) -> TokenPair | None:
    """Prove it by what the provider has sent back, for who has no second factor.

    As with a password, the new tokens take the place of those of before, and a session in a cookie
    gets null.
    """
    return await identities.step_up(user, given)


@router.get("/accounts/me/identities")
async def linked(identities: Identities, user: CurrentUser) -> LinkedIdentities:
    """What the account of whoever asks is linked to."""
    return LinkedIdentities(items=await identities.linked(user))


@router.post("/accounts/me/identities", status_code=201, dependencies=[Depends(CHANGES)])
@raises(AttemptRefused, ProviderRefused, AccountGone, IdentityTaken, Unavailable)
async def link(identities: Identities, user: CurrentUser, given: Return) -> LinkedIdentity:
    """Link who has come back from a provider to one's account, to log in by it from now on."""
    return await identities.link(user, given)


@router.post("/accounts/me/identities/{name}", dependencies=COUNTED)
@raises(ProviderNotFound, Unavailable)
async def begin_link(identities: Identities, user: Fresh, name: str) -> Begun:
    """Begin to link one's account to a provider."""
    return await identities.begin(name, linking(user))


@router.delete("/accounts/me/identities/{identity_id}", status_code=204)
@raises(AccountGone, IdentityNotFound, LastIdentity)
async def unlink(identities: Identities, user: Fresh, identity_id: Id) -> None:
    """Take a link away; all other sessions end. Who has no password keeps the last one."""
    await identities.unlink(user, identity_id)


async def _proof(identities: Identities, throttle: Throttled, given: LogIn) -> Proof:
    """The proof, counted for whom it is of."""
    proof = identities.attempts.proof(given.proof.get_secret_value())
    await throttle.log_in(f"identity:{proof.identity}")
    return proof
