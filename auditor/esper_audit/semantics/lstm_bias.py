"""Where an initialisation writes the forget gate's slice of an LSTM's bias, and to which of the two bias vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import Walk, descendants, dotted, find, literal_number

Parents = dict[cst.CSTNode, cst.CSTNode]


@dataclass(frozen=True, slots=True)
class ForgetBiasWrite:
    """A write to the forget slice. `bias` is both, ih, hh, or empty where unknown; `value` is None when unknown."""

    node: cst.CSTNode
    bias: str
    value: float | None
    symbol: str
    layer: str = ""  # what stands before `.bias_ih`, to tell two layers apart
    parameter_name: str = ""  # in a loop over the parameters, the variable that holds the name of the one written to


def forget_bias_writes(net: NetworkClass, module: ModuleModel) -> Iterator[ForgetBiasWrite]:
    """The writes in the class itself and in the functions of its file that it names."""
    used = {node.value for node in descendants(net.model.node) if isinstance(node, cst.Name)}
    helpers = [module.functions[name] for name in module.index.functions if name in used and name in module.functions]
    for scope in (*net.model.own_methods.values(), *helpers):
        text = module.code(scope.node)
        if re.search(r"bias_hh\w*(\.data)?\.zero_|zeros_\([^()]*bias_hh|constant_\([^()]*bias_hh[^()]*, 0", text):
            continue  # one of the two is set back to zero
        yield from _writes_in(module, scope.node, scope.qualified)


def _writes_in(module: ModuleModel, scope: cst.FunctionDef, symbol: str) -> Iterator[ForgetBiasWrite]:
    parents = Walk([scope]).parents
    for call in find(scope, cst.Call):
        subject, value = _filled(call)
        if isinstance(subject, cst.Subscript) and _is_forget_slice(module, parents, subject):
            yield _write(module, parents, call, subject, value=value, symbol=symbol)
    for assign in find(scope, cst.Assign):
        target = assign.targets[0].target
        if isinstance(target, cst.Subscript) and _is_forget_slice(module, parents, target):
            yield _write(module, parents, assign, target, value=_number(assign.value), symbol=symbol)


def _write(
    module: ModuleModel,
    parents: Parents,
    node: cst.CSTNode,
    subject: cst.Subscript,
    *,
    value: float | None,
    symbol: str,
) -> ForgetBiasWrite:
    return ForgetBiasWrite(
        node,
        _which_bias(module, parents, subject),
        value,
        symbol,
        _layer(module, subject),
        _parameter_name(module, parents, subject),
    )


def _parameter_name(module: ModuleModel, parents: Parents, subject: cst.Subscript) -> str:
    """`name` in `for name, p in lstm.named_parameters()`, or where `getattr(lstm, name)` gets what is written to."""
    loop = _enclosing(parents, subject, cst.For)
    if not isinstance(loop, cst.For):
        return ""
    if isinstance(loop.target, cst.Tuple) and len(loop.target.elements) == 2:
        name, parameter = (dotted(element.value) for element in loop.target.elements)
        over = module.code(loop.iter)
        written = module.code(subject).split(".")[0].split("[")[0]
        return name if over.endswith(".named_parameters()") and written == parameter else ""
    name = dotted(loop.target)
    gets = any(
        dotted(call.func) == "getattr" and len(call.args) == 2 and dotted(call.args[1].value) == name
        for call in find(loop.body, cst.Call)
    )
    return name if gets and name else ""


def _layer(module: ModuleModel, subject: cst.Subscript) -> str:
    return module.code(subject).partition(".bias_")[0]


def _filled(call: cst.Call) -> tuple[cst.BaseExpression | None, float | None]:
    """What a call fills and with what: `x.fill_(v)`, `init.constant_(x, v)`, `init.ones_(x)`."""
    if not isinstance(call.func, (cst.Attribute, cst.Name)):
        return None, None
    last = call.func.attr.value if isinstance(call.func, cst.Attribute) else call.func.value
    values = [arg.value for arg in call.args]
    if last == "fill_" and isinstance(call.func, cst.Attribute) and values:
        return call.func.value, _number(values[0])
    if last == "constant_" and len(values) == 2:
        return values[0], _number(values[1])
    if last == "ones_" and values:
        return values[0], 1.0
    return None, None


def _number(node: cst.BaseExpression) -> float | None:
    return float(literal_number(node)) if isinstance(node, (cst.Integer, cst.Float)) else None


def _is_forget_slice(module: ModuleModel, parents: Parents, node: cst.Subscript) -> bool:
    """`[n // 4 : n // 2]`, `[h : 2 * h]` and their spellings: the second of the four gates."""
    if len(node.slice) != 1:
        return False
    if isinstance(node.slice[0].slice, cst.Index):
        # `bias.chunk(4)[1]`, `bias.view(4, -1)[1]`
        text = _text(module, node)
        return bool(re.search(r"\.(chunk4(,0|,dim=0)?|view4,-1|reshape4,-1)\[1\]$", text))
    if not isinstance(node.slice[0].slice, cst.Slice):
        return False
    piece = node.slice[0].slice
    if piece.lower is None or piece.upper is None:
        return False
    if isinstance(piece.lower, cst.Integer) and isinstance(piece.upper, cst.Integer):
        low_value, high_value = literal_number(piece.lower), literal_number(piece.upper)
        return low_value > 0 and high_value == 2 * low_value
    raw_low, raw_high = _text(module, piece.lower), _text(module, piece.upper)
    if raw_high in (f"2*{raw_low}", f"{raw_low}*2"):
        return True
    low, high = _resolved(module, parents, piece.lower), _resolved(module, parents, piece.upper)
    if low.endswith("//4") and high == low[:-1] + "2":
        return True
    return high in (f"2*{low}", f"{low}*2")


def _resolved(module: ModuleModel, parents: Parents, node: cst.BaseExpression) -> str:
    """The expression's text without spaces; a local name is replaced by what it was assigned in the same function."""
    if isinstance(node, cst.Name):
        scope = _enclosing(parents, node, cst.FunctionDef)
        for assign in find(scope, cst.Assign) if scope is not None else ():
            target = assign.targets[0].target
            if (
                isinstance(target, cst.Name)
                and target.value == node.value
                and isinstance(assign.value, cst.BinaryOperation)
            ):
                return _text(module, assign.value)
            if isinstance(target, cst.Tuple) and isinstance(assign.value, cst.Tuple):
                for left, right in zip(target.elements, assign.value.elements, strict=False):
                    if (
                        isinstance(left.value, cst.Name)
                        and left.value.value == node.value
                        and isinstance(right.value, cst.BinaryOperation)
                    ):
                        return _text(module, right.value)
    return _text(module, node)


def _text(module: ModuleModel, node: cst.CSTNode) -> str:
    return re.sub(r"\s|[()]", "", module.code(node))


def _enclosing(parents: Parents, node: cst.CSTNode, kind: type[cst.CSTNode]) -> cst.CSTNode | None:
    parent = parents.get(node)
    while parent is not None and not isinstance(parent, kind):
        parent = parents.get(parent)
    return parent


def _which_bias(module: ModuleModel, parents: Parents, subject: cst.Subscript) -> str:
    """Which of the two vectors a write reaches, by its own text and the tests around it."""
    text = module.code(subject.value)
    for bias in ("ih", "hh"):
        if f"bias_{bias}" in text:
            return bias
    loop = _enclosing(parents, subject, cst.For)
    if loop is None:
        return ""
    # All loops around the write count: the filter may stand in the header of an outer or inner one.
    words = {node.value.strip("\"'") for node in descendants(loop) if isinstance(node, cst.SimpleString)}
    if any("ih" in word or "hh" in word for word in words if word.startswith(("bias", "_ih", "_hh", "ih", "hh"))):
        return ""
    if any(word.strip("_.").startswith("bias") for word in words):
        return "both"
    # An LSTM has parameters of two kinds only: what is no weight is a bias.
    return "both" if _is_no_weight(parents, subject) else ""


def _is_no_weight(parents: Parents, node: cst.CSTNode) -> bool:
    """Whether `node` stands in the `else` of a test for a name with "weight" in it."""
    parent = parents.get(node)
    while parent is not None:
        if isinstance(parent, cst.If) and node is parent.orelse and isinstance(parent.orelse, cst.Else):
            tested = (
                word.value.strip("\"'") for word in descendants(parent.test) if isinstance(word, cst.SimpleString)
            )
            if any(word.strip("_.").startswith("weight") for word in tested):
                return not any(isinstance(part, cst.Not) for part in descendants(parent.test))
        node, parent = parent, parents.get(parent)
    return False
