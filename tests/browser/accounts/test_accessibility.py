"""What a program can find of barriers on the pages of accounts: axe, in light and in dark."""

import pytest
from playwright.sync_api import expect

from tests.browser.accounts.people import sign_up
from tests.browser.accounts.visiting import account, log_in
from tests.browser.barriers import barriers
from tests.browser.conftest import Visits
from tests.process import command
from tests.server import RunningServer

SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@SCHEMES
def test_the_forms_of_the_front_page(scheme: str, server: RunningServer, visits: Visits) -> None:
    """Sign-up, log-in, the forgotten password, the mail, and the choice of a password."""
    page = visits.open(server.url, context=visits.context(color_scheme=scheme))
    expect(page.locator("#sign-up")).to_be_visible()
    assert barriers(page) == []
    page.get_by_role("button", name="Log in").first.click()
    assert barriers(page) == []
    page.get_by_role("button", name="Forgot your password?").click()
    assert barriers(page) == []
    page.locator("#forgot").get_by_role("button", name="Log in").click()
    page.locator("#log-in").get_by_role("button", name="Sign up").click()
    form = page.locator("#sign-up")
    form.get_by_label("Name").fill("Ada")
    form.get_by_label("Email").fill("ada@example.org")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Follow its link")).to_be_visible()
    assert barriers(page) == []
    page.get_by_role("link", name="Follow its link").click()
    expect(page.locator("#choose-password")).to_be_visible()
    assert barriers(page) == []


@SCHEMES
def test_the_pages_of_an_account(scheme: str, server: RunningServer, visits: Visits) -> None:
    """Of an administrator, who has all of them."""
    page = visits.open(server.url, context=visits.context(color_scheme=scheme))
    email = sign_up(page, "Ada")
    url = server.settings.database_url.get_secret_value()
    assert command("user", "promote", email, DATABASE_URL=url).returncode == 0
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.locator("#welcome-card")).to_be_focused()
    log_in(page, email)
    loaded = {
        "You": "form",
        "Security": ".entries li",
        "Programs": ".choice",
        "People": ".entries li",
        "Audit log": "tbody tr",
    }
    for section, last in loaded.items():
        account(page, section)
        expect(page.locator(".account-parts").locator(last).first).to_be_visible()
        assert barriers(page) == [], section
