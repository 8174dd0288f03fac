"""docs/security.md: what it names is there, and nobody finds a way in that it does not name."""

import re
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from app.main import create_app
from tests.conftest import settings_for

ROOT = Path(__file__).parent.parent
WALK = run_path(str(ROOT / "scripts" / "security_walk.py"))
TEXT: str = WALK["DOCUMENT"].read_text()
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The service's OpenAPI document, as in production."""
    file = tmp_path_factory.mktemp("walk") / "unused.db"
    return create_app(settings_for(f"sqlite:///{file}", environment="production")).openapi()


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each operation by its method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in schema["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def listed() -> set[str]:
    """The operations of the section "Ways in"."""
    section = TEXT.partition("\n## Ways in\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /\S+)`", section))


def test_what_is_named_exists_and_each_requirement_has_its_row() -> None:
    """What scripts/security_walk.py has to say of the document."""
    assert list(WALK["faults_of"](TEXT)) == []


def without(row: str) -> str:
    """The document without the row of a requirement."""
    return re.sub(rf"^\| \*\*{re.escape(row)}\*\* .*\n", "", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            TEXT.replace("::test_every_door_knows_who_asks`", "::test_every_door_knew`", 1),
            "does not exist: tests/core/test_auth.py::test_every_door_knew",
        ),
        (without("7.2.1"), "chapter 7 has 19 requirements, and 18 rows"),
        (without("7.2.1"), "7.2.1 has no row"),
        (TEXT.replace("| **7.2.1** |", "| **7.2.2** |", 1), "7.2.2 has 2 rows"),
        (
            re.sub(r"(\*\*7\.2\.1\*\* .* \*\*met\*\*): .* \|", r"\1: surely |", TEXT),
            "7.2.1: met, and no test is named",
        ),
        (
            re.sub(r"(\*\*7\.2\.1\*\* .*) \*\*met\*\*: .* \|", r"\1 perhaps |", TEXT),
            "7.2.1: met, not met or not applicable, and by what or why?",
        ),
        (TEXT.replace("](#ways-in)", "](#ways-out)", 1), "no such heading: #ways-out"),
        (
            re.sub(r"^(\| huge ones \| .* \|) .* \|$", r"\1 none |", TEXT, flags=re.MULTILINE),
            "huge ones: a door has neither a test nor 'no such door: '",
        ),
    ],
    ids=range(8),
)
def test_what_is_wrong_with_it_is_said(text: str, said: str) -> None:
    """Each thing that the walk looks for is found."""
    assert text != TEXT
    assert said in list(WALK["faults_of"](text))


def test_a_test_that_did_not_pass_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was renamed, skipped or left out is in no file of those that passed."""
    named = sorted({*WALK["TEST"].findall(TEXT)})
    file = tmp_path / "passed"
    file.write_text("\n".join([*named, "tests/test_other.py::test_other"]))
    assert WALK["main"]([str(file)]) == 0
    there = [test for test in named if WALK["exists"](test)]
    file.write_text("\n".join(test for test in named if test != there[0]))
    assert WALK["main"]([str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"did not pass: {there[0]}"


def test_what_went_with_a_feature_is_left_out() -> None:
    """And nothing else is: not a misspelt folder, nor a test of a feature that is there."""
    went = WALK["went"]
    for removed in WALK["REMOVABLE"]:
        is_there = (ROOT / "app" / "features" / removed).exists()
        assert went(f"tests/features/{removed}/test_x.py::test_x") == (not is_there)
    assert not went("tests/features/roms/test_x.py::test_x")
    assert not went("tests/core/test_x.py::test_x")


def test_what_is_open_to_nobody_in_particular_is_written_down(schema: dict[str, Any]) -> None:
    """Every operation that no credential is asked for stands under "Ways in"."""
    found = operations(schema)
    open_ = {name for name, operation in found.items() if not operation.get("security")}
    assert open_ - listed() == set()
    if (ROOT / "app" / "features" / "accounts").exists():
        assert listed() - open_ == set()


def test_a_password_is_given_for_oneself_alone(schema: dict[str, Any]) -> None:
    """No operation that names somebody in its path takes one."""
    taking = {
        name for name, operation in operations(schema).items() if _takes_password(operation, schema)
    }
    assert {name for name in taking if "{" in name} == set()
    if (ROOT / "app" / "features" / "accounts").exists():
        assert "POST /api/v1/accounts/confirm" in taking
        assert "DELETE /api/v1/accounts/me" in taking


def _takes_password(operation: dict[str, Any], schema: dict[str, Any]) -> bool:
    content = operation.get("requestBody", {}).get("content", {})
    for each in content.values():
        name = each["schema"].get("$ref", "").rpartition("/")[2]
        members = schema["components"]["schemas"].get(name, each["schema"]).get("properties", {})
        if {"password", "new"} & members.keys():
            return True
    return False
