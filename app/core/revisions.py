"""Which migrations this code needs, and whether a database has them."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Revisions:
    """The migrations of this code: the newest of each part, and all that it knows."""

    newest: frozenset[str]
    known: frozenset[str]

    def missing(self, applied: Collection[str]) -> list[str]:
        """What this code needs and a database with `applied` lacks, sorted.

        A revision that this code does not know is of newer code, which has run what came before:
        in a rolling upgrade the database goes first, and older processes go on.
        """
        newer = {part_of(revision) for revision in applied if revision not in self.known}
        lacking = self.newest - set(applied)
        return sorted(revision for revision in lacking if part_of(revision) not in newer)


@cache
def revisions() -> Revisions:
    """The migrations in `alembic/versions`."""
    scripts = ScriptDirectory.from_config(Config(toml_file=str(ROOT / "pyproject.toml")))
    known = frozenset(each.revision for each in scripts.walk_revisions())
    return Revisions(frozenset(scripts.get_heads()), known)


def part_of(revision: str) -> str:
    """The part of the service that a revision is about: `rooms` of `rooms_0001`."""
    return revision.rsplit("_", 1)[0]
