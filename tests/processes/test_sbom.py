"""`make sbom`: the bill of materials is what is locked."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.process import ROOT

PINNED = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ ]+)", re.MULTILINE)


def test_the_bill_of_materials_is_the_lock(tmp_path: Path) -> None:
    """`make sbom` lists each locked package once, with its version and its hashes."""
    recipe = re.search(r"^sbom:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    line = recipe[1].replace("\\\n", " ").strip().removeprefix("@")
    line = line.replace("$(VENV)", sys.executable).replace("$(SBOM)", str(tmp_path / "sbom.json"))
    subprocess.run(line.split(), cwd=ROOT, check=True, timeout=150)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "duplex"
    listed = [(each["name"], each["version"]) for each in bill["components"]]
    assert sorted(listed) == sorted(
        PINNED.findall((ROOT / "requirements" / "base.txt").read_text())
    )
    for each in bill["components"]:
        assert each["externalReferences"][0]["hashes"], each["name"]
