"""The page of an account by keyboard alone: what has the focus, before and after."""

from datetime import UTC, datetime, timedelta

from playwright.sync_api import Locator, Page, expect
from sqlalchemy import create_engine, text

from tests.browser.accounts.people import PASSWORD, sign_up
from tests.browser.accounts.visiting import part
from tests.browser.conftest import Visits
from tests.server import RunningServer

ANOTHER = "a rather different staple"
RENEW = """() => {
  const state = JSON.parse(sessionStorage.getItem("session"));
  sessionStorage.setItem("session", JSON.stringify({ ...state, expiresAt: Date.now() }));
}"""


def focused(page: Page) -> Locator:
    """What has the keyboard."""
    return page.locator(":focus")


def tab_to(page: Page, target: Locator) -> None:
    """Go on with Tab until something has the keyboard, and shows that."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            break
    expect(target).to_be_focused()
    assert target.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"


def section(page: Page, name: str) -> None:
    """Open a section of the account with Tab and Enter."""
    link = page.get_by_role("navigation", name="Account").get_by_role("link", name=name)
    tab_to(page, link)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name, level=1)).to_be_focused()


def press(page: Page, button: Locator, key: str = "Enter") -> None:
    """Reach a button and press it."""
    tab_to(page, button)
    page.keyboard.press(key)


def stale(server: RunningServer, page: Page) -> None:
    """Let every session have begun long ago, so that what cannot be undone asks again."""
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    engine = create_engine(server.settings.database_url.get_secret_value())
    with engine.begin() as connection:
        connection.execute(text("UPDATE sessions SET authenticated_at = :at"), {"at": long_ago})
    engine.dispose()
    page.evaluate(RENEW)  # or the token goes on to say that it was just now
    page.reload()


def test_the_forms_of_somebodys_own(server: RunningServer, visits: Visits) -> None:
    """Name, address and password; what is wrong is announced, and its field has the keyboard."""
    visits.expect_fault("status of 4(03|22)")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    press(page, page.locator("#user-name"))
    expect(page.get_by_role("heading", name="You", level=1)).to_be_focused()
    box = part(page, "Name").get_by_label("Name")
    tab_to(page, box)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Delete")
    press(page, part(page, "Name").get_by_role("button", name="Save"), "Space")
    expect(box).to_be_focused()
    expect(box).to_have_accessible_description("String should have at least 1 character")
    expect(part(page, "Name").get_by_role("alert")).not_to_be_empty()
    page.keyboard.type("Ada Lovelace")
    press(page, part(page, "Name").get_by_role("button", name="Save"), "Space")
    expect(part(page, "Name").get_by_role("status")).to_have_text("Saved.")
    expect(part(page, "Name").get_by_role("button", name="Save")).to_be_focused()
    password = part(page, "Password")
    tab_to(page, password.get_by_label("Current password"))
    page.keyboard.type("this is not it")
    tab_to(page, password.get_by_label("New password"))
    page.keyboard.type(ANOTHER)
    page.keyboard.press("Enter")
    expect(password.get_by_role("alert")).to_contain_text("The password is wrong.")
    expect(password.get_by_label("New password")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(PASSWORD)
    press(page, password.get_by_role("button", name="Change password"))
    expect(password.get_by_role("status")).to_contain_text("Changed.")
    expect(password.get_by_role("button", name="Change password")).to_be_focused()
    email = part(page, "Email")
    page.locator("body").press("Control+Home")
    email.get_by_label("New address").focus()
    page.keyboard.type("lovelace@example.org")
    tab_to(page, email.get_by_label("Password"))
    page.keyboard.type(ANOTHER)
    page.keyboard.press("Enter")
    expect(email.get_by_role("status")).to_contain_text("A mail is on its way.")


def test_a_dialog_keeps_the_keyboard_and_gives_it_back(
    server: RunningServer, visits: Visits
) -> None:
    """Tab stays in it, Escape and Cancel leave; what opened it has the keyboard again."""
    visits.expect_fault("status of 40[13]")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    press(page, page.locator("#user-name"))
    section(page, "Security")
    stale(server, page)
    button = part(page, "Second factor").get_by_role("button", name="Set up an authenticator")
    dialog = page.get_by_role("dialog", name="Is it you?")
    press(page, button, "Space")
    proof = dialog.get_by_label("Your password")
    expect(proof).to_be_focused()
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body"
            " || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(proof).to_be_focused()
    page.keyboard.type("this is not it")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("The password is wrong.")
    expect(proof).to_be_focused()
    press(page, dialog.get_by_role("button", name="Cancel"))
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(proof).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(part(page, "Second factor").get_by_label("Code that it shows")).to_be_focused()


def test_keys_and_sessions(server: RunningServer, visits: Visits) -> None:
    """A key is made and revoked; what is gone leaves the keyboard with its part."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    press(page, page.locator("#user-name"))
    section(page, "Programs")
    new = part(page, "New key")
    tab_to(page, new.get_by_label("Name"))
    page.keyboard.type("A script")
    tab_to(page, new.get_by_label("admin"))
    page.keyboard.press("Space")
    press(page, new.get_by_role("button", name="Create a key"))
    keys = part(page, "API keys")
    expect(keys.get_by_role("status")).to_contain_text("It is shown only now")
    expect(new.get_by_role("button", name="Create a key")).to_be_focused()
    revoke = keys.get_by_role("button", name="Revoke A script")
    revoke.focus()
    page.keyboard.press("Space")
    expect(keys.get_by_role("listitem")).to_have_count(0)
    expect(keys.get_by_role("heading", name="API keys")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    section(page, "Security")
    others = part(page, "Sessions").get_by_role("button", name="End all others")
    press(page, others)
    expect(others).to_be_focused()
