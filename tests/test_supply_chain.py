"""What the service is made of: licences, and what workflows may do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
sys.path.insert(0, str(ROOT / "scripts"))

import licences  # noqa: E402 - a script, found once its folder is on the path


def test_every_locked_package_has_its_licence_written_down() -> None:
    """The document is what `make licences` would write."""
    assert licences.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND PSF-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("Proprietary", False),
        ("", False),
    ],
)
def test_a_licence_is_on_the_list_or_refused(expression: str, allowed: bool) -> None:
    """Of several to choose from one has to be allowed, of several that hold together each."""
    assert licences.is_allowed(expression) is allowed


def test_a_package_without_a_licence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one whose licence is not on the list; a row written by hand is taken."""
    found = {"bare": None, "copyleft": "GPL-3.0-only", "fine": "MIT"}
    monkeypatch.setattr(licences, "licence", found.get)
    with pytest.raises(SystemExit) as refusal:
        licences.rows({}, found, set())
    assert str(refusal.value) == (
        "licences: bare names no licence here: find it, and write its row by hand.\n"
        "licences: copyleft is under GPL-3.0-only, which is not on the list of licences.py."
    )
    del found["copyleft"]
    assert licences.rows({"bare": "ISC"}, found, {"fine"}) == [
        "| bare | ISC | tests |",
        "| fine | MIT | service |",
    ]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_has_few_rights_and_pinned_actions(workflow: Path) -> None:
    """Actions are named by commit, with the version beside it; the token may read, and no more."""
    text = workflow.read_text()
    uses = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert uses
    assert [
        each for each in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", each)
    ] == []
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("permissions:") == 1
    assert text.count("persist-credentials: false") == len(re.findall("actions/checkout@", text))


def test_a_workflow_that_runs_what_strangers_write_is_found(tmp_path: Path) -> None:
    """zizmor is really run by `make check`, and refuses."""
    assert ".venv/bin/zizmor --offline" in (ROOT / "Makefile").read_text()
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    bad = WORKFLOWS[0].read_text().replace("bash .ci/run", "echo ${{ github.event.issue.title }}")
    bad = bad.replace("make advisories", "echo ${{ github.event.issue.title }}")
    (folder / "bad.yml").write_text(bad)
    done = subprocess.run(
        [Path(sys.executable).parent / "zizmor", "--offline", "--no-progress", tmp_path],
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode > 10
    assert "template-injection" in done.stdout
