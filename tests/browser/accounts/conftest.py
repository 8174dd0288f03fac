"""Fixtures of the tests that need accounts."""

from collections.abc import Callable, Iterator

import pytest

from tests.browser.accounts.people import Somebody


@pytest.fixture
def somebody() -> Iterator[Callable[[str, str], Somebody]]:
    """Makes a person, from the server's address and a name."""
    made: list[Somebody] = []

    def make(url: str, name: str) -> Somebody:
        made.append(Somebody(url, name))
        return made[-1]

    yield make
    for each in made:
        each.close()
