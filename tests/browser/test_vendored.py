"""What is vendored is what its publisher released."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "web" / "vendor"


def test_every_vendored_file_has_the_hash_that_is_written_down() -> None:
    """VENDORED.md lists every file of vendor/ with its SHA-256, and no other file is there."""
    written = (VENDOR / "VENDORED.md").read_text()
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", written, re.MULTILINE)
    present = {
        str(file.relative_to(VENDOR)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in VENDOR.rglob("*")
        if file.is_file() and file.name != "VENDORED.md"
    }
    assert present == {name: digest for digest, name in listed}
