"""The page of the rooms example: talking, what is refused, and how it looks."""

import pytest
from playwright.sync_api import Route, WebSocketRoute, expect

from tests.browser.accounts.people import Somebody, sign_up
from tests.browser.accounts.rooms.conftest import enter
from tests.browser.conftest import Visits, low_contrast
from tests.browser.rooms.conftest import SOCKETS, create_room, join_room, live, said, say
from tests.server import RunningServer

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


def test_the_focus_stays_with_who_writes_already(server: RunningServer, visits: Visits) -> None:
    """A page that is still asking who is signed in takes no field's focus away."""
    page = visits.open(server.url)
    sign_up(page, "Ada")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/v1/me", hold)
    with page.expect_request("**/api/v1/me"):
        page.goto(server.url)
    page.get_by_label("New room").focus()
    with page.expect_response("**/api/v1/me"):
        held[0].continue_()
    expect(page.locator("#user-name")).to_have_text("Ada")
    page.keyboard.type("Engine")
    expect(page.get_by_label("New room")).to_have_value("Engine")


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
    page = visits.open(server.url)
    sign_up(page, "Ada")
    page.goto(f"{server.url}/#rooms/999")
    expect(page.locator("#notices .problem")).to_contain_text("rooms.not_found")


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
