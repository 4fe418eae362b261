"""The gain that a constructor leaves in the last layer of each policy head.

The constructor and what it calls are read in order, as far as they fill weights: by `torch.nn.init`, by helpers around
a layer, by loops over layers and modules, and by `apply`. What is not understood leaves the head unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import Function, ModuleModel
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.tree import descendants, dotted, find, literal_number
from esper_audit.semantics.values import Val

ALL = "*"  # every layer of the network
Subject = frozenset[object]  # attributes of self, calls that make a Linear, or ALL
_NONE: Subject = frozenset()
_WHOLE = frozenset({"modules", "named_modules", "children", "named_children", "parameters", "named_parameters"})
_IN_PLACE = frozenset("normal_ uniform_ mul_ div_ fill_ copy_ zero_ trunc_normal_ clamp_".split())
_ACTIVATIONS = frozenset("relu relu_ elu gelu silu mish leaky_relu selu ReLU ELU GELU SiLU Mish LeakyReLU SELU".split())
_TELLING = ("init", "weight", "reset_parameters")
_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Gain:
    """A number that may be a gain, and where it is written."""

    value: float | None
    node: cst.BaseExpression | None = None
    module: ModuleModel | None = None


@dataclass(frozen=True, slots=True)
class HeadGain:
    """What was last done to a head: `how` is own, shared (with layers that are no policy heads), or default.

    `node` stands in the class wherever that is possible: the call of a helper, else that of `orthogonal_` itself.
    """

    head: str
    how: str
    gain: Gain
    node: cst.CSTNode
    function: Function


@dataclass(slots=True)
class _Scope:
    """One running function: what its names stand for."""

    function: Function
    subjects: dict[str, Subject] = field(default_factory=dict)
    numbers: dict[str, Gain] = field(default_factory=dict)
    site: tuple[cst.Call, Function] | None = None  # of a helper: where the class calls it

    @property
    def me(self) -> str:
        """What the function calls the network."""
        function = self.function
        static = "staticmethod" in function.decorators
        return function.first if function.owner is not None and not static else ""


@once
def head_gains(net: NetworkClass) -> tuple[HeadGain, ...]:
    """What the constructor leaves in each policy head, where that is known and something is orthogonal at all.

    Heads are those that are seen to give the parameters of a distribution; where none is seen, those that are named
    so and whose output goes through no activation.
    """
    init = net.model.method("__init__")
    if init is None or not net.policy_heads or not net.mentions(b"orthogonal"):
        return ()
    reading = _Reading(net)
    reading.run(_Scope(init), 0)
    if not reading.is_orthogonal or reading.vague:
        return ()
    acting = {head.name for head in net.acting_heads}
    activated = frozenset[str]().union(*(_fed(event) for _, event, _ in net.hot_events("call") if _activates(event)))
    return tuple(each for each in reading.known() if (each.head in acting if acting else each.head not in activated))


def _activates(event: Event) -> bool:
    return event.name.rpartition(".")[2] in _ACTIVATIONS


def _fed(event: Event) -> frozenset[str]:
    return event.target.from_layers.union(*(value.from_layers for value in event.args))


class _Reading:
    def __init__(self, net: NetworkClass) -> None:
        self.net = net
        self.last_layers = {head.name: _last_linear(net.layers[head.name]) for head in net.heads}
        self.policy = {head.name for head in net.policy_heads}
        self.left: dict[str, HeadGain | None] = {}
        self.is_orthogonal = False
        self.vague = False
        self.building = ""  # the attribute that is being assigned
        self.init = net.model.method("__init__")

    def known(self) -> tuple[HeadGain, ...]:
        """The policy heads of which it is known what they were left with."""
        found = [self.left.get(name, self._untouched(name)) for name in self.last_layers if name in self.policy]
        return tuple(each for each in found if each is not None)

    def _untouched(self, name: str) -> HeadGain | None:
        made = self.last_layers[name]
        assert self.init is not None  # else nothing was read
        return HeadGain(name, "default", Gain(None), made, self.init) if made is not None else None

    # --- reading -----------------------------------------------------------------------------------------------

    def run(self, scope: _Scope, depth: int) -> None:
        """Read a function."""
        if depth <= _DEPTH:
            self._block(scope.function.node.body.body, scope, depth)

    def _block(self, statements: Sequence[cst.CSTNode], scope: _Scope, depth: int) -> None:
        for statement in statements:
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    self._small(small, scope, depth)
            elif isinstance(statement, cst.If):
                self._branch(statement, scope, depth)
            elif isinstance(statement, cst.For):
                self._loop(statement, scope, depth)
            elif isinstance(statement, (cst.With, cst.Try, cst.While)):
                self._block(statement.body.body, scope, depth)
            else:
                self._small(statement, scope, depth)  # the body stands on the line of its `for`

    def _branch(self, node: cst.If, scope: _Scope, depth: int) -> None:
        """Both sides of a test, less what is only for layers that are no Linear."""
        if any(
            not re.search("weight|bias", word) for word in _words(node.test)
        ) and "init" in scope.function.module.code(node):
            self.vague = True  # it may ask for the name of a layer, or for a setting
        if not _leaves_linear_out(node.test):
            self._block(node.body.body, scope, depth)
        if isinstance(node.orelse, cst.If):
            self._branch(node.orelse, scope, depth)
        elif node.orelse is not None:
            self._block(node.orelse.body.body, scope, depth)

    def _small(self, node: cst.CSTNode, scope: _Scope, depth: int) -> None:
        if isinstance(node, (cst.Assign, cst.AnnAssign)) and node.value is not None:
            target = node.targets[0].target if isinstance(node, cst.Assign) else node.target
            name = dotted(target)
            own, _, attribute = name.partition(".")
            before = self.building
            if own == scope.me and attribute:
                self.building = attribute.partition(".")[0]
                if ".weight" in attribute:
                    self._record(self._subject(target, scope), None, node, scope)
            self._calls(node.value, scope, depth)
            self.building = before
            if isinstance(target, cst.Name):
                scope.subjects[target.value] = self._subject(node.value, scope)
                scope.numbers[target.value] = self._gain(node.value, scope)
        elif isinstance(node, cst.AugAssign):
            if "weight" in scope.function.module.code(node.target):
                self._record(self._subject(node.target, scope), None, node, scope)
        elif isinstance(node, (cst.Expr, cst.Return)) and node.value is not None:
            self._calls(node.value, scope, depth)

    def _loop(self, node: cst.For, scope: _Scope, depth: int) -> None:
        """A loop: once for each pair of a display that gives a gain to each layer, else once for all."""
        rows = self._rows(node.iter, scope)
        names = [dotted(e.value) for e in node.target.elements] if isinstance(node.target, cst.Tuple) else []
        if rows and len(names) == 2:
            for layer, number in rows:
                scope.subjects[names[0]] = self._subject(layer, scope)
                scope.numbers[names[1]] = self._gain(number, scope)
                self._block(node.body.body, scope, depth)
            return
        subject = self._subject(node.iter, scope)
        for name in find(node.target, cst.Name):
            scope.subjects[name.value] = subject
        self._block(node.body.body, scope, depth)

    def _rows(self, node: cst.BaseExpression, scope: _Scope) -> list[tuple[cst.BaseExpression, cst.BaseExpression]]:
        """The rows of `{layer: gain}.items()` and `[(layer, gain)]`, written here or under a name."""
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "items":
            node = node.func.value
        if isinstance(node, cst.Name):
            given = [
                assign.value
                for assign in find(scope.function.node, cst.Assign)
                if dotted(assign.targets[0].target) == node.value
            ]
            node = given[0] if len(given) == 1 else node
        if isinstance(node, cst.Dict):
            return [(each.key, each.value) for each in node.elements if isinstance(each, cst.DictElement)]
        if isinstance(node, (cst.List, cst.Tuple)):
            pairs = [each.value for each in node.elements if isinstance(each.value, cst.Tuple)]
            return [(pair.elements[0].value, pair.elements[1].value) for pair in pairs if len(pair.elements) == 2]
        return []

    # --- calls -------------------------------------------------------------------------------------------------

    def _calls(self, node: cst.CSTNode, scope: _Scope, depth: int) -> None:
        """All calls of an expression, the inner ones first."""
        for call in reversed(list(find(node, cst.Call))):
            self._call(call, scope, depth)

    def _call(self, call: cst.Call, scope: _Scope, depth: int) -> None:
        module = scope.function.module
        name = module.qualify(dotted(call.func))
        method = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        owner = call.func.value if isinstance(call.func, cst.Attribute) else None
        if name.startswith("torch.nn.init."):
            if name.endswith("_") and call.args and _fills_weight(call.args[0].value, module):
                self._record(self._subject(call.args[0].value, scope), self._gain_of(call, name, scope), call, scope)
        elif method == "apply" and owner is not None and call.args:
            self._apply(call, self._subject(owner, scope), scope, depth)
        elif method == "reset_parameters" and owner is not None and self._callee(call, scope) is None:
            self._reset(self._subject(owner, scope), call, scope)
        elif method in _IN_PLACE and owner is not None and "weight" in module.code(owner):
            self._record(self._subject(owner, scope), None, call, scope)
        else:
            function = self._callee(call, scope)
            if function is not None and any(word in function.module.code(function.node) for word in _TELLING):
                self._enter(function, call, scope, depth)

    def _callee(self, call: cst.Call, scope: _Scope) -> Function | None:
        """The function of the project that a call reaches: a method of the network, of its ancestor, or a helper."""
        own, _, method = dotted(call.func).partition(".")
        if own and own == scope.me and method and "." not in method:
            return self.net.model.method(method)
        if isinstance(call.func, cst.Attribute) and scope.function.module.code(call.func.value).startswith("super("):
            lineage, owner = self.net.model.lineage, scope.function.owner
            start = next((i for i, model in enumerate(lineage) if owner is not None and model.node is owner.node), 0)
            name = call.func.attr.value
            return next((m.own_methods[name] for m in lineage[start + 1 :] if name in m.own_methods), None)
        return self._helper(call.func, scope)

    def _helper(self, node: cst.BaseExpression, scope: _Scope) -> Function | None:
        """The function that an expression names: a method, a function, or one inside `partial`."""
        own, _, method = dotted(node).partition(".")
        if own and method and own in (scope.me, self.net.simple_name):
            return self.net.model.method(method)
        if not own or own in scope.subjects:
            return None
        nested = [each for each in find(scope.function.node.body, cst.FunctionDef) if each.name.value == dotted(node)]
        if nested:
            return Function(scope.function.module, nested[0])
        return self.net.interpreter.models.find_function(scope.function.module.lookup(dotted(node)))

    def _enter(self, function: Function, call: cst.Call, scope: _Scope, depth: int, given: Subject = _NONE) -> None:
        """Read a function with what it is given; `given` goes to the first parameter, as `apply` does it."""
        inner = _Scope(function)
        params = [param for param in function.params if param.name != inner.me]
        names = [param.name for param in params if param.kind == "positional"]
        for param in params:
            if param.default is not None:
                inner.numbers[param.name] = Gain(_number(param.default, function.module))
        if function.owner is None:
            inner.site = scope.site or (call, scope.function)
        if given:
            inner.subjects[names[0] if names else ""] = given
            names = []
        positional = [arg for arg in call.args if arg.keyword is None and not arg.star]
        pairs = [*zip(names, positional, strict=False)]
        pairs += [(arg.keyword.value, arg) for arg in call.args if arg.keyword is not None]
        for name, arg in pairs:
            inner.subjects[name] = self._subject(arg.value, scope)
            inner.numbers[name] = self._gain(arg.value, scope)
        self.run(inner, depth + 1)

    def _apply(self, call: cst.Call, subject: Subject, scope: _Scope, depth: int) -> None:
        """`layer.apply(f)`, where f may be a `partial`."""
        given = call.args[0].value
        site = scope.site or (call, scope.function)
        if isinstance(given, cst.Call):
            whole = scope.function.module.qualify(dotted(given.func)) == "functools.partial" and given.args
            function = self._helper(given.args[0].value, scope) if whole else None
            call = given.with_changes(args=given.args[1:]) if whole else given
        else:
            function = self._helper(given, scope)
            call = call.with_changes(args=())
        if function is None:
            self._record(subject, None, site[0], scope)
        elif subject:
            self._enter(function, call, _Scope(scope.function, scope.subjects, scope.numbers, site), depth, subject)

    # --- what is written ---------------------------------------------------------------------------------------

    def _touched(self, subject: Subject) -> set[str]:
        """The heads whose last layer a subject takes in."""
        layers = {
            name
            for name, made in self.last_layers.items()
            if made in subject and (not self.building or self.building == name)
        }
        return (
            set(self.last_layers) if ALL in subject else {name for name in self.last_layers if name in subject} | layers
        )

    def _record(self, subject: Subject, gain: Gain | None, node: cst.CSTNode, scope: _Scope) -> None:
        node, function = scope.site or (node, scope.function)
        self.is_orthogonal |= gain is not None and any(each not in self.net.recurrent for each in subject)
        for name in self._touched(subject):
            known = gain if gain is not None and gain.value is not None else None
            alone = ALL not in subject and all(each in self.policy or not isinstance(each, str) for each in subject)
            how = "own" if alone else "shared"
            self.left[name] = HeadGain(name, how, known, node, function) if known is not None else None

    def _reset(self, subject: Subject, node: cst.Call, scope: _Scope) -> None:
        for name in self._touched(subject):
            self.left[name] = HeadGain(name, "default", Gain(None), node, scope.function)

    def _gain_of(self, call: cst.Call, name: str, scope: _Scope) -> Gain | None:
        """The gain of `orthogonal_`; None for another function."""
        if not name.endswith(".orthogonal_"):
            return None
        given = next((arg.value for arg in call.args if arg.keyword is not None and arg.keyword.value == "gain"), None)
        if given is None and len(call.args) > 1 and call.args[1].keyword is None:
            given = call.args[1].value
        return self._gain(given, scope) if given is not None else Gain(1.0)

    def _gain(self, node: cst.BaseExpression, scope: _Scope) -> Gain:
        module = scope.function.module
        if isinstance(node, cst.Name) and node.value in scope.numbers:
            return scope.numbers[node.value]
        return Gain(_number(node, module), node, module)

    def _holds_heads(self, node: cst.BaseExpression) -> bool:
        """Whether an attribute is a list or dict of heads: what a subscript picks there is a head, no inner layer."""
        layer = self.net.layers.get(dotted(node).rpartition(".")[2])
        made = str(layer.ref[0]) if layer is not None and isinstance(layer.ref, tuple) else ""
        return made.endswith(("ModuleList", "ModuleDict"))

    def _subject(self, node: cst.CSTNode, scope: _Scope) -> Subject:
        """The layers that an expression is about."""
        found: set[object] = set()
        for part in descendants(node):
            if isinstance(part, cst.Subscript) and _picks_inner(part) and not self._holds_heads(part.value):
                return _NONE
            if isinstance(part, cst.Attribute) and isinstance(part.value, cst.Name) and part.value.value == scope.me:
                found.add(ALL if part.attr.value in _WHOLE else part.attr.value)
            elif isinstance(part, cst.Name) and part.value in scope.subjects:
                found |= scope.subjects[part.value]
            elif isinstance(part, cst.Call) and scope.function.module.qualify(dotted(part.func)) == "torch.nn.Linear":
                found.add(part)
        if isinstance(node, cst.Name) and node.value == scope.me:
            found.add(ALL)
        return frozenset(found)


def _last_linear(layer: Val) -> cst.Call | None:
    """The call that makes the last Linear of a head."""
    for part in reversed(layer.elements()) if layer.items else ():
        if part.kind == "layer" and (found := _last_linear(part)) is not None:
            return found
        for inner in reversed(part.elements()) if part.kind in ("list", "tuple", "dict") else ():
            if inner.kind == "layer" and (found := _last_linear(inner)) is not None:
                return found
    made = layer.ref[1] if isinstance(layer.ref, tuple) and layer.ref[0] == "torch.nn.Linear" else None
    return made if isinstance(made, cst.Call) else None


def _fills_weight(node: cst.BaseExpression, module: ModuleModel) -> bool:
    return "bias" not in module.code(node)


def _leaves_linear_out(test: cst.BaseExpression) -> bool:
    """Whether a test only lets through what is no weight of a Linear: other layers, or biases."""
    types = [
        dotted(name).rpartition(".")[2]
        for call in find(test, cst.Call)
        if dotted(call.func) == "isinstance" and len(call.args) == 2
        for name in find(call.args[1].value, (cst.Name, cst.Attribute))
    ]
    if types:
        return "Linear" not in types and "Module" not in types
    words = _words(test)
    return any("bias" in word for word in words) and not any("weight" in word for word in words)


def _words(test: cst.BaseExpression) -> list[str]:
    return [word.value.strip("\"'") for word in find(test, cst.SimpleString)]


def _picks_inner(node: cst.Subscript) -> bool:
    """`[0]` of a Sequential: its last layer is `[-1]`."""
    piece = node.slice[0].slice
    return isinstance(piece, cst.Index) and isinstance(piece.value, cst.Integer) and len(node.slice) == 1


def _number(node: cst.BaseExpression, module: ModuleModel) -> float | None:
    """The value of a gain as people write it: a literal, `sqrt(2)`, `2 ** 0.5`, `calculate_gain("tanh")`."""
    if isinstance(node, (cst.Integer, cst.Float)):
        return float(literal_number(node))
    if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Power):
        sides = [_number(side, module) for side in (node.left, node.right)]
        return sides[0] ** sides[1] if sides[0] is not None and sides[1] is not None else None
    if isinstance(node, cst.Call):
        name = module.qualify(dotted(node.func)).rpartition(".")[2]
        given = node.args[0].value if node.args else None
        if name == "sqrt" and given is not None:
            inner = _number(given, module)
            return math.sqrt(inner) if inner is not None and inner >= 0 else None
        if name == "calculate_gain" and isinstance(given, cst.SimpleString):
            return {"tanh": 5 / 3, "relu": math.sqrt(2)}.get(str(given.evaluated_value), 1.0)
    if isinstance(node, cst.Name) and node.value in module.index.constants:
        found = module.index.constants[node.value]
        value = getattr(found, "value", None)
        return float(value) if isinstance(value, (int, float)) else None
    return None
