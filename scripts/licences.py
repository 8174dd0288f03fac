"""Writes docs/licences.md from what is locked, or says whether it is as it should be.

    python scripts/licences.py [--check]

Every package of requirements/dev.txt has a row with the licence that its metadata names, and the
licence is one of ALLOWED. The row of a package that is not installed on this system, or that names
none, is written by hand once and stays.
"""

import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "licences.md"

#: What may be used, by its name at SPDX; BSD where the metadata does not say which of them.
ALLOWED = {"0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only",
           "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unlicense"}  # fmt: skip
#: What else metadata calls them.
OTHER_NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
NO_LICENCES = {"OSI Approved", "DFSG approved"}
ROW = re.compile(r"^\| ([a-z0-9.-]+) \| ([^|]+) \| (service|tests) \|$", re.MULTILINE)
HEAD = """# Licences

Written by `make licences` from the metadata of the locked packages; `make check` says when it is
out of date, or names a licence that is not on the list of `scripts/licences.py`. What is vendored
has its licence beside it ([web/vendor](../web/vendor/VENDORED.md)).

| package | licence | of the |
|---|---|---|
"""


def locked(file: str) -> set[str]:
    """The names of the packages that are pinned in a file of requirements/."""
    text = (ROOT / "requirements" / file).read_text()
    return set(re.findall(r"^([a-z0-9][a-z0-9.-]*)==", text, re.MULTILINE))


def licence(name: str) -> str | None:
    """What the package's own metadata names; None where it is not here, or names nothing."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return None
    expression = str((about.get_all("License-Expression") or [""])[0])
    if expression:
        return expression
    classifiers = about.get_all("Classifier") or []
    said = {each.split(" :: ")[-1] for each in classifiers if each.startswith("License :: ")}
    given = str((about.get_all("License") or [""])[0])
    field = OTHER_NAMES.get(given, given)
    if field in ALLOWED:  # it may say more than "BSD License" does
        return field
    names = {OTHER_NAMES.get(each, each) for each in said - NO_LICENCES}
    return " AND ".join(sorted(names)) or None


def is_allowed(expression: str) -> bool:
    """Whether we may use it: one of those to choose from (OR) is allowed, in each part (AND)."""
    choices = expression.split(" OR ")
    return any(all(each in ALLOWED for each in choice.split(" AND ")) for choice in choices)


def rows(written: dict[str, str], names: Iterable[str], service: set[str]) -> list[str]:
    """A row for each package, in the order of their names; SystemExit where one may not be used.

    Args:
        written: the licences that the document has now.
        names: the packages.
        service: those of them that the service is made of.
    """
    made, wrong = [], []
    for name in sorted(names):
        found = licence(name) or written.get(name)
        if found is None:
            wrong.append(f"{name} names no licence here: find it, and write its row by hand")
        elif not is_allowed(found):
            wrong.append(
                f"{name} is under {found}, which is not on the list of {Path(__file__).name}"
            )
        made.append(f"| {name} | {found} | {'service' if name in service else 'tests'} |")
    if wrong:
        raise SystemExit("\n".join(f"licences: {each}." for each in wrong))
    return made


def main(arguments: list[str]) -> int:
    """Write the document, or compare it; the exit code."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    written = {name: under for name, under, _ in ROW.findall(text)}
    new = HEAD + "\n".join(rows(written, locked("dev.txt"), locked("base.txt"))) + "\n"
    if arguments == ["--check"]:
        if new != text:
            print("licences: docs/licences.md is out of date: run make licences.", file=sys.stderr)
        return int(new != text)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
