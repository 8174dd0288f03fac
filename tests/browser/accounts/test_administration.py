"""What an administrator does on the page of accounts."""

from collections.abc import Callable

import pyotp
from playwright.sync_api import Page, expect

from tests.browser.accounts.people import PASSWORD, Somebody, sign_up
from tests.browser.accounts.visiting import account, log_in, log_out, part
from tests.browser.conftest import Visits
from tests.process import command
from tests.server import RunningServer


def administrator(page: Page, server: RunningServer) -> None:
    """Sign somebody up who administers, and let them look at everybody's accounts."""
    email = sign_up(page, "Ada")
    url = server.settings.database_url.get_secret_value()
    key = server.settings.secret_key.get_secret_value()
    promoted = command("user", "promote", email, DATABASE_URL=url, SECRET_KEY=key)
    assert promoted.returncode == 0
    log_out(page)
    log_in(page, email)
    account(page, "People")


def test_an_administrator_disables_somebody(
    server: RunningServer,
    visits: Visits,
    somebody: Callable[[str, str], Somebody],
) -> None:
    """Whom they have found by name; it is in the audit log, and it can be taken back."""
    grace = somebody(server.url, "Grace")
    page = visits.open(server.url)
    administrator(page, server)
    accounts = part(page, "Accounts")
    accounts.get_by_label("Name or address").fill("grace")
    page.keyboard.press("Enter")
    expect(accounts.get_by_role("listitem")).to_have_count(1)
    accounts.get_by_role("button", name="Disable Grace").click()
    expect(accounts.get_by_role("listitem")).to_contain_text("disabled")
    assert grace.ask("GET", "/accounts/me").status_code == 401
    accounts.get_by_role("button", name="Enable Grace").click()
    expect(accounts.get_by_role("button", name="Disable Grace")).to_be_visible()
    account(page, "Audit log")
    entries = part(page, "Entries")
    entries.get_by_label("Action").fill("account.disabled")
    page.keyboard.press("Enter")
    expect(entries.locator("tbody tr")).to_have_count(1)


def test_an_administrator_removes_a_lost_second_factor(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """The button is there for who has one; then their password is enough."""
    grace = somebody(server.url, "Grace")
    secret = grace.do("POST", "/accounts/me/second-factor")["secret"]
    code = {"code": pyotp.TOTP(secret).now()}
    grace.do("POST", "/accounts/me/second-factor/confirm", json=code)
    page = visits.open(server.url)
    administrator(page, server)
    accounts = part(page, "Accounts")
    remove = accounts.get_by_role("button", name="Remove second factor Grace")
    remove.click()
    expect(remove).to_have_count(0)
    expect(accounts.get_by_role("button", name="Remove second factor")).to_have_count(0)
    form = {"username": grace.email, "password": PASSWORD}
    assert grace.ask("POST", "/auth/login", data=form).status_code == 200
