"""Fields for passwords: what is typed is hidden, and what fills them in is let."""

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.browser.accounts.people import Somebody
from tests.browser.accounts.visiting import account, log_in
from tests.browser.conftest import Visits, settled
from tests.server import RunningServer

COPIED = "pasted from a password manager"


def copied(page: Page, text: Locator) -> None:
    """Copy a text from a field."""
    text.fill(COPIED)
    text.press("Control+A")
    text.press("Control+C")
    text.fill("")


def is_hidden_and_filled(field: Locator, purpose: str) -> None:
    """It hides what is typed, tells managers what it is for, and takes what is pasted."""
    expect(field).to_have_attribute("type", "password")
    expect(field).to_have_attribute("autocomplete", purpose)
    field.press("Control+V")
    expect(field).to_have_value(COPIED)
    field.fill("")


def test_every_field_for_a_password_hides_it_and_can_be_filled(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """At the log-in, behind a mailed link, and on the page of the account."""
    email = somebody(server.url, "Ada").email
    page = visits.open(server.url)
    copied(page, page.locator("#sign-up").get_by_label("Name"))
    page.get_by_role("button", name="Log in").first.click()
    is_hidden_and_filled(page.locator("#log-in").get_by_label("Password"), "current-password")
    page.get_by_role("button", name="Forgot your password?").click()
    page.locator("#forgot").get_by_label("Email").fill(email)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Follow its link").click()
    chosen = page.locator("#choose-password").get_by_label("Password")
    is_hidden_and_filled(chosen, "new-password")
    page.reload()
    log_in(page, email)
    expect(page.locator("#user-name")).to_have_text("Ada")
    settled(page)
    account(page)
    fields = page.get_by_role("main").locator("input[type=password]:visible").all()
    purposes = [field.get_attribute("autocomplete") for field in fields]
    assert sorted(map(str, purposes)) == [*["current-password"] * 3, "new-password"]
    for field, purpose in zip(fields, purposes, strict=True):
        is_hidden_and_filled(field, str(purpose))
