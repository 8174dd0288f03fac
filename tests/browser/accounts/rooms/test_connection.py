"""The connection of a room: its token, its end, and how it comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Route, WebSocketRoute, expect

from tests.browser.accounts.people import Somebody, sign_up
from tests.browser.accounts.rooms.conftest import MakeSomebody, Serve, enter
from tests.browser.conftest import Visits
from tests.browser.rooms.conftest import SOCKETS, create_room, join_room, live, said, say
from tests.server import RunningServer

ROOT = Path(__file__).parents[4]

# --- The token ------------------------------------------------------------------------------------


def test_an_open_socket_gets_the_new_token(serve: Serve, visits: Visits) -> None:
    """The socket outlives its first access token: it is passed the next one, and stays."""
    server = serve(access_token_seconds=3)
    visits.expect_fault("status of 401")  # of a request that found the short token expired
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
    visits.expect_fault("status of 401")  # of a request that found the short token expired
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


def test_a_session_that_ended_elsewhere_signs_out_of_the_room(
    server: RunningServer, visits: Visits
) -> None:
    """When the refresh is refused, the log-in form says why, and the room is gone."""
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


def test_a_session_that_is_revoked_leaves_the_room_at_once(
    server: RunningServer, visits: Visits, room: tuple[Somebody, int]
) -> None:
    """Who signs out everywhere in one browser is told why in the other, at the log-in form."""
    visits.expect_fault("status of 401")
    page = enter(visits, server)
    other = visits.open(server.url, context=visits.context())
    stored = page.evaluate("sessionStorage.getItem('session')")
    other.evaluate("text => sessionStorage.setItem('session', text)", stored)
    other.reload()
    other.get_by_role("button", name="Log out everywhere").click()
    expect(other.get_by_role("heading", name="Sign up")).to_be_visible()
    expect(other.locator(".problem")).to_have_count(0)
    told = page.locator("#signed-out")
    expect(told).to_contain_text("session_revoked")
    expect(told).to_contain_text("It was signed out everywhere.")
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
    expect(page.locator(".outage")).to_contain_text("60 posts missed")
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
    expect(page.locator(".outage")).to_contain_text("1 post missed, delivered on reconnection")
    say(page, "After")
    expect(page.locator(".post")).to_have_count(3)
    assert said(page) == ["Before", "While Ada was away", "After"]
