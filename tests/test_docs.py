"""The documents: what they point to is there, and what they tell to type exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file that there is."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_commands_exist(document: Path) -> None:
    """Every `make` target, `python -m app` command and script that is named is there."""
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)(?:PORT=\d+ )?make ([a-z-]+)", text, re.MULTILINE)) <= targets
    commands = re.findall(r"-m app ([a-z]+(?: [a-z-]+)?)", text)
    known = {"serve", "db upgrade", "db check", "db revision"}
    known |= {"settings check", "worker", "jobs list", "jobs retry", "jobs drop"}
    known |= {"db backup", "db restore", "db after-restore"}
    known |= {"user promote", "user demote", "user sign-out", "user remove-second-factor"}
    known |= {"keys list", "keys rotate", "keys remove"}
    known |= {"user create", "user disable", "user enable", "user list"}
    assert {c for c in commands if c not in known and c.split()[0] not in known} == set()
    scripts = re.findall(r"scripts/\w+\.py", text)
    assert [script for script in scripts if not (ROOT / script).exists()] == []


def test_the_readme_is_read_in_a_minute_or_two() -> None:
    """About five hundred words, and the routers on the first screen."""
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 610
    assert "app/features/*/rest.py" in "\n".join(text.splitlines()[:40])


@pytest.mark.parametrize(
    "decision", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=lambda path: path.stem
)
def test_a_decision_is_a_page_with_its_alternatives(decision: Path) -> None:
    """About three hundred words, what was decided, what else was possible; and it is listed."""
    text = decision.read_text()
    assert len(text.split()) <= 330
    assert "**Decided:**" in text
    assert "**Alternatives" in text
    assert f"({decision.name})" in (ROOT / "docs/decisions/README.md").read_text()
