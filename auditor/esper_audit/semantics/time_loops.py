"""Loops that run a recurrent layer step by step although one call for the whole sequence would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import descendants, dotted, find


@dataclass(frozen=True, slots=True)
class TimeLoop:
    """A loop over time, and the recurrent call in it."""

    loop: cst.For
    call: Event


def time_loops(net: NetworkClass) -> Iterator[TimeLoop]:
    """Loops in hot methods whose steps differ in nothing but their input, each once.

    The state goes from step to step untouched, and no input depends on an earlier output: nothing is reset, detached,
    normalised or fed back in between. Loops of a literal length are left out, and whatever is not plain.
    """
    if not net.recurrent:
        return
    seen: set[cst.CSTNode] = set()
    for _, event, _ in net.hot_events("call"):
        if event.callee != "layer" or event.name not in facts.RECURRENT | facts.CELLS:
            continue
        loop = _loop_around(event)
        if loop is not None and loop not in seen and _is_plain(loop, event):
            seen.add(loop)
            yield TimeLoop(loop, event)


def _loop_around(event: Event) -> cst.For | None:
    """The innermost loop that an event stands in."""
    loops = [loop for loop in find(event.function.node, cst.For) if event.node in set(descendants(loop.body))]
    return loops[-1] if loops else None


def _is_plain(loop: cst.For, event: Event) -> bool:
    call = event.node
    assert isinstance(call, cst.Call)
    if len(call.args) != 2 or call.args[0].star or _of_literal_length(loop):
        return False
    if any(
        _leaves(node) or (isinstance(node, cst.If) and call in set(descendants(node))) for node in descendants(loop)
    ):
        return False  # some steps are left out, or differ
    steps = _names(loop.target)
    state = _plain_names(call.args[1].value)
    if not state or _names(call.func) & steps:
        return False  # the layer itself changes with the loop: that is a loop over layers
    writes = list(_writes(loop.body))
    results = _dependent(writes, _bound_to(writes, call))
    inputs = _names(call.args[0].value)
    of_step = inputs & _dependent(writes, steps)
    return bool(of_step) and not inputs & results and state <= results and not _touched(loop, writes, state, call)


def _leaves(node: cst.CSTNode) -> bool:
    return isinstance(node, (cst.Break, cst.Continue, cst.Return))


def _of_literal_length(loop: cst.For) -> bool:
    call = loop.iter
    return isinstance(call, cst.Call) and dotted(call.func) == "range" and isinstance(call.args[-1].value, cst.Integer)


def _names(node: cst.CSTNode) -> frozenset[str]:
    return frozenset(name.value for name in find(node, cst.Name))


def _plain_names(node: cst.BaseExpression) -> frozenset[str]:
    """The names of `h` and `(h, c)`; nothing for any other expression."""
    parts = [element.value for element in node.elements] if isinstance(node, (cst.Tuple, cst.List)) else [node]
    return _names(node) if all(isinstance(part, cst.Name) for part in parts) else frozenset()


def _writes(body: cst.CSTNode) -> Iterator[tuple[frozenset[str], cst.CSTNode, bool]]:
    """The names that each assignment writes, what it writes, and whether it replaces them as a whole."""
    for node in descendants(body):
        if isinstance(node, cst.Assign):
            targets = [target.target for target in node.targets]
            whole = all(isinstance(target, (cst.Name, cst.Tuple, cst.List)) for target in targets)
            yield frozenset().union(*map(_names, targets)), node.value, whole
        elif isinstance(node, (cst.AugAssign, cst.AnnAssign)) and node.value is not None:
            yield _names(node.target), node.value, False
        elif isinstance(node, (cst.For, cst.NamedExpr)):
            yield _names(node.target), node.iter if isinstance(node, cst.For) else node.value, False


_Writes = list[tuple[frozenset[str], cst.CSTNode, bool]]


def _bound_to(writes: _Writes, call: cst.Call) -> frozenset[str]:
    """The names that take what a call gives."""
    found: frozenset[str] = frozenset()
    for names, value, _ in writes:
        if any(node is call for node in descendants(value)):
            found |= names
    return found


def _dependent(writes: _Writes, names: frozenset[str]) -> frozenset[str]:
    """The names, and all that is written from them in the loop."""
    while True:
        more = names.union(*(written for written, value, _ in writes if _names(value) & names))
        if more == names:
            return names
        names = more


def _touched(loop: cst.For, writes: _Writes, state: frozenset[str], call: cst.Call) -> bool:
    """Whether anything but the call, and packing and unpacking its result, changes the state inside the loop."""
    group = set(state)
    for _ in writes:  # `hidden = (h, c)`: those names are the state, too
        for names, value, whole in writes:
            if names & group and whole and isinstance(value, (cst.Name, cst.Tuple)):
                group |= _names(value)
    for names, value, whole in writes:
        called = value is call or (isinstance(value, cst.Subscript) and value.value is call)
        if names & group and not (whole and (called or _plain_names_or_none(value))):
            return True
    return any(
        isinstance(inner.func, cst.Attribute) and _root(inner.func) in group and inner.func.attr.value.endswith("_")
        for inner in find(loop.body, cst.Call)
    )


def _plain_names_or_none(value: cst.CSTNode) -> bool:
    return isinstance(value, (cst.Name, cst.Tuple)) and bool(_plain_names(value))


def _root(node: cst.BaseExpression) -> str:
    while isinstance(node, (cst.Attribute, cst.Subscript, cst.Call)):
        node = node.func if isinstance(node, cst.Call) else node.value
    return node.value if isinstance(node, cst.Name) else ""
