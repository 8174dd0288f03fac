"""The front page, the registry of errors and Swagger UI, in a real browser."""

import httpx2
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visits, low_contrast
from tests.server import RunningServer


def test_the_registry_of_errors_is_a_page(server: RunningServer, visits: Visits) -> None:
    """/errors shows every entry that its JSON has, and finds one by a word."""
    page = visits.open(server.url, "/errors")
    with httpx2.Client(base_url=server.url, timeout=20) as client:
        errors = client.get("/errors").json()["errors"]
    rows = page.locator("#errors tr")
    expect(rows).to_have_count(len(errors))
    for error in errors:
        row = page.locator(f"[id='{error['code']}']")
        for value in (error["title"], error["status"], error["close_code"]):
            expect(row).to_contain_text(str(value))
    page.get_by_label("Filter").fill("token expired")
    expect(page.locator("#count")).to_have_text(f"1 of {len(errors)} errors")
    expect(rows.filter(visible=True)).to_have_attribute("id", "token_expired")


@pytest.mark.parametrize("path", ["/errors/token_expired", "/errors#token_expired"])
def test_the_type_of_an_error_leads_to_its_entry(
    path: str, server: RunningServer, visits: Visits
) -> None:
    """What a problem names as its `type` opens in a browser, with the entry in sight."""
    page = visits.open(server.url, path)
    entry = page.locator("[id='token_expired']")
    expect(entry).to_have_class("target")
    expect(entry).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/errors"])
def test_every_text_can_be_read(
    path: str, scheme: str, server: RunningServer, visits: Visits
) -> None:
    """In light and in dark, every text has the contrast of WCAG AA, and the two differ."""
    page = visits.open(server.url, path, context=visits.context(color_scheme=scheme))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if path == "/":
        expect(page.locator("#sign-in > *").first).to_be_visible()
    else:
        expect(page.locator("#errors tr").first).to_be_visible()
    assert low_contrast(page) == []
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(19, 22, 21)") is (scheme == "dark")


@pytest.mark.parametrize("path", ["/", "/errors", "/docs"])
def test_nothing_is_wider_than_a_small_phone(
    path: str, server: RunningServer, visits: Visits
) -> None:
    """At 320 pixels no page scrolls sideways."""
    small = visits.context(viewport={"width": 320, "height": 640})
    page = visits.open(server.url, path, context=small)
    page.locator("#sign-in > *, #errors tr, .opblock").filter(visible=True).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
