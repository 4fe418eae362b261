"""The repairs that rules about masks share: another constant, and an axis for a mask that lacks one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from esper_audit.rulekit.repair import InsertLines, Repair, Replace
from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import Function, ModuleModel
from esper_audit.semantics.tree import children, dotted, find, literal_number, literal_string

HALF_CONSTANT = "-1e4"  # float16 holds it, and exp of it is 0 in every dtype
_INFINITIES = frozenset({"torch.inf", "math.inf", "numpy.inf"})


def other_constant(event: Event, constant: float | str | None, why: str) -> Repair | None:
    """Mask with -1e4; None where the constant does not stand in the masking step itself, or not just once."""
    found = list(_spelled(event.module, event.node, constant))
    if len(found) != 1:
        return None
    old = event.module.code(found[0])
    return Repair(f"mask with `{HALF_CONSTANT}` instead of `{old}`", (Replace(found[0], HALF_CONSTANT),), why)


def _spelled(module: ModuleModel, node: cst.CSTNode, constant: float | str | None) -> Iterator[cst.BaseExpression]:
    """The outermost expressions below a node that spell the constant."""
    if isinstance(node, cst.BaseExpression) and _value(module, node) == constant:
        yield node
        return
    for child in children(node):
        yield from _spelled(module, child, constant)


def _value(module: ModuleModel, node: cst.BaseExpression) -> float | str | None:
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        return _negated(module, node.expression)
    if isinstance(node, cst.Call):
        word = _word_of_float(node)
        return float(word) if word.strip().lower() in ("-inf", "-infinity") else None
    if isinstance(node, cst.Attribute) and node.attr.value == "min" and isinstance(node.value, cst.Call):
        return "finfo.min" if module.qualify(dotted(node.value.func)) == "torch.finfo" else None
    return None


def _negated(module: ModuleModel, inner: cst.BaseExpression) -> float | None:
    """The value of what stands behind a minus."""
    if isinstance(inner, (cst.Integer, cst.Float)):
        return -float(literal_number(inner))
    if isinstance(inner, cst.Call):
        return float("-inf") if _word_of_float(inner).strip().lower() in ("inf", "infinity") else None
    return float("-inf") if module.qualify(dotted(inner)) in _INFINITIES else None


def _word_of_float(call: cst.Call) -> str:
    """`float("-inf")` as "-inf"."""
    if dotted(call.func) != "float" or len(call.args) != 1:
        return ""
    argument = call.args[0].value
    return (literal_string(argument) or "") if isinstance(argument, cst.SimpleString) else ""


def axis_of_lift(lift: Event) -> int | None:
    """Which axis a lift adds: `mask.unsqueeze(1)`, `mask[:, None]`; None for anything else."""
    text = lift.module.code(lift.node)
    axes = {int(digit) for digit in re.findall(r"\.unsqueeze\((?:dim=)?(\d)\)", text)}
    if re.search(r"\[:, None(, :)?\]", text):
        axes.add(1)
    return axes.pop() if len(axes) == 1 else None


def lifted_in(function: Function, names: Sequence[str], axis: int, rank: int) -> InsertLines | None:
    """A check at the head of a method that gives masks of one rank less an axis; None where that is not certain."""
    body = function.node.body
    if not isinstance(body, cst.IndentedBlock):
        return None
    statements = list(body.body)
    if function.docstring and len(statements) > 1:
        statements = statements[1:]
    lines = []
    for name in names:
        param = function.param(name)
        if param is None or param.kind not in ("positional", "keyword") or _holds_masks(function, name):
            return None
        given = f"{name} is not None and " if param.default is not None else ""
        lines += [f"if {given}{name}.dim() == {rank - 1}:", f"    {name} = {name}.unsqueeze({axis})"]
    return InsertLines(statements[0], "\n".join(lines)) if lines else None


def _holds_masks(function: Function, name: str) -> bool:
    """Whether a parameter is a container of masks and no mask: it is indexed, asked for its items or looped over."""
    body = function.node.body
    loops: list[cst.For | cst.CompFor] = [*find(body, cst.For), *find(body, cst.CompFor)]
    if any(dotted(node.iter) == name for node in loops):
        return True
    if any(dotted(node.value) == name for node in find(body, cst.Subscript)):
        return True
    return any(
        dotted(node.value) == name and node.attr.value in ("items", "values", "get", "keys")
        for node in find(body, cst.Attribute)
    )
