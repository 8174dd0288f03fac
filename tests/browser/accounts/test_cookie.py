"""Signed in by a cookie: in every tab of the browser, with no token in any page."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from sqlalchemy import create_engine, text

from tests.browser.accounts.people import PASSWORD, Somebody
from tests.browser.accounts.visiting import account, log_in, log_out, part
from tests.browser.conftest import Visits, settled
from tests.conftest import settings_for
from tests.server import RunningServer

MakeSomebody = Callable[[str, str], Somebody]


@pytest.fixture(scope="module")
def server(
    new_sqlite: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that the tests share; each has somebody of its own."""
    mails: Path = tmp_path_factory.mktemp("mail")
    settings = settings_for(new_sqlite(), environment="development", mail_directory=mails)
    with RunningServer(settings) as server:
        yield server


@pytest.fixture
def email(request: pytest.FixtureRequest, server: RunningServer, somebody: MakeSomebody) -> str:
    """The address of somebody with an account."""
    return somebody(server.url, f"A{abs(hash(request.node.name))}").email


def stay(page: Page, email: str) -> None:
    """Log in by a cookie."""
    page.get_by_role("button", name="Log in").first.click()
    page.get_by_label("Stay signed in in this browser").check()
    form = page.locator("#log-in")
    form.get_by_label("Email").fill(email)
    form.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    signed_in(page)


def signed_in(page: Page) -> None:
    expect(page.locator("#user-name")).to_be_visible()
    settled(page)


def signed_out(page: Page) -> None:
    expect(page.locator("#user-name")).to_be_hidden()
    expect(page.locator("#log-in, #sign-up").filter(visible=True)).to_be_visible()


def kept(context: BrowserContext) -> list[str]:
    """The names of the browser's cookies."""
    return [str(cookie["name"]) for cookie in context.cookies()]


def test_the_session_is_the_browsers(server: RunningServer, visits: Visits, email: str) -> None:
    """It is there after a reload, in another tab, and when all tabs were closed; no page has it."""
    context = visits.context()
    page = visits.open(server.url, context=context)
    stay(page, email)
    assert kept(context) == ["__Host-session"]
    secret = context.cookies()[0].get("value")
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("sessionStorage.length") == 0
    stored = str(page.evaluate("Object.entries(localStorage)"))
    assert str(secret) not in stored
    assert len(stored) < 80  # that there is a session, and nothing of it
    page.reload()
    signed_in(page)
    second = visits.open(server.url, context=context)
    signed_in(second)
    for each in (page, second):
        each.close()
    signed_in(visits.open(server.url, context=context))


def test_requests_bring_the_csrf_token(server: RunningServer, visits: Visits, email: str) -> None:
    """What changes something is done, and no request has a token that would do elsewhere."""
    page = visits.open(server.url)
    stay(page, email)
    sent: list[dict[str, str]] = []
    page.on("request", lambda request: sent.append(request.headers))
    account(page)
    part(page, "Name").get_by_label("Name").fill("Ada Lovelace")
    part(page, "Name").get_by_role("button", name="Save").click()
    expect(page.locator("#user-name")).to_have_text("Ada Lovelace")
    assert any("x-csrf-token" in headers for headers in sent)
    assert not any("authorization" in headers for headers in sent)


def test_a_log_out_is_every_tabs(server: RunningServer, visits: Visits, email: str) -> None:
    """The cookie is gone, and a reload changes nothing about it."""
    context = visits.context()
    page, second = (visits.open(server.url, context=context) for _ in range(2))
    stay(page, email)
    signed_in(second)  # which was open, signed out
    log_out(page)
    signed_out(second)
    assert kept(context) == []
    page.reload()
    signed_out(page)
    assert page.evaluate("localStorage.length") == 0


def test_a_tab_may_be_somebody_else(
    server: RunningServer, visits: Visits, email: str, somebody: MakeSomebody
) -> None:
    """Who signs in without the cookie is in that tab alone, whoever the browser is."""
    grace = somebody(server.url, "Grace")
    context = visits.context()
    tab = visits.open(server.url, context=context)
    log_in(tab, grace.email)
    expect(tab.locator("#user-email")).to_have_text(grace.email)
    page = visits.open(server.url, context=context)
    stay(page, email)
    expect(tab.locator("#user-email")).to_have_text(grace.email)
    tab.reload()
    expect(tab.locator("#user-email")).to_have_text(grace.email)
    settled(tab)
    expect(page.locator("#user-email")).to_have_text(email)


def test_who_else_signs_in_is_it_in_every_tab(
    server: RunningServer, visits: Visits, email: str, somebody: MakeSomebody
) -> None:
    """A browser has one cookie: tabs that were somebody else are not any more."""
    grace = somebody(server.url, "Hopper")
    context = visits.context()
    page = visits.open(server.url, context=context)
    log_in(page, email)
    second = visits.open(server.url, context=context)
    stay(second, email)
    third = visits.open(server.url, context=context)
    signed_in(third)
    log_out(page)
    stay(page, grace.email)
    for each in (second, third):
        expect(each.locator("#user-email")).to_have_text(grace.email)
        settled(each)


def test_a_session_that_ended_elsewhere_ends_here(
    server: RunningServer, visits: Visits, email: str
) -> None:
    """The page says why; then it asks no more for a session that is not there."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    stay(page, email)
    other = visits.open(server.url)
    log_in(other, email)
    account(other, "Security")
    with other.expect_response("**/api/v1/sessions"):
        part(other, "Sessions").get_by_role("button", name="End all others").click()
    page.reload()
    expect(page.locator("#signed-out")).to_contain_text("You were signed out.")
    assert page.evaluate("localStorage.length") == 0
    with page.expect_response("**/pages.json"):
        page.reload()
    expect(page.locator("#sign-up")).to_be_visible()
    expect(page.locator("#signed-out")).to_be_empty()


def test_everywhere_is_here_too(server: RunningServer, visits: Visits, email: str) -> None:
    """Nothing is left in the browser."""
    context = visits.context()
    page = visits.open(server.url, context=context)
    stay(page, email)
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as answered:
        page.get_by_role("button", name="Log out everywhere").click()
    assert answered.value.status == 204
    signed_out(page)
    expect(page.locator(".problem")).to_have_count(0)
    assert kept(context) == []


def test_a_log_out_that_fails_is_told(server: RunningServer, visits: Visits, email: str) -> None:
    """The browser has the cookie still, so that a reload shows whose it is."""
    visits.expect_fault("ERR_FAILED")
    page = visits.open(server.url)
    stay(page, email)
    page.route("**/auth/cookie", lambda route: route.abort())
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.locator("#notices")).to_contain_text("You may still be signed in.")
    page.unroute("**/auth/cookie")
    page.reload()
    signed_in(page)


def test_a_fresh_proof_is_given_by_cookie(
    server: RunningServer, visits: Visits, email: str
) -> None:
    """Who logged in long ago proves it again; the session goes on."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    stay(page, email)
    engine = create_engine(server.settings.database_url.get_secret_value())
    with engine.begin() as connection:
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(text("UPDATE sessions SET authenticated_at = :at"), {"at": long_ago})
    engine.dispose()
    account(page, "Security")
    part(page, "Second factor").get_by_role("button", name="Set up an authenticator").click()
    dialog = page.get_by_role("dialog", name="Is it you?")
    dialog.get_by_label("Your password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(part(page, "Second factor").get_by_role("img", name="QR code")).to_be_visible()
    page.reload()
    signed_in(page)


def test_where_no_browser_keeps_the_cookie_it_is_not_offered(
    server: RunningServer, visits: Visits
) -> None:
    """By plain HTTP from another host than this one."""
    visits.expect_fault("Cross-Origin-Opener-Policy header has been ignored")
    origin, context = "http://duplex.example", visits.context()

    def pass_on(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(origin, server.url)))

    context.route(f"{origin}/**", pass_on)
    for address, offered in ((server.url, 1), (origin, 0)):
        page = visits.open(address, context=context)
        page.get_by_role("button", name="Log in").first.click()
        expect(page.locator("#log-in").get_by_label("Email")).to_be_focused()
        expect(page.get_by_label("Stay signed in in this browser")).to_have_count(offered)
