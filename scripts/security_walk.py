"""Holds docs/security.md to its word: what it names as proof is there, and has passed.

    python scripts/security_walk.py [FILE]

Every requirement of the chapters has one row. A row that says "met" names a test, or a heading
where what is asked for is to be written down. Every test named exists; with FILE, which a run with
TESTS_PASSED=FILE has written, it passed there. What went with a feature that was removed is left
out.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "security.md"
#: How many requirements the chapters of ASVS 5.0.0 have.
CHAPTERS = {"4.4": 4, "6": 47, "7": 19, "8": 13, "9": 7}
#: Their first sections ask for documents.
DOCUMENTS = ("6.1.", "7.1.", "8.1.")
#: What may be removed, with its tests.
REMOVABLE = ("accounts", "rooms")

ROW = re.compile(r"^\| \*\*(\d+\.\d+\.\d+)\*\* \| ([123]) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
CASE = re.compile(r"^\| ([^|*][^|]*) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
VERDICT = re.compile(r"\*\*(met|not met|not applicable)\*\*[:;,] (?=\S)")
TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)#([^)]+)\)")
NO_DOOR = "no such door: "


def main(arguments: list[str]) -> int:
    """Print what does not hold; the exit code says whether there is anything."""
    text = DOCUMENT.read_text()
    faults = [*faults_of(text)]
    if arguments:
        passed = set(Path(arguments[0]).read_text().splitlines())
        named = sorted({*TEST.findall(text)})
        faults += [f"did not pass: {t}" for t in named if t not in passed and not went(t)]
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{len(ROW.findall(text))} requirements, {len({*TEST.findall(text)})} tests")
    return bool(faults)


def faults_of(text: str) -> Iterator[str]:
    """What is wrong with the document, without a look at a run."""
    walk, _, cases = text.partition("\n## Bad input")
    rows = ROW.findall(walk)
    yield from _wrong_ids([row[0] for row in rows])
    for number, _, _, answer in rows:
        yield from _wrong_answer(number, answer)
    doors = [row for row in CASE.findall(cases) if row[0] != "case" and set(row[0]) != {"-"}]
    if not doors:
        yield "no case of bad input has a row"
    for case, *answers in doors:
        if any(not TEST.search(each) and not each.startswith(NO_DOOR) for each in answers):
            yield f"{case}: a door has neither a test nor {NO_DOOR!r}"
    for test in sorted({*TEST.findall(text)}):
        if not exists(test) and not went(test):
            yield f"does not exist: {test}"
    for file, heading in LINK.findall(text):
        if heading not in headings((DOCUMENT.parent / file) if file else DOCUMENT):
            yield f"no such heading: {file}#{heading}"


def _wrong_ids(numbers: list[str]) -> Iterator[str]:
    for number, times in Counter(numbers).items():
        if times > 1:
            yield f"{number} has {times} rows"
    for chapter, count in CHAPTERS.items():
        found = sum(number.startswith(f"{chapter}.") for number in set(numbers))
        if found != count:
            yield f"chapter {chapter} has {count} requirements, and {found} rows"
    sections = Counter(number.rpartition(".")[0] for number in set(numbers))
    for section, count in sections.items():
        expected = [f"{section}.{each}" for each in range(1, count + 1)]
        yield from (f"{each} has no row" for each in expected if each not in numbers)


def _wrong_answer(number: str, answer: str) -> Iterator[str]:
    verdict = VERDICT.match(answer)
    if verdict is None:
        yield f"{number}: met, not met or not applicable, and by what or why?"
    elif verdict[1] == "met":
        written = number.startswith(DOCUMENTS) and LINK.search(answer)
        if not written and not TEST.search(answer):
            yield f"{number}: met, and no test is named"


def went(test: str) -> bool:
    """Whether a test went with a feature that was removed."""
    file = Path(test.partition("::")[0])
    removed = {each for each in REMOVABLE if not (ROOT / "app" / "features" / each).exists()}
    return not removed.isdisjoint(file.parts) and not (ROOT / file).exists()


def exists(test: str) -> bool:
    """Whether a file has a test of this name."""
    file, _, name = test.partition("::")
    return (ROOT / file).is_file() and name in _tests(ROOT / file)


@cache
def _tests(file: Path) -> frozenset[str]:
    found = set()
    for node in ast.parse(file.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in (node, *inner):
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add((prefix if each is not node else "") + each.name)
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@cache
def headings(file: Path) -> frozenset[str]:
    """What of a document can be linked to."""
    prose = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
    said = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
