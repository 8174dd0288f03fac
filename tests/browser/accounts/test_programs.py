"""What somebody gives to their programs: tickets. Keys are in test_account.py."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import APIRouter, Depends
from playwright.sync_api import Page, expect

from app.core.auth import Principal, has_scope
from app.core.errors import Forbidden, raises
from app.realtime import Channel
from tests.browser.accounts.people import sign_up
from tests.browser.accounts.visiting import account, part
from tests.browser.barriers import barriers
from tests.browser.conftest import Visits
from tests.server import RunningServer

router = APIRouter(prefix="/stops")


@raises(Forbidden)
async def rider(number: int, user: Annotated[Principal, Depends(has_scope())]) -> Principal:
    """Somebody at a stop where they may be."""
    if number != 7:
        raise Forbidden("This is not your stop.")
    return user


@router.websocket("/{number}/ws")
class Stop(Channel):
    """Tells who is at a stop."""

    user: Annotated[Principal, Depends(rider)]


@pytest.fixture
def page(serve: Callable[..., RunningServer], visits: Visits) -> Page:
    """Somebody's programs, at a service with stops."""
    page = visits.open(serve(router).url)
    sign_up(page, "Ada")
    account(page, "Programs")
    return page


def get(page: Page, path: str) -> str:
    """Get a ticket for a stop, by keyboard; the address with it."""
    tickets = part(page, "Tickets")
    tickets.get_by_label("WebSocket").select_option("/stops/{number}/ws")
    expect(tickets).to_contain_text("Tells who is at a stop.")
    box = tickets.get_by_label("Its path")
    expect(box).to_have_value("/stops/{number}/ws")
    box.fill(path)
    page.keyboard.press("Enter")
    expect(tickets.get_by_role("status").filter(has_text="There is a ticket.")).to_be_visible()
    return tickets.locator(".secret").inner_text()


def test_a_ticket_is_tried_with_nothing_but_its_address(page: Page) -> None:
    """The welcome is shown; the page brings no protocol, and the ticket is used by that."""
    said = urlsplit(get(page, "/stops/7/ws"))
    assert (said.scheme, said.path) == ("ws", "/stops/7/ws")
    assert len(parse_qs(said.query)["ticket"][0]) == 43
    tickets = part(page, "Tickets")
    expect(tickets.get_by_role("timer")).to_contain_text("s are left.")
    assert barriers(page) == []
    page.evaluate(WATCH)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(tickets.locator(".frame")).to_contain_text('"type": "welcome"')
    expect(tickets.get_by_role("timer")).to_have_text("The ticket is used.")
    assert page.evaluate("made") == [[said.geturl()]]
    assert page.evaluate("document.activeElement.querySelector('.frame') !== null")
    again = get(page, "/stops/7/ws")
    assert again != said.geturl()


def test_what_a_ticket_does_not_open_is_said(page: Page, visits: Visits) -> None:
    """What is wrong with a path, beside it; and the error of the channel, in its frame."""
    visits.expect_fault("status of 422")
    tickets = part(page, "Tickets")
    get(page, "/stops/8/ws")
    tickets.get_by_role("button", name="Connect with it").click()
    expect(tickets.locator(".frame")).to_contain_text("This is not your stop.")
    box = tickets.get_by_label("Its path")
    box.fill("no path")
    page.keyboard.press("Enter")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(box).to_be_focused()


def test_a_ticket_that_is_over_says_so(page: Page) -> None:
    """The time that is left is counted down; then there is nothing to try."""
    page.clock.install()
    get(page, "/stops/7/ws")
    tickets = part(page, "Tickets")
    page.clock.run_for(10_000)
    expect(tickets.get_by_role("timer")).to_contain_text("20 s are left.")
    page.clock.run_for(20_000)
    expect(tickets.get_by_role("timer")).to_have_text("The ticket is over.")
    expect(tickets.get_by_role("button", name="Connect with it")).to_have_count(0)


WATCH = """() => {
  globalThis.made = [];
  globalThis.WebSocket = class extends WebSocket {
    constructor(...how) {
      made.push(how);
      super(...how);
    }
  };
}"""
