"""How a rule says what to change: edits in terms of nodes. The auditor turns them into places, as it does for hits."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import libcst as cst

from esper_audit.core.findings import Edit, Fix, Span
from esper_audit.semantics.source import Source

Place = tuple[int, int, int, int]
_SPEAKS = ("noqa", "esper:", "type:", "pragma", "pylint:")  # a comment with these words is for a tool


@dataclass(frozen=True, slots=True)
class _AtNode:
    node: cst.CSTNode

    @property
    def nodes(self) -> tuple[cst.CSTNode, ...]:
        """The nodes whose places are needed."""
        return (self.node,)


@dataclass(frozen=True, slots=True)
class Replace(_AtNode):
    """Other text for a node; parentheses around an expression stay."""

    text: str

    def change(self, place: Place, _: Place, __: Source) -> tuple[Place, str] | None:
        """The place and its new text."""
        return place, self.text


@dataclass(frozen=True, slots=True)
class Insert(_AtNode):
    """Text directly behind a node, or before it."""

    text: str
    before: bool = False

    def change(self, place: Place, _: Place, __: Source) -> tuple[Place, str] | None:
        """An empty place and the text for it."""
        line, column, end_line, end_column = place
        return ((line, column, line, column) if self.before else (end_line, end_column) * 2), self.text


@dataclass(frozen=True, slots=True)
class InsertLines(_AtNode):
    """Statements on lines of their own above a statement and its comments, indented as that is."""

    text: str

    def change(self, place: Place, _: Place, source: Source) -> tuple[Place, str] | None:
        """The empty place above the statement; nothing when it shares its line."""
        line, column = place[:2]
        indent = source.lines[line - 1][: column - 1]
        found = _statement_at(source, line, column)
        if indent.strip() or found is None:
            return None
        above = max((other.end_lineno or 0 for other in found[0] if other.lineno < line), default=0)
        while line - 1 > above and source.lines[line - 2].startswith(f"{indent}#"):
            line -= 1
        return (line, 1, line, 1), "".join(f"{indent}{each}\n" for each in self.text.split("\n"))


@dataclass(frozen=True, slots=True)
class Guard(_AtNode):
    """A simple statement goes under an `if`."""

    test: str

    def change(self, place: Place, _: Place, source: Source) -> tuple[Place, str] | None:
        """The empty place before the statement; nothing when it shares its line."""
        line, column = place[:2]
        found = _statement_at(source, line, column)
        indent = source.lines[line - 1][: column - 1]
        if found is None or indent.strip():
            return None
        tail = source.lines[found[1] - 1][found[2] - 1 :].strip()
        if tail and not tail.startswith("#"):
            return None
        deeper = "\t" if indent.endswith("\t") else "    "
        return (line, column, line, column), f"if {self.test}:\n{indent}{deeper}"


@dataclass(frozen=True, slots=True)
class Delete(_AtNode):
    """A statement goes, with its line when it has the line to itself; the last one of a block becomes `pass`."""

    def change(self, place: Place, _: Place, source: Source) -> tuple[Place, str] | None:
        """The lines or the part of the line; nothing when a comment there speaks to another tool or is shared."""
        line, column = place[:2]
        found = _statement_at(source, line, column)
        if found is None or source.lines[line - 1][: column - 1].strip():
            return None
        block, end_line, end_column = found
        tail = source.lines[end_line - 1][end_column - 1 :].strip()
        if (tail and not tail.startswith("#")) or any(word in tail for word in _SPEAKS):
            return None
        if len(block) == 1:
            return (line, column, end_line, end_column), "pass"
        after = end_line + 1
        if isinstance(self.node, cst.BaseCompoundStatement):  # the empty lines that set it apart go with it
            while after < len(source.lines) and not source.lines[after - 1].strip():
                after += 1
        if after > len(source.lines):
            return (line, 1, end_line, len(source.lines[end_line - 1]) + 1), ""
        return (line, 1, after, 1), ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A member of a list goes, with what separates it from a neighbour on either side."""

    node: cst.CSTNode
    neighbour: cst.CSTNode

    @property
    def nodes(self) -> tuple[cst.CSTNode, ...]:
        """The nodes whose places are needed."""
        return (self.node, self.neighbour)

    def change(self, place: Place, other: Place, source: Source) -> tuple[Place, str] | None:
        """From the node to its neighbour; nothing when a comment stands between them."""
        cut = (*place[:2], *other[:2]) if place < other else (*other[2:], *place[2:])
        lines = source.lines[cut[0] - 1 : cut[2]]
        text = "\n".join(lines)[cut[1] - 1 : len("\n".join(lines)) - len(lines[-1]) + cut[3] - 1]
        spoken = any(word in line for line in lines for word in _SPEAKS)
        return None if "#" in text or spoken else (cut, "")


Change: TypeAlias = Replace | Insert | InsertLines | Guard | Delete | Cut


@dataclass(frozen=True, slots=True)
class Repair:
    """A cure that the tool can apply. Without a `why` it is safe: what the program does provably stays as it is.

    `title` says what is done, as an order; `why` says what changes for those who run the program. All changes lie in
    the file of the hit.
    """

    title: str
    changes: tuple[Change, ...]
    why: str = ""

    def fix(self, source: Source, path: str, place: Callable[[cst.CSTNode], Place | None]) -> Fix | None:
        """The repair with its places; None where one of its changes cannot be made without harm."""
        edits = []
        for change in self.changes:
            places = [place(node) for node in change.nodes]
            found = [each for each in places if each is not None]
            made = change.change(found[0], found[-1], source) if len(found) == len(places) else None
            if made is None:
                return None
            edits.append(Edit(Span(path, *made[0]), made[1]))
        return Fix(self.title, not self.why, tuple(sorted(edits, key=lambda edit: edit.span)), self.why)


def _statement_at(source: Source, line: int, column: int) -> tuple[list[ast.stmt], int, int] | None:
    """The block whose statement begins at a place, and the place where that statement ends."""
    for node in ast.walk(source.ast):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for statement in block:
                if statement.lineno == line and _column(source, line, statement.col_offset) == column:
                    last = statement.end_lineno or line
                    return block, last, _column(source, last, statement.end_col_offset or 0)
    return None


def _column(source: Source, line: int, offset: int) -> int:
    """The 1-based column for an offset of `ast`, which counts bytes of UTF-8."""
    return len(source.lines[line - 1].encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace")) + 1
