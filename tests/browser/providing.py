"""What the tests of the page beside a provider share."""

from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from app.core.settings import Settings
from tests.browser.conftest import Visits, settled
from tests.conftest import settings_for
from tests.openid import AUDIENCE, OwnProvider

FONTS = "https://fonts.googleapis.com"  # which the provider's own pages ask for


def page_of(provider: OwnProvider, url: str, **changed: Any) -> Settings:
    """Settings of a service whose page is a client of the provider."""
    given: dict[str, Any] = {
        "environment": "development",
        "auth_mode": "oidc",
        "oidc_issuer": provider.issuer,
        "oidc_audience": AUDIENCE,
        "oidc_roles_claim": "realm.roles",
        "oidc_scopes": False,
        "oidc_client_id": "page",
        "oidc_client_scope": "openid read",
    }
    return settings_for(url, **(given | changed))


def beside(provider: OwnProvider, visits: Visits, **options: Any) -> BrowserContext:
    """A browser profile whose pages may be the provider's too."""
    visits.allow(provider.issuer)
    visits.allow(FONTS)
    context = visits.context(**options)
    context.route(f"{FONTS}/**", lambda route: route.fulfill(content_type="text/css", body=""))
    return context


def log_in(page: Page, login: str) -> None:
    """Log in at the provider, and come back."""
    page.get_by_role("button", name="Log in").click()
    at_provider(page, login)
    expect(page.locator("#user-name")).to_have_text("Ann")
    settled(page)


def at_provider(page: Page, login: str) -> None:
    """What somebody does at the provider."""
    page.locator("input[name=login]").fill(login)
    page.locator("input[name=password]").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()
