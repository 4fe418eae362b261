"""One walk over the meaning-bearing fields of a libcst tree, and positions for the few nodes that need one.

libcst's own visitors rebuild every node, whitespace included; a plain walk that skips whitespace is about thirty times
cheaper. Positions come from one code generation that records only the wanted nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from typing import TypeVar, cast

import libcst as cst
from libcst._nodes.internal import CodegenState

from esper_audit.semantics.project import limited

NodeT = TypeVar("NodeT", bound=cst.CSTNode)

# Fields that carry layout only. Everything else may hold meaning.
_LAYOUT = frozenset(
    "lpar rpar lbracket rbracket lbrace rbrace equal comma semicolon colon dot leading_lines header footer indent "
    "trailing_whitespace lines_after_decorators operator first_line empty_lines last_line newline comment "
    "default_indent default_newline encoding has_trailing_newline asynchronous from_ star_arg star start end "
    "prefix".split()
) - {"star_arg"}


def _meaningful(node_type: type[cst.CSTNode]) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(node_type)
        if field.name not in _LAYOUT and not field.name.startswith("whitespace")
    )


_fields_of: dict[type[cst.CSTNode], tuple[str, ...]] = {}


# libcst's classes are abstract, which makes each `isinstance` dear: the answers are kept by type.
_is_node: dict[type, bool] = {}


def children(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The child nodes that carry meaning, in source order."""
    node_type = type(node)
    names = _fields_of.get(node_type)
    if names is None:
        names = _fields_of[node_type] = _meaningful(node_type)
    for name in names:
        value = getattr(node, name)
        value_type = type(value)
        if value_type is tuple or value_type is list:
            yield from value  # sequences of a node hold nodes only
        else:
            known = _is_node.get(value_type)
            if known is None:
                known = _is_node[value_type] = issubclass(value_type, cst.CSTNode)
            if known:
                yield value


_ASKED_AGAIN = frozenset({cst.FunctionDef, cst.ClassDef, cst.IndentedBlock, cst.Module})


def descendants(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The node and all below it, parents first, in source order."""
    return iter(_below(node)) if type(node) in _ASKED_AGAIN else _walked(node)


@lru_cache(maxsize=4096)
def _below(node: cst.CSTNode) -> tuple[cst.CSTNode, ...]:
    """The same, kept: rules ask again and again for the functions and classes of the network at hand."""
    return tuple(_walked(node))


def _walked(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(children(current))))


def assigned(scope: cst.CSTNode, name: str) -> list[cst.BaseExpression]:
    """What plain assignments below a node give to a name."""
    return [
        assign.value
        for assign in find(scope, cst.Assign)
        for target in assign.targets
        if isinstance(target.target, cst.Name) and target.target.value == name
    ]


_wanted: dict[type | tuple[type, ...], dict[type, bool]] = {}  # for each type that is asked for: which types are it


def find(node: cst.CSTNode, node_type: type[NodeT] | tuple[type[NodeT], ...]) -> Iterator[NodeT]:
    """All descendants of the given type, parents first."""
    wanted = _wanted.get(node_type)
    if wanted is None:
        wanted = _wanted[node_type] = {}
    for descendant in descendants(node):
        descendant_type = type(descendant)
        known = wanted.get(descendant_type)
        if known is None:
            known = wanted[descendant_type] = issubclass(descendant_type, node_type)
        if known:
            yield descendant  # type: ignore[misc]  # that is what `wanted` says


def dotted(node: cst.BaseExpression) -> str:
    """`a.b.c` for names and attribute chains, else an empty string."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return ""
    parts.append(node.value)
    return ".".join(reversed(parts))


def literal_string(node: cst.SimpleString) -> str | None:
    """The value of a string literal, or None for bytes and broken escapes. Plain ones need no evaluation."""
    if "\\" not in node.value and node.value[0] in "'\"":
        return node.raw_value
    try:
        value = node.evaluated_value
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, str) else None


def literal_number(node: cst.Integer | cst.Float) -> int | float:
    """The value of a number literal, without a detour through the compiler."""
    text = node.value.replace("_", "")
    if isinstance(node, cst.Float):
        return float(text)
    return cast("int", limited(int(text, 0))) if text.strip("0") else 0


class Walk:
    """One pass over one or more trees: the parent of every node, and the nodes by type in source order."""

    def __init__(self, roots: Iterable[cst.CSTNode]) -> None:
        self.parents: dict[cst.CSTNode, cst.CSTNode] = {}
        self.buckets: dict[type[cst.CSTNode], list[cst.CSTNode]] = {}
        parents, buckets = self.parents, self.buckets
        stack = list(roots)[::-1]
        while stack:
            node = stack.pop()
            buckets.setdefault(type(node), []).append(node)
            below = list(children(node))
            for child in below:
                parents[child] = node
            stack.extend(reversed(below))

    def of(self, node_type: type[NodeT]) -> list[NodeT]:
        """All nodes of just this type, in source order."""
        return self.buckets.get(node_type, [])  # type: ignore[return-value]  # buckets are keyed by the exact type


class _PositionState(CodegenState):
    """Records where the wanted nodes begin and end while the code is generated."""

    def __init__(self, indent: str, newline: str, wanted: frozenset[cst.CSTNode]) -> None:
        super().__init__(default_indent=indent, default_newline=newline)
        self.wanted = wanted
        self.line = 1
        self.column = 1
        self.found: dict[cst.CSTNode, tuple[int, int, int, int]] = {}
        self._open: list[tuple[cst.CSTNode, int, int]] = []

    def add_indent_tokens(self) -> None:
        for token in self.indent_tokens:
            self.add_token(token)

    def add_token(self, value: str) -> None:
        if "\n" in value or "\r" in value:
            pieces = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            self.line += len(pieces) - 1
            self.column = len(pieces[-1]) + 1
        else:
            self.column += len(value)

    def pop_trailing_newline(self) -> None:
        pass  # nothing is kept, so there is nothing to take back

    @contextmanager
    def record_syntactic_position(
        self,
        node: cst.CSTNode,
        *,
        start_node: cst.CSTNode | None = None,  # noqa: ARG002  # libcst passes it by name
        end_node: cst.CSTNode | None = None,  # noqa: ARG002  # the same
    ) -> Iterator[None]:
        if node not in self.wanted:
            yield
            return
        line, column = self.line, self.column
        yield
        self.found[node] = (line, column, self.line, self.column)

    def before_codegen(self, node: cst.CSTNode) -> None:
        if node in self.wanted:
            self._open.append((node, self.line, self.column))

    def after_codegen(self, node: cst.CSTNode) -> None:
        if node in self.wanted:
            _, line, column = self._open.pop()
            # Nodes that report a syntactic position (without parentheses or leading lines) keep that one.
            self.found.setdefault(node, (line, column, self.line, self.column))


def positions(
    pieces: Iterable[tuple[int, cst.Module]], wanted: Iterable[cst.CSTNode]
) -> dict[cst.CSTNode, tuple[int, int, int, int]]:
    """Line, column, end line and end column (1-based, end exclusive) of each wanted node.

    `pieces` are the parsed parts of one file with the line on which each begins; only those that hold a wanted node are
    generated.
    """
    missing = set(wanted)
    found: dict[cst.CSTNode, tuple[int, int, int, int]] = {}
    for line, tree in pieces:
        held = missing.intersection(descendants(tree))
        if held:
            missing -= held
            state = _PositionState(tree.default_indent, tree.default_newline, frozenset(held))
            state.line = line
            tree._codegen(state)  # noqa: SLF001  # the public `code` property cannot carry a state
            found.update(state.found)
    return found
