"""What a program can find of barriers: axe, on every page, in light and in dark."""

import pytest
from playwright.sync_api import expect

from tests.browser.barriers import barriers
from tests.browser.conftest import Visits
from tests.server import RunningServer

SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@SCHEMES
def test_the_registry_of_errors(scheme: str, server: RunningServer, visits: Visits) -> None:
    """Every error, with its codes."""
    page = visits.open(server.url, "/errors", context=visits.context(color_scheme=scheme))
    expect(page.locator("[id='token_expired']")).to_be_visible()
    assert barriers(page) == []
