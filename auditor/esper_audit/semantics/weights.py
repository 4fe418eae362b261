"""Which parameter stands at hand where a hidden state is made: one whose dtype and device the state must have.

Only what is certain counts: a recurrent layer that the constructor always makes, once, in a class whose constructor
does not reach the place before the layer is there.
"""

from __future__ import annotations

import re

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.roles import INITIAL_STATE
from esper_audit.semantics.tree import Walk, descendants, find
from esper_audit.semantics.values import Made

# With these, a weight may be something else than the parameter that the layer was made with.
_REBUILDS = (b"weight_norm", b"spectral_norm", b"parametri", b"quantiz", b"setattr(", b"delattr(", b"weight_drop")
_TO_NUMPY = re.compile(rb"(?:hidden|state|hx|h0|c0|carry|memory)\w*[^\n]*(?<!\.cpu\(\))\.numpy\(")


def weight_at_hand(net: NetworkClass, made: Made) -> str:
    """`self.lstm.weight_hh_l0`, spelled for the place of a factory call; empty when nothing is certain there."""
    method = next(
        (each for each in net.model.own_methods.values() if any(node is made.node for node in descendants(each.node))),
        None,
    )
    if method is None or not method.params or {"staticmethod", "classmethod"} & set(method.decorators):
        return ""
    parents = Walk([method.node]).parents
    node: cst.CSTNode = made.node
    while node in parents:
        node = parents[node]
        if isinstance(node, (cst.FunctionDef, cst.ClassDef, cst.Lambda)) and node is not method.node:
            return ""  # another `self` may be meant
    me = method.params[0].name
    if any(isinstance(target.target, cst.Name) and target.target.value == me for target in _targets(method)):
        return ""
    layer = _only_layer(net)
    if not layer or method.name in _reached_by_constructors(net) or _has_heirs(net):
        return ""
    weight = "weight_hh" if net.recurrent[layer] in facts.CELLS else "weight_hh_l0"
    return f"{me}.{layer}.{weight}"


def _targets(method: Function) -> list[cst.AssignTarget]:
    return list(find(method.node, cst.AssignTarget))


def _only_layer(net: NetworkClass) -> str:
    """The one recurrent layer, when the class's own constructor makes it under all circumstances and nobody else."""
    init = net.model.own_methods.get("__init__")
    if init is None or len(net.recurrent) != 1:
        return ""
    if any(
        text in net.project.source(path).data for path in (net.module.path, *net.caller_files) for text in _REBUILDS
    ):
        return ""
    name = next(iter(net.recurrent))
    layer = net.layers.get(name)
    stores = [event for event in net.stores if event.name == name]
    if layer is None or layer.ref[0] not in facts.RECURRENT | facts.CELLS or len(stores) != 1:
        return ""
    always = [small for line in init.node.body.body if isinstance(line, cst.SimpleStatementLine) for small in line.body]
    store = stores[0].node
    if store not in always or any(True for _ in find(init.node, cst.Return)):
        return ""
    return name if isinstance(store, cst.Assign) and isinstance(store.value, cst.Call) else ""


def _reached_by_constructors(net: NetworkClass) -> set[str]:
    """Names of methods that the constructors of the class and its ancestors may call, near or far."""
    reached = {"__init__"}
    queue = [model.own_methods["__init__"] for model in net.model.lineage if "__init__" in model.own_methods]
    while queue:
        for attribute in find(queue.pop().node, cst.Attribute):
            name = attribute.attr.value
            if name not in reached and name in net.model.methods:
                reached.add(name)
                queue.append(net.model.methods[name])
    return reached


def _has_heirs(net: NetworkClass) -> bool:
    """Whether another class of the project is built upon this one: it may make other layers."""
    name = net.name.rsplit(".", 1)[-1]
    files = net.project.files_naming(name)
    if files is None:
        return True
    for path in {*files, net.module.path}:
        index = net.project.index(path)
        for other in index.classes.values() if index else ():
            if any(base.rsplit(".", 1)[-1] == name for base in other.bases):
                return True
    return False


def doubts_about_moving(net: NetworkClass) -> str:
    """Why giving hidden states the dtype and device of the network might change a program that runs; empty: it cannot.

    A state of another dtype or on another device than the layer raises when it is fed to it. What is left are those who
    do something else with a state.
    """
    foreign = net.foreign_bases()
    if foreign:
        return f"`{foreign[0]}`, which was not read, may call this before the layer exists"
    paths = {net.module.path, *net.caller_files}
    for function in net.with_role(INITIAL_STATE):
        files = net.project.files_naming(function.name)
        if files is None:
            return "the project is too large to see who else uses the state"
        paths.update(files)
    if any(net.project.says(path, _TO_NUMPY) for path in paths):
        return "a hidden state is converted to NumPy without `.cpu()`, which fails once it is on another device"
    return ""
