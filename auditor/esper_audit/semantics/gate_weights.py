"""Calls that make a recurrent weight orthogonal as a whole, although it is a stack of one matrix per gate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import Walk, assigned, descendants, dotted, find

GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}
_ALL = frozenset({"named_parameters", "parameters"})
_GATED = re.compile(r"lstm|gru")


@dataclass(frozen=True, slots=True)
class FusedWrite:
    """One call of `orthogonal_`, the function that makes it, and how many gates the weight holds."""

    call: cst.Call
    function: Function
    gates: int


def fused_writes(net: NetworkClass) -> Iterator[FusedWrite]:
    """The calls in the class and in the functions of its file that it names."""
    gated = {attribute: GATES[kind] for attribute, layer in net.recurrent.items() if (kind := _short(layer)) in GATES}
    if not gated or not net.mentions(b"orthogonal_"):
        return
    module = net.module
    used = {node.value for node in descendants(net.model.node) if isinstance(node, cst.Name)}
    helpers = [module.functions[name] for name in module.index.functions if name in used and name in module.functions]
    for function in (*net.model.own_methods.values(), *helpers):
        calls = [call for call in find(function.node, cst.Call) if _is_orthogonal(function, call)]
        search = _Search(function, gated) if calls else None
        for call in calls if search is not None else ():
            gates = search.gates_of(call.args[0].value, call) if search is not None and call.args else 0
            if gates:
                yield FusedWrite(call, function, gates)


def _is_orthogonal(function: Function, call: cst.Call) -> bool:
    return function.module.qualify(dotted(call.func)) == "torch.nn.init.orthogonal_"


class _Search:
    """Where the weights come from that one function fills."""

    def __init__(self, function: Function, gated: dict[str, int]) -> None:
        self.function = function
        self.gated = gated
        self.parents = Walk([function.node]).parents
        self.me = function.first if function.owner is not None else ""

    def gates_of(self, weight: cst.BaseExpression, place: cst.CSTNode, depth: int = 0) -> int:
        """How many gates a whole weight of a recurrent layer holds; 0 where it is no such weight, or it is unknown."""
        if isinstance(weight, cst.Attribute) and weight.attr.value == "data":
            weight = weight.value
        if isinstance(weight, cst.Attribute):
            return self._gates_in(weight.value, place) if weight.attr.value.startswith("weight_hh") else 0
        if isinstance(weight, cst.Call) and dotted(weight.func) == "getattr" and len(weight.args) == 2:
            named = "weight_hh" in self.function.module.code(weight.args[1].value)
            asked = self._may_be_recurrent(place) if isinstance(weight.args[1].value, cst.Name) else False
            return self._gates_in(weight.args[0].value, place) if named or asked else 0
        if not isinstance(weight, cst.Name) or depth > 2:
            return 0
        loop = self._loop_over(weight, place)
        if loop is None:
            given = assigned(self.function.node, weight.value)
            return self.gates_of(given[0], place, depth + 1) if len(given) == 1 else 0
        if isinstance(loop.iter, (cst.Tuple, cst.List)):
            found = {self.gates_of(element.value, place, depth + 1) for element in loop.iter.elements}
            return max(found, default=0)
        over = loop.iter.func if isinstance(loop.iter, cst.Call) else None
        if isinstance(over, cst.Attribute) and over.attr.value in _ALL and self._may_be_recurrent(place):
            return self._gates_in(over.value, place)
        return 0

    def _gates_in(self, owner: cst.BaseExpression, place: cst.CSTNode) -> int:
        """How many gates the layer has that an expression stands for."""
        name = dotted(owner)
        if name.startswith(f"{self.me}.") and self.me:
            return self.gated.get(name.partition(".")[2], 0)
        kinds = set(self.gated.values())
        if not name or len(kinds) > 1:
            return 0
        told = (name != self.me and _GATED.search(name)) or self._is_told(place)
        return kinds.pop() if told else 0

    def _loop_over(self, name: cst.Name, place: cst.CSTNode) -> cst.For | None:
        """The loop around a place that binds a name."""
        parent = self.parents.get(place)
        while parent is not None:
            if isinstance(parent, cst.For) and any(
                isinstance(node, cst.Name) and node.value == name.value for node in descendants(parent.target)
            ):
                return parent
            parent = self.parents.get(parent)
        return None

    def _tests(self, place: cst.CSTNode) -> Iterator[cst.BaseExpression]:
        """The tests that hold at a place, as far as they stand around it."""
        node, parent = place, self.parents.get(place)
        while parent is not None:
            if isinstance(parent, cst.If) and node is parent.body:
                yield parent.test
            node, parent = parent, self.parents.get(parent)

    def _may_be_recurrent(self, place: cst.CSTNode) -> bool:
        """Whether the tests around a place let the weight pass that is applied to the state."""
        words = [
            word.value.strip("\"'")
            for test in self._tests(place)
            for word in descendants(test)
            if isinstance(word, cst.SimpleString)
        ]
        return not any("ih" in word for word in words) or any("hh" in word for word in words)

    def _is_told(self, place: cst.CSTNode) -> bool:
        """Whether a test around a place is about an LSTM or a GRU, or about a weight that only they have."""
        texts = [self.function.module.code(test).lower() for test in self._tests(place)]
        return any(_GATED.search(text) or "weight_hh" in text for text in texts)


def _short(layer: str) -> str:
    return layer.rpartition(".")[2]
