"""What the tests of processes share."""

import shutil
from pathlib import Path

import pytest

from tests.process import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what runs."""
    for name in ("app", "alembic", "web"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path
