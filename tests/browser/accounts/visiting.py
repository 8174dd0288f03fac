"""What the tests of the page of accounts share."""

from playwright.sync_api import Locator, Page, expect

from tests.browser.accounts.people import PASSWORD


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Log in with the form of the front page."""
    page.get_by_role("button", name="Log in").first.click()
    form = page.locator("#log-in")
    form.get_by_label("Email").fill(email)
    form.get_by_label("Password").fill(password)
    form.get_by_role("button", name="Log in").click()


def account(page: Page, section: str = "You") -> None:
    """Open a section of the page of whoever is signed in."""
    page.locator("#user-name").click()
    page.get_by_role("navigation", name="Account").get_by_role("link", name=section).click()
    expect(page.get_by_role("heading", name=section, level=1)).to_be_focused()


def part(page: Page, name: str) -> Locator:
    """A part of the page, by its heading."""
    return page.get_by_role("region", name=name, exact=True)


def log_out(page: Page) -> None:
    """Log out with the button of the bar."""
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.locator("#welcome-card")).to_be_focused()
