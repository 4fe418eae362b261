"""Where an initialisation writes one gate's slice of an LSTM's bias, and to which of the two bias vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.tree import Walk, descendants, dotted, find, literal_number

Parents = dict[cst.CSTNode, cst.CSTNode]
_PIECE = re.compile(r"(?:\.(?:chunk4|view4,-1|reshape4,-1)|torch\.chunk[\w.]+,4)(?:,0|,dim=0)?\[([0-3])\]$")
FORGET = 1  # PyTorch stacks input, forget, cell and output gate in this order


@dataclass(frozen=True, slots=True)
class GateBiasWrite:
    """A write to one gate's slice. `bias` is both, ih, hh, or empty where unknown; `value` is None when unknown."""

    node: cst.CSTNode
    bias: str
    value: float | None
    symbol: str
    layer: str = ""  # what stands before `.bias_ih`, to tell two layers apart
    gate: int = FORGET
    adds: bool = False  # to what is there already
    of_bias: bool = True  # the forget slice of anything counts; whether this one is a bias is known for sure
    parameter_name: str = ""  # in a loop over the parameters, the variable that holds the name of the one written to


@once
def gate_bias_writes(net: NetworkClass) -> tuple[tuple[GateBiasWrite, ...], ...]:
    """The writes in the class and in the functions of its file that it names, those of each function together."""
    module = net.module
    used = {node.value for node in descendants(net.model.node) if isinstance(node, cst.Name)}
    helpers = [module.functions[name] for name in module.index.functions if name in used and name in module.functions]
    found = []
    for scope in (*net.model.own_methods.values(), *helpers):
        text = module.code(scope.node)
        if "bias" not in text and "weight" not in text:
            continue
        if re.search(r"bias_hh\w*(\.data)?\.zero_|zeros_\([^()]*bias_hh|constant_\([^()]*bias_hh[^()]*, 0", text):
            continue  # one of the two is set back to zero
        found.append(tuple(_writes_in(module, scope.node, scope.qualified)))
    return tuple(found)


def _writes_in(module: ModuleModel, scope: cst.FunctionDef, symbol: str) -> Iterator[GateBiasWrite]:
    parents = Walk([scope]).parents
    statements: list[cst.Call | cst.Assign | cst.AugAssign]
    statements = [*find(scope, cst.Call), *find(scope, cst.Assign), *find(scope, cst.AugAssign)]
    for node in statements:
        subject, value = _filled(node)
        gate = _gate(module, parents, subject) if isinstance(subject, cst.Subscript) else None
        if gate is not None and isinstance(subject, cst.Subscript):
            bias = _which_bias(module, parents, subject)
            yield GateBiasWrite(
                node,
                bias,
                value,
                symbol,
                layer=re.split(r"\.?bias_", module.code(subject))[0],
                gate=gate,
                adds=isinstance(node, cst.AugAssign) or module.code(node).partition("(")[0].endswith("add_"),
                of_bias=bool(bias) or _is_of_bias(parents, subject),
                parameter_name=_parameter_name(module, parents, subject),
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


def _filled(node: cst.Call | cst.Assign | cst.AugAssign) -> tuple[cst.BaseExpression | None, float | None]:
    """What is filled and with what: `x.fill_(v)`, `init.constant_(x, v)`, `init.ones_(x)`, `x[...] = v`, `+=`."""
    if isinstance(node, cst.Assign):
        target = node.targets[0].target
        return (target if isinstance(target, cst.Subscript) else None), _number(node.value)
    if isinstance(node, cst.AugAssign):
        added = isinstance(node.operator, cst.AddAssign) and isinstance(node.target, cst.Subscript)
        return (node.target if added else None), _number(node.value)
    if not isinstance(node.func, (cst.Attribute, cst.Name)):
        return None, None
    last = node.func.attr.value if isinstance(node.func, cst.Attribute) else node.func.value
    values = [arg.value for arg in node.args]
    if last in ("fill_", "add_") and isinstance(node.func, cst.Attribute) and values:
        return node.func.value, _number(values[0])
    if last == "constant_" and len(values) == 2:
        return values[0], _number(values[1])
    if last == "ones_" and values:
        return values[0], 1.0
    return None, None


def _number(node: cst.BaseExpression) -> float | None:
    return float(literal_number(node)) if isinstance(node, (cst.Integer, cst.Float)) else None


def _gate(module: ModuleModel, parents: Parents, node: cst.Subscript) -> int | None:
    """Which of the four gates a subscript picks: `[n // 4 : n // 2]`, `[h : 2 * h]`, `.chunk(4)[1]` and the like."""
    if len(node.slice) != 1:
        return None
    piece = node.slice[0].slice
    text = _text(module, node)
    if isinstance(piece, cst.Index):
        picked = _PIECE.search(text)
        return int(picked[1]) if picked else None
    if not isinstance(piece, cst.Slice) or piece.step is not None:
        return None
    if isinstance(piece.lower, cst.Integer) and isinstance(piece.upper, cst.Integer):
        low_value, high_value = literal_number(piece.lower), literal_number(piece.upper)
        width = high_value - low_value
        quarter = low_value / width if width > 0 else 0.0
        return int(quarter) if quarter in (1, 2, 3) else None
    texts = [
        {_text(module, bound), _resolved(module, parents, bound)} if bound is not None else {""}
        for bound in (piece.lower, piece.upper)
    ]
    return next((gate for low in texts[0] for high in texts[1] if (gate := _between(low, high)) is not None), None)


def _between(low: str, high: str) -> int | None:
    """The gate between two bounds that are written as quarters of the bias, or as multiples of the hidden size."""
    if high in (f"2*{low}", f"{low}*2") or (low.endswith("//4") and high == f"{low[:-1]}2"):
        return FORGET
    if not low:
        return 0 if re.fullmatch(r"[^*]+//4|([\w.]+[._])?hidden(_size|_dim)?", high) else None
    if low.endswith("//2") and low.removesuffix("//2") == _three_quarters_of(high):
        return 2
    if _three_quarters_of(low) and high in ("", _three_quarters_of(low)):
        return 3
    for gate in (2, 3):
        size = _times(low, gate)
        if size and (_times(high, gate + 1) == size or (gate == 3 and not high)):
            return gate
    return None


def _three_quarters_of(text: str) -> str:
    """`n` in `3*n//4` and its other spellings."""
    match = re.fullmatch(r"3\*(.+)//4|(.+)\*3//4|(.+)//4\*3", text)
    return next(filter(None, match.groups()), "") if match else ""


def _times(text: str, number: int) -> str:
    """What stands beside a number in a product: `h` in `2*h`."""
    match = re.fullmatch(rf"{number}\*([\w.]+)|([\w.]+)\*{number}", text)
    return (match[1] or match[2]) if match else ""


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
    named = {word for word in _asked_for(parents, subject) if "bias_" in word}
    if named:
        both = {bias for bias in ("ih", "hh") for word in named if f"bias_{bias}" in word}
        return both.pop() if len(both) == 1 else "both" if both else ""
    # All loops around the write count: the filter may stand in the header of an outer or inner one.
    words = {node.value.strip("\"'") for node in descendants(loop) if isinstance(node, cst.SimpleString)}
    if any("ih" in word or "hh" in word for word in words if word.startswith(("bias", "_ih", "_hh", "ih", "hh"))):
        return ""
    if any(word.strip("_.").startswith("bias") for word in words):
        return "both"
    # An LSTM has parameters of two kinds only: what is no weight is a bias.
    return "both" if _is_no_weight(parents, subject) else ""


def _asked_for(parents: Parents, node: cst.CSTNode) -> set[str]:
    """The words of the nearest test that the node stands under, if that test says yes to them."""
    parent = parents.get(node)
    while parent is not None and not (isinstance(parent, cst.If) and node is parent.body):
        node, parent = parent, parents.get(parent)
    if parent is None or any(isinstance(part, (cst.Not, cst.NotIn, cst.NotEqual)) for part in _operators(parent.test)):
        return set()
    return {part.value.strip("\"'") for part in descendants(parent.test) if isinstance(part, cst.SimpleString)}


def _operators(test: cst.BaseExpression) -> Iterator[cst.CSTNode]:
    """The operators of a test."""
    for part in descendants(test):
        if isinstance(part, cst.Comparison):
            yield from (target.operator for target in part.comparisons)
        elif isinstance(part, cst.UnaryOperation):
            yield part.operator


def _is_of_bias(parents: Parents, node: cst.CSTNode) -> bool:
    """Whether the test that a write stands under asks for a bias."""
    words = _asked_for(parents, node)
    return any("bias" in word for word in words) and not any("weight" in word for word in words)


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
