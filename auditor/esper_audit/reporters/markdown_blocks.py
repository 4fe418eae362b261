"""Tables and lists of Markdown whose cells are already escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as forges read it. `escape.code_span` and `escape.inline` leave no pipe or line end in a cell."""
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def bullets(items: Iterable[str]) -> str:
    """A tight list."""
    return "\n".join(f"- {item}" for item in items)
