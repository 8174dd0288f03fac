"""What of an account and of its pages shows in a room."""

import pytest
from playwright.sync_api import WebSocket, expect

from tests.browser.accounts.people import sign_up
from tests.browser.accounts.visiting import account, log_in, part
from tests.browser.barriers import barriers
from tests.browser.conftest import Visits
from tests.browser.rooms.conftest import create_room, live, say
from tests.server import RunningServer


def test_a_session_that_is_ended_elsewhere_ends_here(server: RunningServer, visits: Visits) -> None:
    """The other window's socket closes, and it says why."""
    visits.expect_fault("status of 401")
    page = visits.open(server.url)
    email = sign_up(page, "Ada")
    other = visits.open(server.url)
    sockets: list[WebSocket] = []
    other.on("websocket", lambda socket: sockets.append(socket))  # noqa: PLW0108 - takes no builtin
    log_in(other, email)
    create_room(other, "Engine")
    live(other)
    account(page, "Security")
    sessions = part(page, "Sessions")
    expect(sessions.get_by_role("listitem")).to_have_count(2)
    sessions.get_by_role("button", name="End the session").click()
    expect(sessions.get_by_role("listitem")).to_have_count(1)
    expect(other.locator("#signed-out")).to_contain_text("You were signed out.")
    assert [socket.is_closed() for socket in sockets] == [True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_room(scheme: str, server: RunningServer, visits: Visits) -> None:
    """With posts in it, live."""
    page = visits.open(server.url, context=visits.context(color_scheme=scheme))
    sign_up(page, "Ada")
    create_room(page, "Engine")
    say(page, "It originates nothing.")
    expect(page.locator(".post")).to_have_count(1)
    assert barriers(page) == []
