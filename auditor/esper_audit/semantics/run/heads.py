"""Containers with something for each head, and how some of it is left out: by slices, filters and loops that end."""

from __future__ import annotations

import libcst as cst

from esper_audit.semantics.depends import everything
from esper_audit.semantics.tree import descendants, find, literal_number
from esper_audit.semantics.values import Val

_OF_A_HEAD = frozenset({"log_prob", "entropy", "logits", "probs"})


def holds_heads(value: Val, depth: int = 0) -> bool:
    """Whether a container holds distributions, or the log-probs, entropies or logits of heads."""
    parts = (*value.elements(), *(value.ref if value.kind == "pairs" and isinstance(value.ref, tuple) else ()))
    return depth < 4 and any(_is_of_a_head(part) or holds_heads(part, depth + 1) for part in parts)


def _is_of_a_head(value: Val) -> bool:
    if value.kind == "dist" or value.roles & _OF_A_HEAD or value.tags & {"logp", "p"}:
        return True
    model = getattr(value.ref, "model", None)
    return value.kind == "instance" and model is not None and model.method("log_prob") is not None


def assigned_names(body: cst.CSTNode) -> dict[str, None]:
    """The variables that a body assigns, in their order."""
    found: dict[str, None] = {}
    for node in find(body, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)):
        for target in descendants(node.target):  # type: ignore[attr-defined]
            if isinstance(target, (cst.Attribute, cst.Subscript)):
                break  # an entry or an attribute: not a variable
            if isinstance(target, cst.Name):
                found[target.value] = None
    return found


def is_read(body: cst.CSTNode, name: str) -> bool:
    """Whether a body mentions a variable more often than it assigns it: its rounds do something with it."""
    others = {id(node.attr) for node in find(body, cst.Attribute)} | {id(arg.keyword) for arg in find(body, cst.Arg)}
    mentioned = sum(node.value == name and id(node) not in others for node in find(body, cst.Name))
    return mentioned > sum(name in assigned_names(target) for target in find(body, (cst.Assign, cst.AnnAssign)))


def leaves_out_rounds(body: cst.BaseSuite) -> bool:
    """Whether some rounds of a loop are left out, whatever the data: a `break` for all, or one by a literal."""
    return any(_ends(statement) or _skips(statement) for statement in body.body)


def _ends(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and any(
        isinstance(small, cst.Break) for small in statement.body
    )


def _skips(statement: cst.CSTNode) -> bool:
    if not isinstance(statement, cst.If) or not compares_with_literal(statement.test):
        return False
    lines = statement.body.body
    leaves = [small for line in lines if isinstance(line, cst.SimpleStatementLine) for small in line.body]
    return len(lines) == len(leaves) == 1 and isinstance(leaves[0], (cst.Break, cst.Continue))


def compares_with_literal(test: cst.BaseExpression) -> bool:
    """`name != "aim"`, `i > 0`: a choice that no data makes."""
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return False
    sides = (test.left, test.comparisons[0].comparator)
    literal = [isinstance(side, (cst.SimpleString, cst.Integer)) for side in sides]
    named = [isinstance(side, cst.Name) and side.value not in ("None", "True", "False") for side in sides]
    return any(literal) and any(named)


def cuts_ends(node: cst.Subscript) -> bool:
    """`x[:-1]`, `x[1:]`: all but some at an end."""
    if len(node.slice) != 1 or not isinstance(node.slice[0].slice, cst.Slice):
        return False
    piece = node.slice[0].slice
    return any(map(_is_bound, (piece.lower, piece.upper)))


def _is_bound(bound: cst.BaseExpression | None) -> bool:
    expression = bound.expression if isinstance(bound, cst.UnaryOperation) else bound
    return isinstance(expression, cst.Integer) and expression.value != "0"


def sliced(container: Val, node: cst.Subscript) -> Val:
    """What a slice leaves of a container: exactly, where its elements and its bounds are known."""
    piece = node.slice[0].slice
    assert isinstance(piece, cst.Slice)
    keys = [key for key, _ in container.items or ()]
    if container.kind == "pairs" or keys == [None]:
        return container
    bounds = [_number(bound) for bound in (piece.lower, piece.upper, piece.step)]
    if container.items is None or keys != list(range(len(keys))) or "?" in bounds:
        return container.but(items=None, deps=everything(container))
    taken = container.elements()[slice(*bounds)]  # type: ignore[arg-type]
    return container.but(items=tuple(enumerate(taken)))


def _number(bound: cst.BaseExpression | None) -> int | str | None:
    """A bound of a slice: none, a literal, or `?`."""
    if bound is None:
        return None
    minus = isinstance(bound, cst.UnaryOperation) and isinstance(bound.operator, cst.Minus)
    literal = bound.expression if isinstance(bound, cst.UnaryOperation) and minus else bound
    if not isinstance(literal, cst.Integer):
        return "?"
    return -int(literal_number(literal)) if minus else int(literal_number(literal))


def takes_one(node: cst.Subscript) -> bool:
    """`x[-1]`: the last one alone."""
    index = node.slice[0].slice if len(node.slice) == 1 else None
    return isinstance(index, cst.Index) and isinstance(index.value, cst.UnaryOperation)


def other_parts_taken(scope: cst.CSTNode, node: cst.Subscript) -> bool:
    """Whether a function takes other parts of the same container, too."""
    return any(other is not node and other.value.deep_equals(node.value) for other in find(scope, cst.Subscript))
