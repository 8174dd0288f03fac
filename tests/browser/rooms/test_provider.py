"""A room where a provider knows people."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.conftest import Visits
from tests.browser.providing import beside, log_in, page_of
from tests.browser.rooms.conftest import create_room, join_room, say
from tests.openid import OwnProvider
from tests.server import RunningServer


def test_what_one_says_the_other_reads(new_sqlite: Callable[[], str], visits: Visits) -> None:
    """Two people of the provider, each in a browser of their own."""
    with OwnProvider() as provider, RunningServer(page_of(provider, new_sqlite())) as server:
        one, other = (visits.open(server.url, context=beside(provider, visits)) for _ in range(2))
        log_in(one, "ann")
        create_room(one, "Engine")
        log_in(other, "bob")
        join_room(other, "Engine")
        say(other, "We order it.")
        expect(one.locator(".post")).to_contain_text("We order it.")
