"""A connection that breaks: nothing is lost, nothing comes twice, and the page says so."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.accounts.people import Somebody, sign_up
from tests.browser.accounts.rooms.conftest import MakeSomebody, enter
from tests.browser.conftest import Visits
from tests.browser.rooms.conftest import SOCKETS, join_room, live, said, say
from tests.server import RunningServer

Room = tuple[Somebody, int]
HOLD_MARKS = """() => {
  const real = window.setTimeout;
  window.held = [];
  window.setTimeout = (f, ms, ...rest) => ms === 15_000 ? held.push(f) : real(f, ms, ...rest);
}"""


def cut(page: Page) -> None:
    page.get_by_role("button", name="Cut the connection").click()
    expect(page.locator(".status")).to_have_attribute("data-state", "cut")


def reconnect(page: Page) -> None:
    page.get_by_role("button", name="Reconnect").click()
    live(page)


def tell(page: Page, line: str) -> None:
    """The line about the last outage ends like this."""
    expect(page.locator(".outage")).to_contain_text(line)


def post(room: Room, *texts: str) -> None:
    """Grace posts, over REST."""
    grace, number = room
    for text in texts:
        grace.do("POST", f"/rooms/{number}/posts", json={"text": text})


def forget_events(database: Path) -> None:
    """Take everything out of the event log; what was posted stays."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM event_log")


def asked_for_lists(page: Page) -> list[str]:
    """The requests for lists of posts, from now on."""
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/posts?" in r.url else None)
    return asked


def connect(ws: WebSocketRoute) -> None:
    ws.connect_to_server()


def watched(visits: Visits, server: RunningServer) -> tuple[Page, list[WebSocketRoute]]:
    """Ada in Grace's room, and her sockets as they are opened."""
    context = visits.context()
    sockets: list[WebSocketRoute] = []

    def watch(ws: WebSocketRoute) -> None:
        sockets.append(ws)
        connect(ws)

    context.route_web_socket(SOCKETS, watch)
    return enter(visits, server, context), sockets


# --- Recovery -------------------------------------------------------------------------------------


def test_what_was_missed_comes_once_and_in_order(
    server: RunningServer, visits: Visits, room: Room
) -> None:
    """The page says how many posts were missed, and marks them, in words, for some seconds."""
    page = enter(visits, server)
    page.evaluate(HOLD_MARKS)
    say(page, "Before")
    expect(page.locator(".post")).to_have_count(1)
    lists = asked_for_lists(page)
    cut(page)
    tell(page, "Connection cut at")
    post(room, "One", "Two", "Three")
    assert said(page) == ["Before"]
    reconnect(page)
    tell(page, "3 posts missed, delivered on reconnection, each once")
    assert said(page) == ["Before", "One", "Two", "Three"]
    expect(page.locator(".late")).to_have_text(["missed"] * 3)
    assert lists == []
    post(room, "After")
    expect(page.locator(".post")).to_have_count(5)
    expect(page.locator(".late")).to_have_count(3)
    page.evaluate("held.forEach((end) => end())")
    expect(page.locator(".late")).to_have_count(0)


def test_the_newest_post_stays_in_sight(server: RunningServer, visits: Visits, room: Room) -> None:
    """On a phone too, where the line about the outage takes a part of the room's height."""
    page = enter(visits, server, viewport={"width": 320, "height": 640})
    cut(page)
    post(room, *(f"Post {i}" for i in range(8)))
    reconnect(page)
    tell(page, "8 posts missed")
    expect(page.locator(".post").last).to_be_in_viewport()
    expect(page.get_by_role("button", name="New posts below")).to_be_hidden()


def test_where_nothing_was_missed_the_page_says_so(
    server: RunningServer, visits: Visits, room: Room
) -> None:
    """A second cut begins anew: what the first one missed is not counted again."""
    page = enter(visits, server)
    cut(page)
    post(room, "One")
    reconnect(page)
    tell(page, "1 post missed, delivered on reconnection, once")
    cut(page)
    reconnect(page)
    tell(page, "no posts missed")
    assert said(page) == ["One"]


def test_a_connection_stays_cut(server: RunningServer, visits: Visits, room: Room) -> None:
    """A double click does not undo the cut, nor does a network that comes back."""
    visits.expect_fault("ERR_INTERNET_DISCONNECTED")
    page = enter(visits, server)
    # Near its beginning: where the button is in either case.
    page.get_by_role("button", name="Cut the connection").dblclick(position={"x": 8, "y": 8})
    for offline in (True, False):
        page.context.set_offline(offline)
    expect(page.get_by_role("button", name="Reconnect")).to_be_focused()
    expect(page.locator(".status")).to_have_attribute("data-state", "cut")
    page.keyboard.press("Enter")
    live(page)


def test_what_the_log_no_longer_has_is_read_anew(
    server: RunningServer, visits: Visits, room: Room, tmp_path: Path
) -> None:
    """The newest posts take the place of those shown, and what is posted then follows them."""
    page = enter(visits, server)
    post(room, "Before")
    expect(page.locator(".post")).to_have_count(1)
    cut(page)
    post(room, *(f"Meanwhile {i}" for i in range(52)))
    forget_events(tmp_path / "test.db")
    reconnect(page)
    tell(page, "no longer in the log, so the posts were read anew")
    assert said(page) == [f"Meanwhile {i}" for i in range(2, 52)]
    expect(page.locator(".late")).to_have_count(0)
    post(room, "After")
    expect(page.locator(".post").last).to_contain_text("After")
    page.get_by_role("button", name="Load earlier").click()
    expect(page.locator(".post")).to_have_count(54)
    assert said(page) == ["Before", *(f"Meanwhile {i}" for i in range(52)), "After"]


def test_a_list_that_cannot_be_read_anew_is_asked_for_again(
    server: RunningServer, visits: Visits, room: Room, tmp_path: Path
) -> None:
    """The page is not live with posts missing: it waits, and reads the list with the next try."""
    visits.expect_fault("ERR_FAILED")
    page = enter(visits, server)
    cut(page)
    post(room, "Meanwhile")
    forget_events(tmp_path / "test.db")
    page.route("**/posts?*", lambda route: route.abort(), times=1)
    lists = asked_for_lists(page)
    page.get_by_role("button", name="Reconnect").click()
    tell(page, "read anew")
    assert said(page) == ["Meanwhile"]
    assert len(lists) == 2
    live(page)


def test_a_lost_position_is_no_end(server: RunningServer, visits: Visits, room: Room) -> None:
    """Closed with 4409 `realtime.position_lost` the page comes back, and reads the list anew."""
    page, sockets = watched(visits, server)
    lists = asked_for_lists(page)
    sockets[0].close(code=4409, reason="realtime.position_lost")
    tell(page, "read anew")
    assert len(lists) == 1
    assert len(sockets) == 2
    live(page)


def test_a_server_that_goes_is_come_back_to(
    server: RunningServer, visits: Visits, room: Room
) -> None:
    """After 1011, 1012 and 1013 the page waits a little, and resumes where it was."""
    page, sockets = watched(visits, server)
    for number, code in enumerate((1011, 1012, 1013), 1):
        post(room, f"Post {number}")
        expect(page.locator(".post")).to_have_count(number)
        at = page.locator(".position").get_attribute("title")
        sockets[-1].close(code=code)
        expect(page.locator(".status")).not_to_have_attribute("data-state", "live")
        tell(page, "Connection lost at")
        live(page)
        tell(page, "no posts missed")
        assert at is not None
        assert sockets[number].url.endswith(at.rsplit("?", 1)[1])
    assert len({ws.url for ws in sockets}) == 4  # farther each time


def test_an_event_that_comes_twice_is_heard_once(
    server: RunningServer, visits: Visits, room: Room, somebody: MakeSomebody
) -> None:
    """What is not after the page's position is passed over."""
    _, number = room
    context = visits.context()

    def repeat(ws: WebSocketRoute) -> None:
        def to_page(message: str | bytes) -> None:
            for _ in range(2 if '"offset"' in str(message) and '"topic"' in str(message) else 1):
                ws.send(message)

        ws.connect_to_server().on_message(to_page)

    context.route_web_socket(SOCKETS, repeat)
    page = enter(visits, server, context)
    somebody(server.url, "Lovelace").do("PUT", f"/rooms/{number}/members/me")
    post(room, "Welcome")
    expect(page.locator(".post")).to_have_count(1)
    expect(page.locator(".note")).to_have_text(["Lovelace joined."])


# --- Posts whose answer was lost ------------------------------------------------------------------


class Loss:
    """Sockets of which the first is lost with the first post: the post itself, or its answer."""

    def __init__(self, *, arrives: bool) -> None:
        self.posts: list[dict[str, Any]] = []
        self._arrives = arrives
        self._lost: WebSocketRoute | None = None

    def __call__(self, ws: WebSocketRoute) -> None:
        """Stand between the page and the server."""
        server = ws.connect_to_server()
        ws.on_message(lambda message: self._to_server(ws, server, message))
        server.on_message(lambda message: self._to_page(ws, message))

    def _to_server(self, ws: WebSocketRoute, server: WebSocketRoute, message: str | bytes) -> None:
        frame = json.loads(message)
        if frame["type"] == "post":
            self.posts.append(frame)
            if self._lost is None:
                self._lost = ws
                if not self._arrives:
                    ws.close(code=1011)
                    return
        server.send(message)

    def _to_page(self, ws: WebSocketRoute, message: str | bytes) -> None:
        if ws is self._lost:
            ws.close(code=1011)
        else:
            ws.send(message)


@pytest.fixture
def lossy(server: RunningServer, visits: Visits, room: Room) -> Callable[[Loss], Page]:
    """Ada in Grace's room, over sockets that a test loses."""

    def lose(loss: Loss) -> Page:
        context = visits.context()
        context.route_web_socket(SOCKETS, loss)
        return enter(visits, server, context)

    return lose


@pytest.mark.parametrize("arrives", [True, False])
def test_a_post_is_there_once_whether_it_or_its_answer_was_lost(
    arrives: bool, lossy: Callable[[Loss], Page], room: Room
) -> None:
    """It is sent again with the same key on the next connection, and posted a single time."""
    grace, number = room
    loss = Loss(arrives=arrives)
    page = lossy(loss)
    say(page, "Is it there?")
    expect(page.locator(".post")).to_contain_text("Is it there?")
    expect(page.locator(".pending li")).to_have_count(0)
    live(page)
    assert said(page) == ["Is it there?"]
    assert len(grace.do("GET", f"/rooms/{number}/posts")["items"]) == 1
    first, second = loss.posts
    assert first["key"] == second["key"]


def test_every_post_has_a_key_of_its_own(lossy: Callable[[Loss], Page], room: Room) -> None:
    """The same words twice are two posts."""
    loss = Loss(arrives=True)
    page = lossy(loss)
    for count in (1, 2):
        say(page, "Again.")
        expect(page.locator(".post")).to_have_count(count)
        expect(page.locator(".pending li")).to_have_count(0)
    assert len({frame["key"] for frame in loss.posts}) == 2


def test_a_post_that_is_refused_when_it_is_sent_again_is_told(
    lossy: Callable[[Loss], Page], room: Room
) -> None:
    """Meanwhile the box takes the next post; the text of the refused one goes back into it."""
    grace, number = room
    page = lossy(Loss(arrives=False))
    page.route_web_socket(SOCKETS, lambda ws: ws.close(code=1013))
    say(page, "Too late")
    waiting = page.locator(".pending")
    expect(waiting).to_contain_text("Not confirmed. It is sent again")
    expect(page.get_by_role("button", name="Post", exact=True)).to_be_enabled()
    grace.do("POST", f"/rooms/{number}/archive")
    page.route_web_socket(SOCKETS, connect)
    expect(page.locator("#notices")).to_contain_text("rooms.read_only")
    expect(page.get_by_label("Your post")).to_have_value("Too late")
    expect(waiting.locator("li")).to_have_count(0)


# --- Who is here ----------------------------------------------------------------------------------


def test_who_is_here_is_seen_to_come_and_go(
    server: RunningServer, visits: Visits, room: Room
) -> None:
    """One entry for each person, with their connections where they have several."""
    page = enter(visits, server)
    here = page.locator(".here li")
    expect(here).to_have_text(["Ada (you)"])
    others: list[Page] = []
    for _ in range(2):
        other = visits.open(server.url, context=visits.context())
        if others:
            stored = others[0].evaluate("sessionStorage.getItem('session')")
            other.evaluate("text => sessionStorage.setItem('session', text)", stored)
            other.goto(page.url)
            other.reload()
        else:
            sign_up(other, "Lovelace")
            join_room(other, "Engine")
        live(other)
        others.append(other)
    expect(here).to_have_text(["Ada (you)", "Lovelace2 connections"])
    expect(others[1].locator(".here li")).to_have_text(["Ada", "Lovelace (you)2 connections"])
    others[0].close()
    expect(here).to_have_text(["Ada (you)", "Lovelace"])
    cut(others[1])
    expect(others[1].locator(".here li")).to_have_text(["Unknown without a connection"])
    expect(here).to_have_text(["Ada (you)"])
    reconnect(others[1])
    expect(here).to_have_text(["Ada (you)", "Lovelace"])


def test_of_a_crowd_the_list_is_asked_for(
    server: RunningServer, visits: Visits, room: Room
) -> None:
    """A change that names nobody has the page ask who is here; who is not listed is counted."""
    context = visits.context()

    def as_of_a_crowd(ws: WebSocketRoute) -> None:
        server_side = ws.connect_to_server()

        def to_page(message: str | bytes) -> None:
            frame = json.loads(message)
            if frame["type"] == "presence.changed":
                frame["data"] = {"count": frame["data"]["count"] + 100}
            elif frame["type"] == "presence":
                frame["data"]["count"] += 100
            ws.send(json.dumps(frame))

        server_side.on_message(to_page)

    context.route_web_socket(SOCKETS, as_of_a_crowd)
    page = enter(visits, server, context)
    other = visits.open(server.url, context=visits.context())
    sign_up(other, "Lovelace")
    join_room(other, "Engine")
    crowd = ["Ada (you)", "Lovelace", "and 100 more connections"]
    expect(page.locator(".here li")).to_have_text(crowd)
