"""Signing up, in and out on the page, and Swagger UI as oneself, in a real browser."""

import json
from collections.abc import Callable
from functools import partial

import httpx2
from playwright.sync_api import Page, Route, expect

from tests.browser.accounts.people import PASSWORD, Somebody, sign_up
from tests.browser.conftest import Visits
from tests.server import RunningServer

Serve = Callable[..., RunningServer]
MakeSomebody = Callable[[str, str], Somebody]


def log_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.locator("#sign-up").get_by_role("button", name="Log in").click()
    form = page.locator("#log-in")
    form.get_by_label("Email").fill(email)
    form.get_by_label("Password").fill(password)
    form.get_by_role("button", name="Log in").click()


def test_somebody_signs_up_logs_out_and_logs_in(server: RunningServer, visits: Visits) -> None:
    """The bar says who is signed in, from sign-up to log-out and again after log-in."""
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    expect(page.locator("#user-email")).to_have_text(email)
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.locator("#user-name")).to_be_hidden()
    expect(page.locator("#welcome-card")).to_be_focused()
    log_in(page, email)
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_somebody_logs_out_everywhere(
    server: RunningServer, visits: Visits, somebody: MakeSomebody
) -> None:
    """Another session of theirs ends with this one, and nothing is complained about here."""
    elsewhere = somebody(server.url, "Ada")
    page = visits.open(server.url)
    log_in(page, elsewhere.email)
    with page.expect_response("**/auth/logout/everywhere") as answered:
        page.get_by_role("button", name="Log out everywhere").click()
    assert answered.value.status == 204
    expect(page.locator("#welcome-card")).to_be_focused()
    expect(page.locator(".problem")).to_have_count(0)
    assert elsewhere.ask("GET", "/accounts/me").json()["code"] == "session_revoked"


def test_where_logging_out_everywhere_fails_it_is_told(
    server: RunningServer, visits: Visits
) -> None:
    """Without an answer one is signed out here, and warned that elsewhere one may not be."""
    visits.expect_fault("ERR_FAILED")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    page.route("**/auth/logout/everywhere", lambda route: route.abort())
    page.get_by_role("button", name="Log out everywhere").click()
    expect(page.locator("#user-name")).to_be_hidden()
    expect(page.locator("#notices")).to_contain_text("You may still be signed in elsewhere.")


def test_two_tabs_are_two_people(server: RunningServer, visits: Visits) -> None:
    """Each tab of a browser is signed in on its own, and a reload keeps it so."""
    context = visits.context()
    tabs = [visits.open(server.url, context=context) for _ in range(2)]
    for tab, name in zip(tabs, ("Ada", "Grace"), strict=True):
        sign_up(tab, name)
    for tab in tabs:
        tab.reload()
    expect(tabs[0].locator("#user-name")).to_have_text("Ada")
    expect(tabs[1].locator("#user-name")).to_have_text("Grace")


def test_a_duplicated_tab_does_not_share_the_session(server: RunningServer, visits: Visits) -> None:
    """A copy of a tab asks who it is, so that no refresh token is used twice."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    with page.expect_popup() as opened:
        page.evaluate("open(location.href)")
    copy = opened.value
    expect(copy.locator("body")).to_have_attribute("data-state", "out")
    expect(copy.get_by_role("heading", name="Sign up")).to_be_visible()
    page.reload()
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_a_wrong_password_is_shown_as_an_error(
    server: RunningServer, visits: Visits, somebody: MakeSomebody
) -> None:
    """The person reads the title, the code and the request id of the answer."""
    email = somebody(server.url, "Ada").email
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    with page.expect_response("**/auth/login") as answered:
        log_in(page, email, "not the password")
    problem = page.get_by_role("alert").locator(".problem")
    expect(problem).to_contain_text(answered.value.json()["title"])
    expect(problem).to_contain_text("accounts.wrong_credentials")
    expect(problem).to_contain_text(answered.value.headers["x-request-id"])


def test_the_request_id_of_an_error_can_be_copied(
    server: RunningServer, visits: Visits, somebody: MakeSomebody
) -> None:
    """Copy puts the request id on the clipboard and says so."""
    email = somebody(server.url, "Ada").email
    visits.expect_fault("status of 401")
    context = visits.context(permissions=["clipboard-read", "clipboard-write"])
    page = visits.open(server.url, context=context)
    with page.expect_response("**/auth/login") as answered:
        log_in(page, email, "not the password")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == answered.value.headers["x-request-id"]


def test_an_invalid_value_is_told_beside_its_field(server: RunningServer, visits: Visits) -> None:
    """The message of the service describes the field, which is marked and has the focus."""
    visits.expect_fault("status of 422")
    page = visits.open(server.url)
    form = page.locator("#sign-up")
    form.get_by_label("Name").fill("Ada")
    form.get_by_label("Email").fill("ada@example.org")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Follow its link").click()
    field = page.locator("#choose-password").get_by_label("Password")
    field.fill("short")
    with page.expect_response("**/accounts/confirm") as answered:
        page.keyboard.press("Enter")
    message = answered.value.json()["errors"][0]["msg"]
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(f"{message} At least 10 characters.")
    expect(field).to_be_focused()


def test_a_server_that_does_not_answer_is_told(server: RunningServer, visits: Visits) -> None:
    """Without a network the form says that the server cannot be reached, and keeps its values."""
    visits.expect_fault("ERR_INTERNET_DISCONNECTED")
    context = visits.context()
    page = visits.open(server.url, context=context)
    expect(page.locator("#sign-up")).to_be_visible()
    context.set_offline(True)
    log_in(page, "ada@example.org")
    expect(page.locator("#log-in .problem")).to_contain_text("The server cannot be reached.")
    expect(page.locator("#log-in-email")).to_have_value("ada@example.org")


def test_an_access_token_is_renewed_before_it_expires(serve: Serve, visits: Visits) -> None:
    """The page refreshes in time: the session outlives its access tokens, and no request fails."""
    server = serve(access_token_seconds=3)
    page = visits.open(server.url)
    sign_up(page, "Ada")
    for _ in range(2):
        with page.expect_response("**/auth/refresh") as answered:
            pass
        assert answered.value.ok
    page.reload()
    expect(page.locator("#user-name")).to_have_text("Ada")


def test_an_expired_token_is_shown_to_the_person(serve: Serve, visits: Visits) -> None:
    """Where the token has expired and its session has ended, the log-in form says both."""
    server = serve(access_token_seconds=1)
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    stored = json.loads(page.evaluate("sessionStorage.getItem('session')"))
    # A computer that slept: it has not noticed that the token expired.
    stored["expiresAt"] += 3_600_000
    page.goto(f"{server.url}/errors")
    page.evaluate("text => sessionStorage.setItem('session', text)", json.dumps(stored))
    with httpx2.Client(base_url=f"{server.url}/api/v1", timeout=20) as client:
        client.post("/auth/logout", json={"refresh_token": stored["refresh"]})
        bearer = {"Authorization": f"Bearer {stored['access']}"}
        me = partial(client.get, "/accounts/me", headers=bearer)
        while me().json().get("code") != "token_expired":  # it is refused as revoked until then
            pass
    page.goto(server.url)
    told = page.locator("#signed-out")
    expect(told).to_contain_text("You were signed out.")
    expect(told).to_contain_text("token_expired")
    expect(told).to_contain_text("accounts.refresh_refused")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_refusal_with_a_good_token_is_not_answered_by_refreshing_forever(
    serve: Serve, visits: Visits
) -> None:
    """A token that stays refused after one refresh ends the session."""
    server = serve()
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    refreshes: list[str] = []
    page.on("request", lambda r: refreshes.append(r.url) if "/auth/refresh" in r.url else None)
    page.route(
        "**/api/v1/me",
        lambda route: route.continue_(
            headers={**route.request.headers, "authorization": "Bearer not.a.token"}
        ),
    )
    page.reload()
    expect(page.locator("#signed-out")).to_contain_text("authentication_failed")
    assert len(refreshes) == 1


def test_a_service_without_pages_says_where_to_add_one(
    server: RunningServer, visits: Visits
) -> None:
    """Where no feature has a page, the shell names the folders."""
    context = visits.context()

    def without_pages(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"pages": []})

    context.route("**/pages.json", without_pages)
    page = visits.open(server.url, context=context)
    sign_up(page, "Ada")
    expect(page.locator("#page")).to_contain_text("app/features/__init__.py")


def test_swagger_ui_runs_from_this_server_alone(
    server: RunningServer, visits: Visits, somebody: MakeSomebody
) -> None:
    """At /docs one authorises with the password form and calls a route as oneself."""
    email = somebody(server.url, "Ada").email
    page = visits.open(server.url, "/docs")
    page.get_by_role("button", name="Authorize").click(timeout=40_000)  # it is a large program
    dialog = page.locator(".modal-ux")
    dialog.locator("#oauth_username").fill(email)
    dialog.locator("#oauth_password").fill(PASSWORD)
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
    expect(dialog.get_by_role("button", name="Remove authorization")).to_be_visible()
    dialog.get_by_role("button", name="Close", exact=True).first.click()
    path = page.locator("[data-path='/api/v1/accounts/me']")
    operation = page.locator(".opblock-get").filter(has=path)
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text(email)


def test_a_page_is_shown_when_its_style_is_there(
    server: RunningServer, visits: Visits, somebody: MakeSomebody
) -> None:
    """Nothing moves away under the pointer of who clicks at once."""
    page = visits.open(server.url)
    held: list[Route] = []
    page.route("**/accounts.css", lambda route: held.append(route))  # noqa: PLW0108
    with page.expect_request("**/accounts.css"):
        log_in(page, somebody(server.url, "Ada").email)
    loaded = "import('./accounts/page.js').then(() => 'loaded')"
    waiting = "new Promise((resolve) => setTimeout(resolve, 500, 'waiting'))"
    assert page.evaluate(f"Promise.race([{loaded}, {waiting}])") == "waiting"
    held[0].continue_()
    page.locator("#user-name").click()
    navigation = page.get_by_role("navigation", name="Account")
    expect(navigation.get_by_role("list")).to_have_css("display", "grid")
