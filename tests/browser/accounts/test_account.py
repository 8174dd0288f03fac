"""What somebody does with their account on its page."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.accounts.people import PASSWORD, Somebody, choose_password, sign_up
from tests.browser.accounts.visiting import account, log_in, log_out, part
from tests.browser.conftest import Visits
from tests.server import RunningServer

ANOTHER = "a rather different staple"


def test_a_taken_address_is_told_by_mail_alone(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """The page says the same to whoever asks; only the mail says that there is an account."""
    email = somebody(server.url, "Ada").email
    page = visits.open(server.url)
    form = page.locator("#sign-up")
    form.get_by_label("Name").fill("Ada")
    form.get_by_label("Email").fill(email)
    page.keyboard.press("Enter")
    notice = page.locator("#signed-out .sent")
    expect(notice).to_contain_text("A mail is on its way.")
    expect(notice.locator(".mail")).to_contain_text("account")
    expect(page.locator(".problem")).to_have_count(0)


def test_a_forgotten_password_is_replaced(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """By the link of a mail; it is said that programs go on."""
    ada = somebody(server.url, "Ada")
    ada.do("POST", "/api-keys", json={"name": "A script", "scopes": ["admin"]})
    page, email = visits.open(server.url), ada.email
    page.get_by_role("button", name="Log in").first.click()
    page.get_by_role("button", name="Forgot your password?").click()
    page.locator("#forgot").get_by_label("Email").fill(email)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Follow its link").click()
    choose_password(page, ANOTHER)
    expect(page.locator("#signed-out")).to_contain_text("Your password is changed.")
    expect(page.locator("#signed-out")).to_contain_text("One API key of yours is still good")
    log_in_again = page.locator("#log-in")
    log_in_again.get_by_label("Email").fill(email)
    log_in_again.get_by_label("Password").fill(ANOTHER)
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_somebody_takes_another_name(server: RunningServer, visits: Visits) -> None:
    """The bar says it at once."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    account(page)
    part(page, "Name").get_by_label("Name").fill("Ada Lovelace")
    part(page, "Name").get_by_role("button", name="Save").click()
    expect(page.locator("#user-name")).to_have_text("Ada Lovelace")


def test_another_address_is_confirmed_by_its_mail(server: RunningServer, visits: Visits) -> None:
    """The address changes when the link is followed, and not before."""
    page = visits.open(server.url)
    old = sign_up(page, "Ada")
    account(page)
    email = part(page, "Email")
    email.get_by_label("New address").fill("lovelace@example.org")
    email.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#user-email")).to_have_text(old)
    page.get_by_role("link", name="Follow its link").click()
    expect(page.locator("#notices")).to_contain_text("Your new address is confirmed.")
    page.reload()
    log_out(page)
    log_in(page, "lovelace@example.org")
    expect(page.locator("#user-email")).to_have_text("lovelace@example.org")


def test_a_password_is_changed(server: RunningServer, visits: Visits) -> None:
    """With the one it was; the session goes on."""
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    account(page)
    password = part(page, "Password")
    password.get_by_label("Current password").fill(PASSWORD)
    password.get_by_label("New password").fill(ANOTHER)
    page.keyboard.press("Enter")
    expect(password.get_by_role("status")).to_contain_text("Changed.")
    log_out(page)
    log_in(page, email, ANOTHER)
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_an_account_is_deleted(server: RunningServer, visits: Visits) -> None:
    """It is gone, and nobody signs in to it any more."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    account(page)
    deletion = part(page, "Delete the account")
    deletion.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_be_hidden()
    log_in(page, email)
    expect(page.locator("#log-in .problem")).to_contain_text("accounts.wrong_credentials")


def test_an_api_key_is_shown_once_and_revoked(server: RunningServer, visits: Visits) -> None:
    """What is left of it is its prefix; after that it is gone."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    account(page, "Programs")
    new = part(page, "New key")
    new.get_by_label("Name").fill("A script")
    new.get_by_label("admin").check()
    new.get_by_role("button", name="Create a key").click()
    keys = part(page, "API keys")
    key = keys.locator(".secret").inner_text()
    assert key.startswith("dpx_")
    expect(keys.get_by_role("listitem")).to_contain_text("admin")
    page.reload()
    expect(keys.get_by_role("listitem")).to_contain_text("A script")
    expect(keys).not_to_contain_text(key)
    keys.get_by_role("button", name="Revoke A script").click()
    expect(keys.get_by_role("listitem")).to_have_count(0)
