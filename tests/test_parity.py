"""Each registered error is one at every door: provoked there for real, and compared."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import app.main  # noqa: F401 - every error registers itself when it is imported
from app.core.errors import registry
from tests.provoking import Problem, Provocation
from tests.server import RunningServer

TESTS = Path(__file__).parent
CODES = sorted(code for code, error in registry.items() if error.__module__.startswith("app."))
OF_THE_DOOR = {"instance", "request_id"}


def _collected() -> list[Provocation]:
    found = []
    for file in sorted(TESTS.rglob("provocations.py")):
        name = ".".join(file.relative_to(TESTS.parent).with_suffix("").parts)
        found += import_module(name).PROVOCATIONS
    return found


PROVOCATIONS = {provocation.error.code: provocation for provocation in _collected()}


def test_every_error_is_provoked_once_and_nothing_else_is() -> None:
    """The registry and the provocations name the same codes."""
    assert sorted(provocation.error.code for provocation in _collected()) == CODES


@pytest.mark.parametrize("code", CODES)
async def test_an_error_is_the_same_at_every_door(
    code: str, serve: Callable[..., RunningServer]
) -> None:
    """REST, denial, error frame and close tell the same of it; a door that cannot, says why."""
    provocation = PROVOCATIONS[code]
    assert bool(provocation.alone) != bool(provocation.rest and provocation.channel)
    server = serve(*provocation.routers, **provocation.settings)
    plays = [*([provocation.rest] if provocation.rest else []), *provocation.channel]
    problems = [await play(server) for play in plays]
    assert problems, f"nothing provokes {code}"
    for problem in problems:
        assert problem["request_id"]
        own = OF_THE_DOOR | provocation.differ
        assert _without(problem, own) == _without(problems[0], own)
        described = registry[code].describe()
        for member in ("type", "title", "code", "error_code", "retryable"):
            assert problem[member] == described[member]


def _without(problem: Problem, members: set[str] | frozenset[str]) -> Problem:
    shared = {name: value for name, value in problem.items() if name not in members}
    if "errors" in shared:
        # Where it was: in a body at one door, in the data of a frame at the other.
        shared["errors"] = [{**error, "loc": error["loc"][1:]} for error in shared["errors"]]
    return shared
