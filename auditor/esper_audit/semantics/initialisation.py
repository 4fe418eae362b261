"""What a constructor writes into the weights of its layers, in order, and which of these writes others replace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.model import Function, ModuleModel
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import dotted, find

_WRITERS = frozenset(
    "uniform_ normal_ trunc_normal_ constant_ ones_ zeros_ eye_ dirac_ xavier_uniform_ xavier_normal_ kaiming_uniform_ "
    "kaiming_normal_ orthogonal_ sparse_".split()
)
_SWEEPS = frozenset({"self.named_parameters", "self.parameters", "self.modules", "self.named_modules"})


@dataclass(frozen=True, slots=True)
class WeightWrite:
    """A write that fills weights whole. `target` is `self.head.weight`, or `self.head` for a layer made by a helper."""

    node: cst.CSTNode
    target: str


@dataclass(frozen=True, slots=True)
class LostWrite:
    """A write, and the later one that leaves nothing of it; `sweeps` where that goes over all parameters."""

    first: WeightWrite
    second: cst.CSTNode
    sweeps: bool


def lost_writes(net: NetworkClass) -> Iterator[LostWrite]:
    """The writes of the constructor of which nothing is left when it is done; only what runs in any case counts."""
    init = net.model.own_methods.get("__init__")
    if init is None or init.node is None or not net.mentions(b"init"):
        return
    module = net.module
    standing: dict[str, WeightWrite] = {}
    for statement in _top_level(init):
        sweep = _sweep(statement, module)
        if sweep is not None:
            for target, earlier in list(standing.items()):
                if not target.endswith(".bias"):
                    layer = net.layers.get(target.removeprefix("self.").removesuffix(".weight"))
                    kind = str(layer.ref[0]) if layer is not None and isinstance(layer.ref, tuple) else ""
                    second = sweep.over(f"{target.removeprefix('self.').removesuffix('.weight')}.weight", kind)
                    if second is not None:
                        yield LostWrite(earlier, second, sweeps=True)
                        del standing[target]
            continue
        write = _write(statement, module)
        if write is not None:
            if write.target in standing:
                yield LostWrite(standing[write.target], write.node, sweeps=False)
            standing[write.target] = write
            continue
        read = module.code(statement)
        standing = {target: earlier for target, earlier in standing.items() if target not in read}


def _top_level(function: Function) -> Sequence[cst.CSTNode]:
    found: list[cst.CSTNode] = []
    for statement in function.node.body.body:
        found += statement.body if isinstance(statement, cst.SimpleStatementLine) else [statement]
    return found


def _write(statement: cst.CSTNode, module: ModuleModel) -> WeightWrite | None:
    """`nn.init.orthogonal_(self.head.weight)`, or `self.head = layer_init(nn.Linear(...))`."""
    if isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call):
        call = statement.value
        target = dotted(call.args[0].value) if call.args else ""
        if _fills(call, module) and target.startswith("self.") and target.rsplit(".", 1)[-1] in ("weight", "bias"):
            return WeightWrite(call, target)
    if isinstance(statement, cst.Assign) and isinstance(statement.value, cst.Call):
        target, call = dotted(statement.targets[0].target), statement.value
        if target.startswith("self.") and _is_filling_helper(call, module):
            return WeightWrite(call, target)
    return None


def _fills(call: cst.Call, module: ModuleModel) -> bool:
    home, _, name = module.qualify(dotted(call.func)).rpartition(".")
    return name in _WRITERS and home == "torch.nn.init"


def _is_filling_helper(call: cst.Call, module: ModuleModel) -> bool:
    """Whether a call of a function of the same file gives a layer whose weights that function has filled."""
    name = dotted(call.func)
    if name not in module.index.functions or not call.args or not isinstance(call.args[0].value, cst.Call):
        return False
    function = module.functions[name]
    layer = function.first
    return any(
        _fills(each, module) and each.args and dotted(each.args[0].value) == f"{layer}.weight"
        for each in find(function.node, cst.Call)
    )


@dataclass(frozen=True, slots=True)
class _Sweep:
    """A loop over all parameters, or over all modules, of the network."""

    loop: cst.For
    name: str  # the variable that holds the name, if there is one
    variable: str  # the one that holds the parameter or the module
    module: ModuleModel

    def over(self, target: str, layer: str) -> cst.CSTNode | None:
        """The call that fills the weight `target` of a layer of the given type anew; None where that is not certain."""
        return self._in_block(self.loop.body, target, layer)

    def _in_block(self, block: cst.BaseSuite, target: str, layer: str) -> cst.CSTNode | None:
        for statement in block.body:
            if isinstance(statement, cst.If):
                known = self._holds(statement.test, target, layer)
                branch = statement.body if known else statement.orelse
                while isinstance(branch, cst.If) and known is False:
                    known = self._holds(branch.test, target, layer)
                    branch = branch.body if known else branch.orelse
                if known is None:
                    return None
                body = branch.body if isinstance(branch, cst.Else) else branch
                if isinstance(body, cst.BaseSuite):
                    if any(isinstance(node, cst.Continue) for node in find(body, cst.Continue)):
                        return None
                    found = self._in_block(body, target, layer)
                    if found is not None:
                        return found
                continue
            for call in find(statement, cst.Call):
                filled = dotted(call.args[0].value) if call.args else ""
                if _fills(call, self.module) and filled in (self.variable, f"{self.variable}.weight"):
                    return call
        return None

    def _holds(self, test: cst.BaseExpression, target: str, layer: str) -> bool | None:
        """Whether a test is true of a weight: it may ask for its name, its rank or the type of its layer."""
        if isinstance(test, cst.BooleanOperation):
            sides = [self._holds(side, target, layer) for side in (test.left, test.right)]
            if None in sides:
                return None
            return all(sides) if isinstance(test.operator, cst.And) else any(sides)
        if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
            return self._compares(test, target, layer)
        if isinstance(test, cst.Call) and dotted(test.func) == "isinstance" and len(test.args) == 2:
            return self.module.qualify(dotted(test.args[1].value)) == layer if layer else None
        return None

    def _compares(self, test: cst.Comparison, target: str, layer: str) -> bool | None:
        operator, other = test.comparisons[0].operator, test.comparisons[0].comparator
        if isinstance(operator, cst.In) and isinstance(test.left, cst.SimpleString) and dotted(other) == self.name:
            return str(test.left.evaluated_value) in target
        if layer != "torch.nn.Linear":
            return None  # the rank of its weight is not known
        left = self.module.code(test.left)
        if left in (f"{self.variable}.ndim", f"{self.variable}.dim()", f"len({self.variable}.shape)"):
            bound = self.module.code(other)
            return {">=": {"2": True}, ">": {"1": True}, "<": {"2": False}, "==": {"2": True, "1": False}}.get(
                self.module.code(operator).strip(), {}
            ).get(bound)
        return None


def _sweep(statement: cst.CSTNode, module: ModuleModel) -> _Sweep | None:
    if not isinstance(statement, cst.For) or not isinstance(statement.iter, cst.Call):
        return None
    over = dotted(statement.iter.func)
    if over not in _SWEEPS:
        return None
    target = statement.target
    names = [dotted(e.value) for e in target.elements] if isinstance(target, cst.Tuple) else ["", dotted(target)]
    return _Sweep(statement, names[0], names[-1], module)
