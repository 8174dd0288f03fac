"""What somebody does in a room, in the browser."""

from playwright.sync_api import Page, expect

SOCKETS = "**/api/v1/rooms/*/ws?*"


def live(page: Page) -> None:
    expect(page.locator(".status")).to_have_attribute("data-state", "live")


def settled(page: Page) -> None:
    """Live, and nothing is still to come: the members are read last."""
    live(page)
    expect(page.locator(".members li")).not_to_have_count(0)


def create_room(page: Page, name: str) -> str:
    """Create a room in the page and go live in it; its address."""
    page.get_by_label("New room").fill(name)
    page.get_by_label("New room").press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_focused()
    settled(page)
    return page.url


def join_room(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).click()
    page.get_by_role("button", name="Join").click()
    settled(page)


def say(page: Page, text: str) -> None:
    page.get_by_label("Your post").fill(text)
    page.get_by_label("Your post").press("Enter")


def said(page: Page) -> list[str]:
    return page.locator(".posts .post .text").all_inner_texts()
