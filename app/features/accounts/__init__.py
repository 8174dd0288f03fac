"""Accounts and sessions. Goes where a provider does its work."""

from fastapi import APIRouter
from starlette.datastructures import State

from app.core.auth import Credential
from app.core.secrets_at_rest import Sealed
from app.features.accounts import (
    administration,
    browser,
    factors,
    keys,
    people,
    providers,
    session_list,
    sessions,
    step_up,
)
from app.features.accounts.commands import commands
from app.features.accounts.fingerprints import Fingerprints
from app.features.accounts.jobs import jobs
from app.features.accounts.lifetimes import Lifetimes
from app.features.accounts.passwords import Passwords
from app.features.accounts.people import links
from app.features.accounts.people.deliverability import Deliverability
from app.features.accounts.second_factors import SecondFactors
from app.features.accounts.uses import Uses

router = APIRouter()
router.include_router(people.router)
router.include_router(sessions.router)
router.include_router(session_list.router)
router.include_router(step_up.router)
router.include_router(factors.router)
router.include_router(browser.router)
router.include_router(providers.router)
router.include_router(keys.router)
router.include_router(administration.router)

#: What requests are authenticated by, beside access tokens.
credentials: list[Credential] = [keys.by_key, browser.by_cookie]

jobs.include(links.jobs)


def provide(state: State) -> None:
    """Keep what accounts need as long as the process lives."""
    state.passwords = Passwords(state.settings.password_workers)
    secret = state.settings.secret_key.get_secret_value()
    state.fingerprints = Fingerprints(secret)
    state.deliverability = Deliverability(ask=state.settings.email_check_dns)
    state.second_factors = SecondFactors(Sealed(secret))
    state.providers = providers.Providers(state.settings, state.outbound)
    state.provider_attempts = providers.Attempts(Sealed(secret))
    settings = state.settings
    state.lifetimes = Lifetimes(settings.session_lifetime, settings.session_max_lifetime)
    state.uses = Uses(lambda: state.database, state.lifetimes)
    state.background.append(state.uses)


__all__ = ["commands", "credentials", "jobs", "provide", "router"]
