"""Tables of Markdown, and how far rounds lie apart."""

from collections.abc import Iterable, Sequence
from statistics import median


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """How far the rounds lie from their median, the farthest one, in percent."""
    middle = median(values)
    if len(values) < 2 or not middle:
        return "–"
    return f"±{max(abs(value - middle) for value in values) / middle:.0%}"
