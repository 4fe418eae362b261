"""Buffers that a checkpoint does not hold although the outputs depend on them, and what the network does to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.model import Function
from esper_audit.semantics.network import HOT_ROLES, NetworkClass
from esper_audit.semantics.roles import names_hidden_state
from esper_audit.semantics.tree import descendants, dotted, find, literal_string

ACCUMULATED, NEUTRAL, FILTERED = "accumulated", "neutral", "filtered"
_IN_PLACE = frozenset("add_ sub_ mul_ div_ lerp_ addcmul_ addcdiv_ maximum_ clamp_ pow_ copy_".split())
_ARITHMETIC = frozenset("add sub mul div true_divide add_ sub_ mul_ div_ lerp addcmul addcdiv pow".split())
_HOOKS = frozenset({"_register_state_dict_hook", "register_state_dict_post_hook"})
_SAVERS = frozenset({"state_dict", "_save_to_state_dict", "get_extra_state"})
_NEUTRAL_FACTORIES = frozenset({"ones", "zeros", "ones_like", "zeros_like", "new_ones", "new_zeros"})
_OPERATORS = (cst.Add, cst.Subtract, cst.Multiply, cst.Divide)


@dataclass(frozen=True, slots=True)
class Unsaved:
    """One buffer or parameter: the place that keeps it out of checkpoints, and why that matters.

    ACCUMULATED is changed by the network itself, and `changed` is where. NEUTRAL starts as ones or zeros, which do
    nothing until somebody changes them. FILTERED is saved by torch and taken out again.
    """

    name: str
    how: str
    node: cst.CSTNode
    function: Function
    flag: cst.Arg | None = None  # `persistent=False`
    changed: tuple[cst.CSTNode, Function] | None = None


def unsaved(net: NetworkClass) -> Iterator[Unsaved]:
    """The buffers of the class itself that checkpoints lack."""
    if net.mentions(b"persistent"):
        yield from _non_persistent(net)
    if net.mentions(b"state_dict"):
        yield from _filtered(net)


def _non_persistent(net: NetworkClass) -> Iterator[Unsaved]:
    for function in net.model.own_methods.values():
        for call in find(function.node, cst.Call):
            flag = _flag(call) if dotted(call.func) == f"{function.first}.register_buffer" and call.args else None
            name = _string(call.args[0].value) if flag is not None else None
            if name is None or names_hidden_state(name) or not _is_computed_with(net, name):
                continue
            changed = _changed(net, name)
            if changed is not None:
                yield Unsaved(name, ACCUMULATED, call, function, flag, changed)
            elif _is_neutral(call):
                yield Unsaved(name, NEUTRAL, call, function, flag)


def _flag(call: cst.Call) -> cst.Arg | None:
    """The argument that says `persistent=False`."""
    positional = [arg for arg in call.args if arg.keyword is None and not arg.star]
    named = [arg for arg in call.args if arg.keyword is not None and arg.keyword.value == "persistent"]
    found = (
        arg for arg in (*named, *positional[2:3]) if isinstance(arg.value, cst.Name) and arg.value.value == "False"
    )
    return next(found, None)


def _is_neutral(call: cst.Call) -> bool:
    """Whether the buffer is made of ones or zeros, written in the call itself."""
    made = call.args[1].value if len(call.args) > 1 else None
    return isinstance(made, cst.Call) and dotted(made.func).rpartition(".")[2] in _NEUTRAL_FACTORIES


def _changed(net: NetworkClass, name: str) -> tuple[cst.CSTNode, Function] | None:
    """Where a method computes the buffer anew from what it was, as averages and counters are; states are not meant."""
    for function in (each for model in net.model.lineage for each in model.own_methods.values()):
        own = f"{function.first}.{name}"
        for call in find(function.node, cst.Call):
            method = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
            if method in _IN_PLACE and isinstance(call.func, cst.Attribute) and _holder(call.func.value) == own:
                from_itself = method != "copy_" or any(_mentions(arg, own) for arg in call.args)
                if from_itself:
                    return call, function
        statements: list[cst.Assign | cst.AugAssign]
        statements = [*find(function.node, cst.Assign), *find(function.node, cst.AugAssign)]
        for node in statements:
            target = node.target if isinstance(node, cst.AugAssign) else node.targets[0].target
            again = isinstance(node, cst.AugAssign) or _mentions(node.value, own)
            if _holder(target) == own and again and not _runs_core(net, node.value):
                return node, function
    return None


def _holder(node: cst.CSTNode) -> str:
    """`self.x` for `self.x`, `self.x.data` and `self.x[...]`."""
    while isinstance(node, cst.Subscript) or (isinstance(node, cst.Attribute) and node.attr.value == "data"):
        node = node.value
    return dotted(node) if isinstance(node, cst.BaseExpression) else ""


def _mentions(node: cst.CSTNode, own: str) -> bool:
    return any(isinstance(part, cst.Attribute) and dotted(part) == own for part in descendants(node))


def _runs_core(net: NetworkClass, node: cst.CSTNode) -> bool:
    """Whether a value comes out of a recurrent layer: what is kept is a state then, of one rollout only."""
    called = {dotted(call.func).partition(".")[2] for call in find(node, cst.Call)}
    return not called.isdisjoint(net.recurrent)


def _is_computed_with(net: NetworkClass, name: str) -> bool:
    """Whether a method on the way of forward, act, evaluate or value adds it to something, or multiplies with it."""
    entered = frozenset[int]().union(*(frame.entered for frame in net.frames(*HOT_ROLES)))
    for function in net.model.methods.values():
        if id(function.node) not in entered:
            continue
        own = f"{function.first}.{name}"
        for node in descendants(function.node):
            if any(_operand(each, own) for each in _operands(node)):
                return True
    return False


def _operands(node: cst.CSTNode) -> tuple[cst.BaseExpression, ...]:
    """What an operator, or the method of a tensor that does the same, computes with."""
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, _OPERATORS):
        return node.left, node.right
    if isinstance(node, cst.AugAssign):
        return (node.value,)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _ARITHMETIC:
        return tuple(arg.value for arg in node.args)
    return ()


def _operand(node: cst.BaseExpression, own: str) -> bool:
    """Whether an operand is the buffer, or a view or a function of it: `self.var[None]`, `(self.var + 1e-5).sqrt()`."""
    if isinstance(node, cst.Subscript):
        return _operand(node.value, own)
    if isinstance(node, cst.BinaryOperation):
        return _operand(node.left, own) or _operand(node.right, own)
    if isinstance(node, cst.UnaryOperation):
        return _operand(node.expression, own)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        inner = node.args[0].value if dotted(node.func.value) == "torch" and node.args else node.func.value
        return _operand(inner, own)
    return dotted(node) == own


def _filtered(net: NetworkClass) -> Iterator[Unsaved]:
    """Names of buffers and parameters that a method for checkpoints, or a hook, takes out."""
    saved = {
        _string(call.args[0].value)
        for function in net.model.methods.values()
        for call in find(function.node, cst.Call)
        if call.func and dotted(call.func) == f"{function.first}.register_buffer" and call.args and _flag(call) is None
    }
    saved |= {name for name, value in net.flow.attributes.items() if "raw_parameter" in value.tags}
    for function, scope in _savers(net):
        for node, text in _taken_out(scope):
            name = text.rpartition(".")[2]
            if name in saved:
                yield Unsaved(name, FILTERED, node, function)


def _savers(net: NetworkClass) -> Iterator[tuple[Function, cst.CSTNode]]:
    """What decides about the contents of a checkpoint: overridden methods, and hooks."""
    for function in net.model.own_methods.values():
        if function.name in _SAVERS:
            yield function, function.node
        for call in find(function.node, cst.Call):
            if not isinstance(call.func, cst.Attribute) or call.func.attr.value not in _HOOKS or not call.args:
                continue
            hook = call.args[0].value
            method = net.model.method(dotted(hook).rpartition(".")[2])
            inner = [each for each in find(function.node.body, cst.FunctionDef) if each.name.value == dotted(hook)]
            if method is not None:
                yield method, method.node
            else:
                yield function, inner[0] if inner else hook


def _taken_out(scope: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, str]]:
    """Names that a function leaves out: `if name != "x"`, `"x" not in name`, `.pop("x")`, `del state["x"]`."""
    for node in descendants(scope):
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            operator, other = node.comparisons[0].operator, node.comparisons[0].comparator
            if isinstance(operator, (cst.NotEqual, cst.NotIn)):
                yield from ((node, text) for side in (node.left, other) for text in _strings(side))
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "pop":
            yield from ((node, text) for arg in node.args[:1] for text in _strings(arg.value))
        elif isinstance(node, cst.Del):
            yield from ((node, text) for text in _strings(node))


def _strings(node: cst.CSTNode) -> list[str]:
    plain = [text for each in find(node, cst.SimpleString) if (text := literal_string(each))]
    return plain + [each.value for each in find(node, cst.FormattedStringText)]


def _string(node: cst.BaseExpression) -> str | None:
    return literal_string(node) if isinstance(node, cst.SimpleString) else None
