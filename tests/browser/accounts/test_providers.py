"""The page beside a provider that people log in with: a real one, whose pages are its own."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.accounts.people import sign_up
from tests.browser.accounts.test_keyboard import stale
from tests.browser.accounts.test_second_factor import set_up
from tests.browser.accounts.visiting import account, log_out, part
from tests.browser.barriers import barriers
from tests.browser.conftest import Visits, low_contrast, settled
from tests.browser.providing import at_provider, beside
from tests.conftest import settings_for
from tests.features.accounts.providing import offer
from tests.openid import OwnProvider
from tests.server import RunningServer


@pytest.fixture(scope="module")
def provider() -> Iterator[OwnProvider]:
    """The real one."""
    with OwnProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(
    provider: OwnProvider, new_sqlite: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The service, where people may log in with it; each test has people of its own."""
    mail = tmp_path_factory.mktemp("mail")
    settings = settings_for(new_sqlite(), environment="development", mail_directory=mail)
    with RunningServer(settings) as server:
        offer(server, "acme", provider.issuer, "sign-in")
        yield server


@pytest.fixture
def context(provider: OwnProvider, visits: Visits) -> BrowserContext:
    """A profile in which the provider's pages are open too."""
    return beside(provider, visits)


@pytest.fixture
def page(server: RunningServer, visits: Visits, context: BrowserContext) -> Page:
    """A tab with the page."""
    return visits.open(server.url, context=context)


def somebody() -> str:
    """An address that nobody has yet."""
    return f"{uuid4().hex[:12]}@example.org"


def go(page: Page, form: str = "#sign-up") -> None:
    """Leave the page for the provider."""
    page.locator(form).get_by_role("button", name="Log in with Acme").click()


def enter(page: Page, login: str, form: str = "#sign-up") -> None:
    """Log in with the provider, for the first time in this profile."""
    go(page, form)
    at_provider(page, login)
    expect(page.locator("#user-name")).to_have_text("Ann")
    settled(page)


def test_somebody_signs_up_and_logs_in_again(page: Page, server: RunningServer) -> None:
    """Without a password, which they may choose; nothing of the way is left in the address."""
    email = somebody()
    enter(page, email)
    assert page.url == f"{server.url}/"
    expect(page.locator("#user-email")).to_have_text(email)
    assert page.evaluate("Object.keys(sessionStorage).toString()") == "session"
    page.reload()
    settled(page)
    account(page)
    password = part(page, "Password")
    password.get_by_role("button", name="Mail me a link").click()
    expect(password.get_by_role("link", name="Follow its link")).to_be_visible()
    log_out(page)
    page.locator("#sign-up").get_by_role("button", name="Log in", exact=True).click()
    go(page, "#log-in")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#user-email")).to_have_text(email)


def test_the_address_is_the_one_from_before(
    server: RunningServer, visits: Visits, context: BrowserContext
) -> None:
    """Whoever opened a place comes back to it."""
    page = visits.open(server.url, "/#accounts/security", context=context)
    enter(page, somebody())
    assert page.url == f"{server.url}/#accounts/security"
    expect(page.get_by_role("heading", name="Security", level=1)).to_be_visible()


def test_who_stays_signed_in_does_so_by_cookie(
    server: RunningServer, page: Page, context: BrowserContext, visits: Visits
) -> None:
    """What is ticked on the form holds for a provider too."""
    page.locator("#sign-up").get_by_role("button", name="Log in", exact=True).click()
    page.get_by_label("Stay signed in").check()
    enter(page, somebody(), "#log-in")
    assert page.evaluate("sessionStorage.length") == 0
    other = visits.open(server.url, context=context)
    expect(other.locator("#user-name")).to_have_text("Ann")
    settled(other)


def test_who_goes_back_is_told_so(page: Page) -> None:
    """And may choose anew."""
    go(page)
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator("#signed-out")).to_contain_text("You have not logged in at Acme.")
    assert "error" not in page.url
    expect(page.locator("#log-in").get_by_role("button", name="Log in with Acme")).to_be_visible()


def test_what_another_tab_has_begun_is_not_gone_on_with(
    server: RunningServer, page: Page, visits: Visits, context: BrowserContext
) -> None:
    """Nobody is signed in by a link that somebody else has sent."""
    other = visits.open(server.url, "/?code=theirs&state=theirs", context=context)
    expect(other.locator("#signed-out")).to_contain_text("cannot be gone on with")
    assert other.url == f"{server.url}/"
    assert page.evaluate("sessionStorage.length") == 0


def test_an_account_with_the_address_is_linked_by_its_owner(page: Page, visits: Visits) -> None:
    """Who comes before is told to; the link then lets them in, and is taken away again."""
    visits.expect_fault("status of 409")
    email = sign_up(page, "Ada")
    log_out(page)
    go(page)
    at_provider(page, email)
    expect(page.locator("#signed-out")).to_contain_text("log in to it, and link it")
    form = page.locator("#log-in")
    form.get_by_label("Email").fill(email)
    form.get_by_label("Password").fill("correct horse battery staple")
    form.get_by_role("button", name="Log in", exact=True).click()
    account(page, "Security")
    linked = part(page, "Log-in with others")
    linked.get_by_role("button", name="Link to Acme").click()
    page.get_by_role("button", name="Continue").click()
    expect(linked.locator(".entries li")).to_contain_text(email)
    expect(page.locator("#notices")).to_contain_text("Your account is linked to Acme")
    log_out(page)
    go(page)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#user-name")).to_have_text("Ada")
    account(page, "Security")
    linked.get_by_role("button", name="Unlink Acme").click()
    expect(linked.locator(".entries li")).to_have_count(0)


def test_the_only_way_to_log_in_is_not_taken_away(page: Page, visits: Visits) -> None:
    """It says why."""
    visits.expect_fault("status of 409")
    enter(page, somebody())
    account(page, "Security")
    part(page, "Log-in with others").get_by_role("button", name="Unlink Acme").click()
    expect(page.locator("#notices")).to_contain_text("your only way to log in")


def test_who_has_a_second_factor_is_asked_for_it(page: Page, visits: Visits) -> None:
    """Once they are back; a wrong code does not do."""
    visits.expect_fault("status of 401")
    enter(page, somebody())
    authenticator, _ = set_up(page)
    log_out(page)
    go(page)
    page.get_by_role("button", name="Continue").click()
    code = page.locator("#second-factor").get_by_label("Code of your authenticator")
    expect(code).to_be_focused()
    assert barriers(page) == []
    code.fill("000000")
    page.keyboard.press("Enter")
    expect(page.locator("#second-factor .problem")).to_be_visible()
    code.fill(authenticator.at(datetime.now(UTC) + timedelta(seconds=30)))  # this step is used
    page.keyboard.press("Enter")
    expect(page.locator("#user-name")).to_have_text("Ann")


def test_a_fresh_proof_is_a_new_log_in_there(
    server: RunningServer, page: Page, visits: Visits
) -> None:
    """For who has no password; then it is done once more."""
    visits.expect_fault("status of 401")
    email = somebody()
    enter(page, email)
    account(page, "Security")
    stale(server, page)
    factor = part(page, "Second factor")
    factor.get_by_role("button", name="Set up an authenticator").click()
    page.get_by_role("dialog").get_by_role("button", name="Log in at Acme again").click()
    at_provider(page, email)
    expect(page.locator("#notices")).to_contain_text("It is you.")
    factor.get_by_role("button", name="Set up an authenticator").click()
    expect(factor.get_by_role("img", name="QR code")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_barriers(
    scheme: str, server: RunningServer, provider: OwnProvider, visits: Visits
) -> None:
    """Neither the forms nor the part of the account, in light and in dark."""
    page = visits.open(server.url, context=beside(provider, visits, color_scheme=scheme))
    for name in ("Log in", "Sign up"):
        expect(page.get_by_role("button", name="Log in with Acme")).to_be_visible()
        assert barriers(page) == []
        assert low_contrast(page) == []
        page.locator(".switch:visible").get_by_role("button", name=name, exact=True).click()
    enter(page, somebody())
    account(page, "Security")
    expect(part(page, "Log-in with others").locator(".entries li")).to_be_visible()
    assert barriers(page) == []
    assert low_contrast(page) == []
