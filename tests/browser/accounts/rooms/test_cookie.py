"""A room in the tabs of a browser that is signed in by a cookie."""

from collections.abc import Callable

from playwright.sync_api import WebSocket, expect

from tests.browser.accounts.people import PASSWORD, Somebody
from tests.browser.accounts.visiting import log_out
from tests.browser.conftest import Visits
from tests.browser.rooms.conftest import create_room, live, say
from tests.server import RunningServer


def test_tabs_are_live_until_one_logs_out(
    server: RunningServer, visits: Visits, somebody: Callable[[str, str], Somebody]
) -> None:
    """A socket needs no token; the log-out of one tab closes those of all."""
    visits.expect_fault("status of 401")  # a tab may hear it from its socket first, and asks
    email = somebody(server.url, "Ada").email
    context = visits.context()
    page = visits.open(server.url, context=context)
    page.get_by_role("button", name="Log in").first.click()
    page.get_by_label("Stay signed in in this browser").check()
    page.locator("#log-in").get_by_label("Email").fill(email)
    page.locator("#log-in").get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    address = create_room(page, "Engine")
    second = context.new_page()
    sockets: list[WebSocket] = []

    def note(socket: WebSocket) -> None:
        sockets.append(socket)

    second.on("websocket", note)
    second.goto(address)
    live(second)
    say(page, "It originates nothing.")
    expect(second.locator(".post")).to_contain_text("It originates nothing.")
    log_out(page)
    expect(second.locator("#user-name")).to_be_hidden()
    assert [socket.is_closed() for socket in sockets] == [True]
