"""The page where a provider knows people: they log in there, and come back."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser.barriers import barriers
from tests.browser.conftest import Visits, low_contrast, settled
from tests.browser.providing import at_provider, beside, log_in, page_of
from tests.openid import OwnProvider
from tests.server import RunningServer

AWAY = "The identity provider cannot be reached."


@pytest.fixture(scope="module")
def provider() -> Iterator[OwnProvider]:
    """A provider that the tests share."""
    with OwnProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(provider: OwnProvider, new_sqlite: Callable[[], str]) -> Iterator[RunningServer]:
    """The service, whose page is a client of the provider."""
    with RunningServer(page_of(provider, new_sqlite())) as server:
        yield server


@pytest.fixture
def page(provider: OwnProvider, server: RunningServer, visits: Visits) -> Page:
    """A tab with the page."""
    return visits.open(server.url, context=beside(provider, visits))


def at_its_end(page: Page, **changed: Any) -> None:
    """Reload the page, with an access token that has to be renewed now."""
    page.evaluate(
        """changed => {
            const state = JSON.parse(sessionStorage.getItem("session"));
            const told = { ...state, expiresAt: Date.now(), ...changed };
            sessionStorage.setItem("session", JSON.stringify(told));
        }""",
        changed,
    )
    page.reload()


def is_of_tokens(answer: Response) -> bool:
    """Whether it is the token endpoint's."""
    return answer.url.endswith("/token") and answer.request.method == "POST"


def test_somebody_logs_in_at_the_provider(page: Page) -> None:
    """Who they are is what the service sees; what accounts have is not offered."""
    log_in(page, "ann")
    expect(page.locator("#user-name")).to_have_text("Ann")
    assert page.locator("#user-name").get_attribute("href") is None
    expect(page.get_by_role("button", name="Log out everywhere")).to_be_hidden()
    assert "code=" not in page.url
    page.reload()
    expect(page.locator("#user-name")).to_have_text("Ann")
    settled(page)


def test_the_address_is_the_one_from_before(
    server: RunningServer, provider: OwnProvider, visits: Visits
) -> None:
    """Whoever opened a place comes back to it."""
    page = visits.open(server.url, "/#somewhere/7", context=beside(provider, visits))
    log_in(page, "ann")
    assert page.url == f"{server.url}/#somewhere/7"


def test_a_token_is_renewed_in_time(page: Page) -> None:
    """By the refresh token, which is another one each time."""
    log_in(page, "ann")
    for _ in range(2):
        with page.expect_response(is_of_tokens) as answered:
            at_its_end(page)
        assert answered.value.ok
        settled(page)
    expect(page.locator("#user-name")).to_have_text("Ann")


def test_a_refused_refresh_token_asks_to_log_in_again(page: Page, visits: Visits) -> None:
    """It says why."""
    visits.expect_fault("status of 400")
    log_in(page, "ann")
    at_its_end(page, refresh="another")
    expect(page.locator("#signed-out")).to_contain_text("You were signed out.")
    expect(page.locator("#signed-out")).to_contain_text("invalid_grant")
    assert page.evaluate("sessionStorage.length") == 0


def test_without_a_refresh_token_it_asks_again_at_the_end(
    provider: OwnProvider, visits: Visits, new_sqlite: Callable[[], str]
) -> None:
    """And who is logged in at the provider is asked for no password there."""
    settings = page_of(provider, new_sqlite(), oidc_client_id="page-once")
    with RunningServer(settings) as server:
        page = visits.open(server.url, context=beside(provider, visits))
        log_in(page, "ann")
        at_its_end(page)
        expect(page.locator("#signed-out")).to_contain_text("Your log-in has ended.")
        page.locator("#log-in").get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#user-name")).to_have_text("Ann")
        settled(page)


def test_somebody_logs_out(page: Page) -> None:
    """Here and at the provider, which makes the refresh token void."""
    log_in(page, "ann")
    with page.expect_response("**/token/revocation") as revoked:
        page.get_by_role("button", name="Log out", exact=True).click()
    assert revoked.value.ok
    page.get_by_role("button", name="Yes, sign me out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_role("button", name="Log in").click()
    at_provider(page, "bob")
    expect(page.locator("#user-name")).to_have_text("Ann")
    settled(page)


def test_who_refuses_is_told_so(page: Page) -> None:
    """The provider sends them back with an error, and they can try again."""
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Cancel").click()
    told = page.locator("#signed-out")
    expect(told).to_contain_text("The identity provider did not log you in.")
    expect(told).to_contain_text("access_denied")
    assert "error" not in page.url
    log_in(page, "ann")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "query",
    [
        "code=c&state=another&iss={issuer}",
        "error=e&state=another&iss={issuer}",
        "code=c&state={state}&iss=https://another.example",
        "code=c&state={state}",
    ],
)
def test_a_log_in_of_elsewhere_is_not_taken(
    query: str, begun: bool, page: Page, server: RunningServer, provider: OwnProvider
) -> None:
    """A link with somebody else's code signs nobody in, nor does another provider's answer."""
    state = "another"
    if begun:
        with page.expect_request("**/auth?*") as asked:
            page.get_by_role("button", name="Log in").click()
        state = parse_qs(urlsplit(asked.value.url).query)["state"][0]
        page.locator("input[name=login]").wait_for()
    page.goto(f"{server.url}/?{query.format(issuer=quote(provider.issuer), state=quote(state))}")
    expect(page.locator("#signed-out")).to_contain_text("was not begun in this tab")
    assert page.url == f"{server.url}/"
    assert page.evaluate("sessionStorage.length") == 0


def test_a_provider_that_is_away_is_told(new_sqlite: Callable[[], str], visits: Visits) -> None:
    """Who wants to log in is told, and who is logged in stays so meanwhile."""
    visits.expect_fault("ERR_CONNECTION_REFUSED")
    with OwnProvider() as provider, RunningServer(page_of(provider, new_sqlite())) as server:
        inside, outside = (
            visits.open(server.url, context=beside(provider, visits)) for _ in range(2)
        )
        log_in(inside, "ann")
        provider.kill()
        outside.get_by_role("button", name="Log in").click()
        expect(outside.locator("#log-in .problem")).to_contain_text(AWAY)
        with inside.expect_event("requestfailed"):
            at_its_end(inside)
        expect(inside.locator("#user-name")).to_have_text("Ann")
        settled(inside)


def test_a_page_that_is_no_client_says_what_to_set(
    provider: OwnProvider, visits: Visits, new_sqlite: Callable[[], str]
) -> None:
    """And that the API takes the provider's tokens all the same."""
    settings = page_of(provider, new_sqlite(), oidc_client_id="")
    with RunningServer(settings) as server:
        page = visits.open(server.url)
        card = page.locator("#welcome-card")
        expect(card).to_contain_text("OIDC_CLIENT_ID")
        expect(card).to_contain_text(provider.issuer)
        expect(card).to_contain_text(f"{server.url}/")
        assert barriers(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_log_in_has_no_barriers(
    scheme: Any, server: RunningServer, provider: OwnProvider, visits: Visits
) -> None:
    """Axe finds none, and every text can be read."""
    page = visits.open(server.url, context=beside(provider, visits, color_scheme=scheme))
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert barriers(page) == []
    assert low_contrast(page) == []


def test_by_keyboard(page: Page) -> None:
    """The log-in takes no mouse."""
    button = page.locator("#log-in").get_by_role("button", name="Log in")
    expect(button).to_be_visible()
    while not button.evaluate("element => element === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    at_provider(page, "ann")
    expect(page.locator("#user-name")).to_have_text("Ann")
    settled(page)
