"""The forms of who is not signed in: by keyboard alone, and where one is afterwards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.accounts.people import PASSWORD, Somebody
from tests.browser.accounts.test_keyboard import press, tab_to
from tests.browser.accounts.visiting import account, log_in
from tests.browser.conftest import Visits, settled
from tests.conftest import settings_for
from tests.server import RunningServer

ANOTHER = "a rather different staple"


@pytest.fixture(scope="module")
def server(
    new_sqlite: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that the tests share; each has people of its own."""
    mails: Path = tmp_path_factory.mktemp("mail")
    settings = settings_for(new_sqlite(), environment="development", mail_directory=mails)
    with RunningServer(settings) as server:
        yield server


def write(page: Page, field: Locator, text: str) -> None:
    """Reach a field and type into it."""
    tab_to(page, field)
    page.keyboard.type(text)


def test_a_sign_up_by_keyboard(server: RunningServer, visits: Visits) -> None:
    """What is wrong has the keyboard; the mail has it when it is shown, and its link comes next."""
    visits.expect_fault("status of 422")
    page = visits.open(server.url)
    form = page.locator("#sign-up")
    expect(form).to_be_visible()
    write(page, form.get_by_label("Name"), "Ada")
    write(page, form.get_by_label("Email"), "nowhere")
    press(page, form.get_by_role("button", name="Sign up"), "Space")
    expect(form.get_by_label("Email")).to_be_focused()
    expect(form.get_by_role("alert")).not_to_be_empty()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("keys@example.org")
    page.keyboard.press("Enter")
    expect(page.locator("#signed-out .sent")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Follow its link")).to_be_focused()
    page.keyboard.press("Enter")
    chosen = page.locator("#choose-password").get_by_label("Password")
    expect(chosen).to_be_focused()
    page.keyboard.type(PASSWORD)
    press(page, page.locator("#choose-password").get_by_role("button", name="Go on"))
    expect(page.locator("#user-name")).to_have_text("Ada")
    settled(page)


def test_a_log_in_by_keyboard(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """From the other form to this one, the box checked by Space, and out again."""
    visits.expect_fault("status of 401")
    email = somebody(server.url, "Grace").email
    page = visits.open(server.url)
    expect(page.locator("#sign-up")).to_be_visible()
    press(page, page.locator("#sign-up").get_by_role("button", name="Log in"), "Space")
    form = page.locator("#log-in")
    expect(form.get_by_label("Email")).to_be_focused()
    page.keyboard.type(email)
    write(page, form.get_by_label("Password"), "this is not it")
    box = form.get_by_label("Stay signed in in this browser")
    tab_to(page, box)
    page.keyboard.press("Space")
    expect(box).to_be_checked()
    press(page, form.get_by_role("button", name="Log in"))
    expect(form.get_by_role("alert")).to_contain_text("accounts.wrong_credentials")
    page.keyboard.press("Shift+Tab")  # from the button, past what it says
    page.keyboard.press("Shift+Tab")
    form.get_by_label("Password").focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Grace")
    settled(page)
    page.locator("body").press("Control+Home")
    page.get_by_role("button", name="Log out", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#welcome-card")).to_be_focused()


def test_a_forgotten_password_by_keyboard(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """Each step has the keyboard where it goes on."""
    email = somebody(server.url, "Hedy").email
    page = visits.open(server.url)
    expect(page.locator("#sign-up")).to_be_visible()
    press(page, page.locator("#sign-up").get_by_role("button", name="Log in"))
    press(page, page.get_by_role("button", name="Forgot your password?"))
    expect(page.locator("#forgot").get_by_label("Email")).to_be_focused()
    page.keyboard.type(email)
    press(page, page.locator("#forgot").get_by_role("button", name="Mail me a link"), "Space")
    expect(page.locator("#signed-out .sent")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#choose-password").get_by_label("Password")).to_be_focused()
    page.keyboard.type(ANOTHER)
    page.keyboard.press("Enter")
    expect(page.locator("#log-in").get_by_label("Email")).to_be_focused()
    page.keyboard.type(email)
    write(page, page.locator("#log-in").get_by_label("Password"), ANOTHER)
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Hedy")
    settled(page)


@pytest.mark.parametrize("in_another_tab", [False, True])
def test_the_link_of_a_mail_leads_to_where_one_wanted_to_go(
    in_another_tab: bool, server: RunningServer, visits: Visits
) -> None:
    """Whoever opened a place and had to sign up first is there then; the link is not kept."""
    context = visits.context()
    page = visits.open(server.url, "/#accounts/security", context=context)
    form = page.locator("#sign-up")
    form.get_by_label("Name").fill("Joan")
    form.get_by_label("Email").fill(f"joan-{in_another_tab}@example.org")
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="Follow its link")
    if in_another_tab:
        hash_of = str(link.get_attribute("href"))
        page = visits.open(server.url, f"/{hash_of}", context=context)
    else:
        link.click()
    page.locator("#choose-password").get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Security", level=1)).to_be_visible()
    assert page.url == f"{server.url}/#accounts/security"
    assert page.evaluate("localStorage.length") == 0
    settled(page)


def test_a_page_that_was_opened_early_keeps_the_keyboard(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """Whoever opens their account while other pages are loading is not taken out of it."""
    email = somebody(server.url, "Mary").email
    page = visits.open(server.url)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def with_another(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"pages": ["accounts", "late"]})

    page.route("**/pages.json", with_another)
    page.route("**/late/page.js", hold)
    page.reload()
    with page.expect_request("**/late/page.js"):
        log_in(page, email)
    account(page, "Security")
    late = "export const mount = () => ({});"
    held[0].fulfill(content_type="text/javascript", body=late)
    settled(page)
    expect(page.get_by_role("heading", name="Security", level=1)).to_be_focused()
