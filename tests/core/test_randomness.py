"""Where chance comes from: what is secret is drawn from the system's generator alone."""

import ast
from pathlib import Path

import app

#: Waits that differ a little, so that many do not come back at once.
NO_SECRET = {"random.uniform"}


def drawn_from_random(file: Path) -> set[str]:
    """What a module uses of `random`, whose numbers can be foretold; by the module's own name."""
    used = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            used |= {f"random.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            used |= {
                f"{n.name} as {n.asname}" for n in node.names if n.name == "random" and n.asname
            }
    return {each for each in used if each.startswith(("random.", "random as "))}


def test_no_secret_can_be_foretold() -> None:
    """All that `random` is asked for is how long to wait."""
    files = Path(app.__file__).parent.rglob("*.py")
    assert set().union(*map(drawn_from_random, files)) == NO_SECRET
