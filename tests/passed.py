"""Which tests passed, in a file: scripts/security_walk.py holds docs/security.md to it."""

import os
from pathlib import Path

import pytest


class Passed:
    """Appends the ids of the tests that passed, one a line, each once and without parameters.

    A test that was skipped or failed for one of its parameters has not passed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._called: set[str] = set()
        self._wrong: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test."""
        test = report.nodeid.partition("[")[0]
        if report.outcome != "passed":
            self._wrong.add(test)
        elif report.when == "call":
            self._called.add(test)

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        passed = sorted(self._called - self._wrong)
        with self._file.open("a") as file:
            file.writelines(f"{test}\n" for test in passed)


def record(config: pytest.Config) -> None:
    """Have them recorded where TESTS_PASSED names a file; with xdist where all reports come to."""
    if (file := os.environ.get("TESTS_PASSED")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Passed(Path(file)))
