"""The page of the rooms example, with the people, the failures and the widths it has to bear."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from tests.browser.conftest import Somebody, Visits, low_contrast, sign_up
from tests.server import RunningServer

Serve = Callable[..., RunningServer]
MakeSomebody = Callable[[str, str], Somebody]
ROOT = Path(__file__).parents[2]
SOCKETS = "**/api/v1/rooms/*/ws"


def live(page: Page) -> None:
    expect(page.locator(".status")).to_have_attribute("data-state", "live")


def create_room(page: Page, name: str) -> str:
    """Create a room in the page and go live in it; its address."""
    page.get_by_label("New room").fill(name)
    page.get_by_label("New room").press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_focused()
    live(page)
    return page.url


def join_room(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).click()
    page.get_by_role("button", name="Join").click()
    live(page)
    expect(page.locator(".people li")).not_to_have_count(0)  # read after the history


def say(page: Page, text: str) -> None:
    page.get_by_label("Your post").fill(text)
    page.get_by_label("Your post").press("Enter")


def said(page: Page) -> list[str]:
    return page.locator(".posts .post .text").all_inner_texts()


@pytest.fixture
def room(server: RunningServer, somebody: MakeSomebody) -> tuple[Somebody, int]:
    """Grace, who is not at a browser, and a room of hers."""
    grace = somebody(server.url, "Grace")
    number: int = grace.do("POST", "/rooms", json={"name": "Engine"})["id"]
    return grace, number


def enter(visits: Visits, server: RunningServer, **options: Any) -> Page:
    """Ada, in a browser, live in Grace's room."""
    page = visits.open(server.url, context=visits.context(**options))
    sign_up(page, "Ada")
    join_room(page, "Engine")
    return page


# --- Talking --------------------------------------------------------------------------------------


def test_what_one_says_the_other_reads(server: RunningServer, visits: Visits) -> None:
    """Two tabs of one browser are two people, and each reads the other, live and once."""
    context = visits.context()
    ada, grace = (visits.open(server.url, context=context) for _ in range(2))
    sign_up(ada, "Ada")
    create_room(ada, "Engine")
    sign_up(grace, "Grace")
    join_room(grace, "Engine")
    expect(ada.locator(".people")).to_contain_text("Grace")
    say(ada, "It originates nothing.")
    expect(grace.locator(".post")).to_contain_text("It originates nothing.")
    say(grace, "<b>Then</b> we order it.")
    for page in (ada, grace):
        expect(page.locator(".post").nth(1)).to_contain_text("<b>Then</b> we order it.")
        assert said(page) == ["It originates nothing.", "<b>Then</b> we order it."]
    expect(ada.locator(".pending li")).to_have_count(0)


def test_a_room_can_be_used_by_keyboard_alone(server: RunningServer, visits: Visits) -> None:
    """From the skip link Tab leads to the box; Enter posts, Shift+Enter breaks the line."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    address = create_room(page, "Engine")
    page.get_by_role("link", name="Skip to the content").press("Enter")
    assert page.url == address
    box = page.get_by_label("Your post")
    for _ in range(10):
        page.keyboard.press("Tab")
        if box.evaluate("box => box === document.activeElement"):
            break
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    expect(page.locator(".post .text")).to_have_text("One\ntwo", use_inner_text=True)
    expect(box).to_be_focused()


def test_earlier_posts_are_loaded_when_asked_for(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """The newest fifty are shown first; the rest comes before them, each post once."""
    grace, number = room
    for i in range(60):
        grace.do("POST", f"/rooms/{number}/posts", json={"text": f"Post {i}"})
    page = enter(visits, server)
    expect(page.locator(".post")).to_have_count(50)
    page.get_by_role("button", name="Load earlier").click()
    expect(page.locator(".post")).to_have_count(60)
    assert said(page) == [f"Post {i}" for i in range(60)]
    expect(page.get_by_role("button", name="Load earlier")).to_be_hidden()


# --- Errors ---------------------------------------------------------------------------------------


def test_a_post_that_is_too_long_is_refused_beside_the_box(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """The service's message describes the box, the text is kept, and the socket lives."""
    page = enter(visits, server)
    say(page, "x" * 2001)
    box = page.get_by_label("Your post")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(box).to_have_accessible_description("String should have at most 2000 characters")
    expect(box).to_have_value("x" * 2001)
    expect(page.locator(".composer .problem")).to_contain_text("invalid_parameter")
    say(page, "Shorter.")
    expect(page.locator(".post .text")).to_have_text("Shorter.")


def test_an_archived_room_takes_no_more_posts(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Whoever is connected is told by whom it was archived, and keeps what they were writing."""
    grace, number = room
    page = enter(visits, server)
    page.get_by_label("Your post").fill("Half a thought")
    grace.do("POST", f"/rooms/{number}/archive")
    expect(page.locator(".note").last).to_have_text("Grace archived the room.")
    expect(page.get_by_role("button", name="Post", exact=True)).to_be_disabled()
    expect(page.get_by_label("Your post")).to_have_value("Half a thought")


def test_posting_into_an_archived_room_is_shown_as_an_error(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """A page that has not heard of the archiving shows the service's refusal; the socket lives."""
    grace, number = room
    context = visits.context()

    def deaf_to_archiving(ws: WebSocketRoute) -> None:
        server_side = ws.connect_to_server()
        server_side.on_message(lambda m: ws.send(m) if '"archived"' not in str(m) else None)

    context.route_web_socket(SOCKETS, deaf_to_archiving)
    page = visits.open(server.url, context=context)
    sign_up(page, "Ada")
    join_room(page, "Engine")
    grace.do("POST", f"/rooms/{number}/archive")
    say(page, "Too late")
    problem = page.locator(".composer .problem")
    expect(problem).to_contain_text("This room is read-only.")
    expect(problem).to_contain_text("rooms.read_only")
    expect(page.get_by_label("Your post")).to_have_value("Too late")
    live(page)


def test_who_is_removed_is_told_and_may_join_again(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """The connection stops for good, says why, and the room offers to be joined."""
    grace, number = room
    page = enter(visits, server)
    people = grace.do("GET", f"/rooms/{number}/members")["items"]
    ada = next(person["id"] for person in people if person["name"] == "Ada")
    grace.do("DELETE", f"/rooms/{number}/members/{ada}")
    expect(page.locator("#notices .problem")).to_contain_text("rooms.not_a_member")
    page.get_by_role("button", name="Join").click()
    live(page)


def test_who_leaves_sees_no_error(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Leaving is no failure: the room offers to be joined, and nothing is complained about."""
    page = enter(visits, server)
    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("button", name="Join")).to_be_visible()
    expect(page.get_by_role("heading", name="Engine")).to_be_focused()
    expect(page.locator(".problem")).to_have_count(0)


def test_a_room_that_does_not_exist_is_told(server: RunningServer, visits: Visits) -> None:
    """An address of no room shows the registered error."""
    visits.expect_fault("status of 404")
    page = visits.open(server.url, "/#rooms/999")
    sign_up(page, "Ada")
    expect(page.locator("#notices .problem")).to_contain_text("rooms.not_found")


# --- The token ------------------------------------------------------------------------------------


def test_an_open_socket_gets_the_new_token(serve: Serve, visits: Visits) -> None:
    """The socket outlives its first access token: it is passed the next one, and stays."""
    server = serve(access_token_seconds=3)
    page = visits.open(server.url)
    sign_up(page, "Ada")
    sockets: list[str] = []
    page.on("websocket", lambda ws: sockets.append(ws.url))
    with page.expect_event("websocket") as opened:
        create_room(page, "Engine")
    for _ in range(2):
        opened.value.wait_for_event("framereceived", lambda f: "auth.refreshed" in str(f))
    say(page, "Still here")
    expect(page.locator(".post")).to_contain_text("Still here")
    assert len(sockets) == 1


def test_a_token_is_refreshed_once_however_many_ask(server: RunningServer, visits: Visits) -> None:
    """Requests that all find the token refused share one refresh; a second would be a reuse."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    create_room(page, "Engine")
    refreshes: list[str] = []
    page.on("request", lambda r: refreshes.append(r.url) if "/auth/refresh" in r.url else None)
    page.evaluate("""() => {
      const stored = JSON.parse(sessionStorage.getItem("session"));
      stored.access = stored.access.slice(0, -1) + (stored.access.endsWith("A") ? "B" : "A");
      sessionStorage.setItem("session", JSON.stringify(stored));
    }""")
    page.reload()
    live(page)
    expect(page.locator("#user-name")).to_have_text("Ada")
    assert len(refreshes) == 1


def test_a_token_that_expires_on_the_socket_is_shown(serve: Serve, visits: Visits) -> None:
    """While the token cannot be renewed the status names the error; then the room is live again."""
    server = serve(access_token_seconds=2)
    page = visits.open(server.url)
    sign_up(page, "Ada")
    create_room(page, "Engine")
    held: list[Route] = []
    expired = False

    def hold(route: Route) -> None:
        if expired:
            route.continue_()
        else:
            held.append(route)

    page.route("**/auth/refresh", hold)
    expect(page.locator(".status")).to_contain_text("[token_expired]")
    expired = True
    for route in held:
        route.continue_()
    live(page)


def test_a_session_that_ended_elsewhere_signs_out_of_the_room(serve: Serve, visits: Visits) -> None:
    """When the refresh is refused, the log-in form says why, and the room is gone."""
    server = serve(access_token_seconds=3)
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    sign_up(page, "Ada")
    create_room(page, "Engine")
    stored = json.loads(page.evaluate("sessionStorage.getItem('session')"))
    page.request.post(f"{server.url}/api/v1/auth/logout", data={"refresh_token": stored["refresh"]})
    told = page.locator("#signed-out")
    expect(told).to_contain_text("You were signed out.")
    expect(told).to_contain_text("accounts.refresh_refused")
    expect(page.locator(".room")).to_have_count(0)


# --- Reconnecting ---------------------------------------------------------------------------------


def test_nothing_is_missed_while_offline(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Offline is shown; what was said meanwhile, more than a page of it, is there afterwards."""
    grace, number = room
    visits.expect_fault("ERR_INTERNET_DISCONNECTED")
    page = enter(visits, server)
    grace.do("POST", f"/rooms/{number}/posts", json={"text": "Before"})
    expect(page.locator(".post")).to_have_count(1)
    page.context.set_offline(True)
    expect(page.locator(".status")).to_contain_text("Offline: The server cannot be reached.")
    for i in range(60):
        grace.do("POST", f"/rooms/{number}/posts", json={"text": f"Meanwhile {i}"})
    page.context.set_offline(False)
    live(page)
    expect(page.locator(".post")).to_have_count(61)
    assert said(page) == ["Before", *(f"Meanwhile {i}" for i in range(60))]


def test_a_post_written_while_offline_is_kept(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Posting without a connection says so and keeps the text, which can be posted later."""
    visits.expect_fault("ERR_INTERNET_DISCONNECTED")
    page = enter(visits, server)
    page.context.set_offline(True)
    expect(page.locator(".status")).to_have_attribute("data-state", "waiting")
    say(page, "Later, then")
    expect(page.locator(".composer .problem")).to_contain_text("Not connected.")
    expect(page.get_by_label("Your post")).to_have_value("Later, then")
    page.context.set_offline(False)
    live(page)
    page.get_by_label("Your post").press("Enter")
    expect(page.locator(".post")).to_contain_text("Later, then")


@pytest.mark.parametrize("arrives", [True, False])
def test_a_post_whose_answer_was_lost_is_settled_by_the_history(
    arrives: bool, server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """It is shown as not confirmed, or once as a post when it turns out to have arrived."""
    context = visits.context()

    def lose_the_answer(ws: WebSocketRoute) -> None:
        server_side = ws.connect_to_server()
        lost = False

        def to_server(message: str | bytes) -> None:
            nonlocal lost
            lost = '"post"' in str(message)
            if arrives or not lost:
                server_side.send(message)
            if lost and not arrives:
                ws.close(code=1011)

        def to_page(message: str | bytes) -> None:
            if lost:
                ws.close(code=1011)
            else:
                ws.send(message)

        ws.on_message(to_server)
        server_side.on_message(to_page)

    context.route_web_socket(SOCKETS, lose_the_answer)
    page = visits.open(server.url, context=context)
    sign_up(page, "Ada")
    join_room(page, "Engine")
    with page.expect_response("**/posts?*"):  # read again after the reconnection
        say(page, "Is it there?")
    live(page)
    if arrives:
        expect(page.locator(".post")).to_contain_text("Is it there?")
        expect(page.locator(".pending li")).to_have_count(0)
        assert said(page) == ["Is it there?"]
    else:
        expect(page.locator(".pending")).to_contain_text("Not confirmed")
        page.get_by_role("button", name="Edit and post again").click()
        expect(page.get_by_label("Your post")).to_have_value("Is it there?")
        expect(page.locator(".post")).to_have_count(0)


def test_the_wait_grows_until_the_server_welcomes(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """A socket that opens and is closed again does not reset the back-off; a welcome does."""
    page = enter(visits, server)
    attempts: list[float] = []
    accepted: list[WebSocketRoute] = []

    def refuse(ws: WebSocketRoute) -> None:
        attempts.append(time.monotonic())
        server_side = ws.connect_to_server()
        if len(attempts) <= 3:  # open, and closed where the welcome would come
            server_side.on_message(lambda _: ws.close(code=1013, reason="overloaded"))
        else:
            accepted.append(ws)

    page.route_web_socket(SOCKETS, refuse)
    page.reload()
    expect(page.locator(".status")).to_contain_text("[overloaded]")
    live(page)
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert len(waits) == 3
    for wait, longest in zip(waits, (0.5, 1, 2), strict=True):
        assert longest / 2 <= wait < longest + 3
    lost = time.monotonic()
    accepted[-1].close(code=1011)
    expect(page.locator(".status")).not_to_have_attribute("data-state", "live")
    live(page)
    assert 0.25 <= attempts[4] - lost < 1.9  # without the reset it would be 2 at least


def test_waiting_can_be_cut_short(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Retry now tries at once, whatever the server has asked to wait."""
    page = enter(visits, server)
    problem = {
        "type": "/errors/overloaded",
        "title": "The service is full right now.",
        "status": 503,
        "code": "overloaded",
        "retryable": True,
        "retry_after": 60,
        "request_id": "none",
    }
    attempts = []

    def refuse_once(ws: WebSocketRoute) -> None:
        attempts.append(ws)
        if len(attempts) > 1:
            ws.connect_to_server()
            return
        ws.send(json.dumps({"type": "error", "data": problem}))
        ws.close(code=1013, reason="overloaded")

    page.route_web_socket(SOCKETS, refuse_once)
    page.reload()
    expect(page.locator(".status")).to_contain_text("[overloaded]")
    page.get_by_role("button", name="Retry now").click()
    live(page)


class Process:
    """The service as `python -m app serve` runs it, on a port that outlives it."""

    def __init__(self, directory: Path) -> None:
        self._environment = os.environ | {
            "ENVIRONMENT": "test",
            "DATABASE_URL": f"sqlite:///{directory / 'test.db'}",
            "LOG_LEVEL": "warning",
            "PORT": "0",
            "PYTHONPATH": str(ROOT),
        }
        self._directory = directory  # without a `.env`
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Run it and wait until it says where it is."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--migrate"],
            cwd=self._directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = next(said for said in self._process.stdout if said.startswith("Duplex is at"))
        self.url = line.split()[3]
        self._environment["PORT"] = self.url.rsplit(":", 1)[1]

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.communicate(timeout=20)
            self._process = None


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A service that a test stops and starts."""
    process = Process(tmp_path)
    process.start()
    yield process
    process.stop()


def test_the_room_comes_back_after_a_restart(
    process: Process, visits: Visits, somebody: MakeSomebody
) -> None:
    """The status counts down to the next attempt; then both read each other again, and no loss."""
    visits.expect_fault("ERR_CONNECTION_REFUSED|WebSocket connection to|status of 503")
    grace = somebody(process.url, "Grace")
    number = grace.do("POST", "/rooms", json={"name": "Engine"})["id"]
    page = visits.open(process.url)
    sign_up(page, "Ada")
    join_room(page, "Engine")
    say(page, "Before")
    expect(page.locator(".post")).to_have_count(1)
    process.stop()
    status = page.locator(".status")
    expect(status).to_have_attribute("data-state", "waiting")
    expect(status).to_contain_text("retry in")
    process.start()
    grace.do("POST", f"/rooms/{number}/posts", json={"text": "While Ada was away"})
    live(page)
    say(page, "After")
    expect(page.locator(".post")).to_have_count(3)
    assert said(page) == ["Before", "While Ada was away", "After"]


# --- Looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_a_room_can_be_read(
    scheme: str, server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Posts, notes, the status and an error have the contrast of WCAG AA in light and in dark."""
    visits.expect_fault("status of 422")
    grace, number = room
    grace.do("POST", f"/rooms/{number}/posts", json={"text": "Hello"})
    page = enter(visits, server, color_scheme=scheme)
    say(page, "Hello, Grace")
    expect(page.locator(".post")).to_have_count(2)
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".new-room .problem")).to_be_visible()
    assert low_contrast(page) == []


def test_a_room_fits_a_small_phone(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """At 320 pixels the list and the room take turns, and nothing scrolls sideways."""
    page = enter(visits, server, viewport={"width": 320, "height": 640})
    say(page, "Unbreakable" * 20)
    expect(page.locator(".post")).to_have_count(1)
    expect(page.get_by_label("New room")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.get_by_role("link", name="All rooms").click()
    expect(page.get_by_label("New room")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
