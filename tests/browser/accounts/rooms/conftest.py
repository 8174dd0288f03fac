"""People with accounts in a room: in the browser, and without one."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.accounts.people import Somebody, sign_up
from tests.browser.conftest import Visits
from tests.browser.rooms.conftest import join_room
from tests.server import RunningServer

Serve = Callable[..., RunningServer]
MakeSomebody = Callable[[str, str], Somebody]


@pytest.fixture
def room(server: RunningServer, somebody: MakeSomebody) -> tuple[Somebody, int]:
    """Grace, who is not at a browser, and a room of hers."""
    grace = somebody(server.url, "Grace")
    number: int = grace.do("POST", "/rooms", json={"name": "Engine"})["id"]
    return grace, number


def enter(
    visits: Visits, server: RunningServer, context: BrowserContext | None = None, **options: Any
) -> Page:
    """Ada, in a browser, live in Grace's room."""
    page = visits.open(server.url, context=context or visits.context(**options))
    sign_up(page, "Ada")
    join_room(page, "Engine")
    return page
