"""Positions come from one generation of the code; libcst's own provider is what they are measured against."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import libcst as cst
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from esper_audit.semantics.model import Models
from esper_audit.semantics.project import Project
from esper_audit.semantics.tree import descendants, positions

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted(ROOT.glob("auditor/**/*.py")),
    *(path for path in sorted(ROOT.glob("tests/networks/**/*.py")) if "tests" not in path.parent.name),
]
KINDS = (
    cst.Call,
    cst.Name,
    cst.Return,
    cst.Attribute,
    cst.Assign,
    cst.Param,
    cst.ImportAlias,
    cst.Decorator,
    cst.Subscript,
)
Place = tuple[int, int, int, int]

TRICKY = '''"""Text before the first statement."""

import a.b as c, d  # two on a line
from e import (
    f as g,
)

@c.x  # a remark
# and another
@(g)(1)
def outer(one, /, two: int = (3), *three, four="ä", **five):
\t# a tab
\treturn (  (one)[two]  [0] )


class Inner:
    x = y = (outer(1)
             (2))
    @property
    def z(self): return self . x ; pass
'''


def place(found: CodeRange) -> Place:
    """Line and column as this project counts them: both from 1."""
    return found.start.line, found.start.column + 1, found.end.line, found.end.column + 1


def wanted_of(tree: cst.Module) -> list[cst.CSTNode]:
    return [node for node in descendants(tree) if isinstance(node, KINDS)]


def told_by_libcst(tree: cst.Module, nodes: Iterable[cst.CSTNode]) -> dict[cst.CSTNode, Place]:
    ranges = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
    return {node: place(ranges[node]) for node in nodes}


@cache
def truth_about(path: Path) -> tuple[cst.Module, dict[cst.CSTNode, Place]]:
    """The tree of a file and where libcst says that its nodes are, in source order; asked once, for it is slow."""
    tree = cst.parse_module(path.read_text(encoding="utf-8"))
    return tree, told_by_libcst(tree, wanted_of(tree))


def test_there_is_a_node_of_every_kind() -> None:
    tree = cst.parse_module(TRICKY)
    assert {type(node) for node in wanted_of(tree)} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_positions_are_those_of_libcst(path: Path) -> None:
    tree, known = truth_about(path)
    assert positions([(1, tree)], known) == known


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_positions_survive_odd_layout(newline: str) -> None:
    tree = cst.parse_module(TRICKY.replace("\n", newline))
    nodes = wanted_of(tree)
    assert positions([(1, tree)], nodes) == told_by_libcst(tree, nodes)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_cut_into_pieces_keeps_its_positions(path: Path) -> None:
    """Files are parsed statement by statement; each piece knows on which line it begins."""
    module = Models(Project(ROOT)).module(path)
    assert module is not None
    pieces = [(piece.first, piece.tree) for piece in module.pieces]
    cut = [node for _, tree in pieces for node in wanted_of(tree)]
    found = positions(pieces, cut)
    _, known = truth_about(path)
    assert [found[node] for node in cut] == list(known.values())


TREE = cst.parse_module(TRICKY)
NODES = wanted_of(TREE)


@given(st.sets(st.sampled_from(range(len(NODES)))))
def test_a_position_does_not_depend_on_what_else_is_asked(chosen: set[int]) -> None:
    every = positions([(1, TREE)], NODES)
    asked = [NODES[number] for number in sorted(chosen)]
    assert positions([(1, TREE)], asked) == {node: every[node] for node in asked}
