"""Lists, tuples and dicts on self that hold modules or parameters which torch never hears of.

`nn.Module` registers what is assigned to an attribute; it does not look into Python's own containers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import HOT_ROLES, NetworkClass, names_head
from esper_audit.semantics.tree import dotted, find
from esper_audit.semantics.values import Val

_KINDS = ("list", "tuple", "dict")
_PARAMETER = ("torch.nn.Parameter", "torch.nn.parameter.Parameter")
_SIZES = ("number", "str", "bool", "none")
_REGISTER = frozenset({"add_module", "register_module", "register_parameter", "setattr", "__setattr__"})
_SET_ASIDE = re.compile(r"target|frozen|teacher|expert|old|ref(erence)?(_|$)|ema|prior")
_TAKES_OVER = frozenset({"parameters", "named_parameters", "_apply", "to", "cuda"})
_LOOKS = frozenset(
    {"len", "enumerate", "zip", "range", "reversed", "print", "list", "isinstance", "str", "repr", "sum"}
)
_STATELESS = frozenset(
    "ReLU ReLU6 LeakyReLU ELU SELU CELU GELU SiLU Mish Tanh Sigmoid Softplus Softmax LogSoftmax Softsign Hardtanh "
    "Hardswish Hardsigmoid GLU Identity Flatten Unflatten Dropout Dropout1d Dropout2d Dropout3d AlphaDropout MaxPool1d "
    "MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d "
    "ZeroPad2d ReflectionPad2d ReplicationPad2d Upsample PixelShuffle Fold Unfold CosineSimilarity".split()
)


@dataclass(frozen=True, slots=True)
class PlainContainer:
    """A container whose parts are registered nowhere: where it is put on self, and the method that uses it."""

    name: str
    event: Event
    added: Event | None  # the statement that adds a part later, if any
    user: Function
    parts: str  # what it holds for sure and nothing else: modules, parameters, or neither


def plain_containers(net: NetworkClass) -> Iterator[PlainContainer]:
    """The containers that the constructor fills with parts of its own making and a hot method looks into.

    Silent wherever somebody may have thought of them: handed to another module, registered by name, or asked for their
    parameters by the class or by its callers. A container made with one single module hides it on purpose, unless that
    is a head of the network.
    """
    init = net.flow.init_frame
    if init is None:
        return
    held: dict[str, list[Event]] = {}
    for event, _ in init.walk():
        if event.kind in ("store", "kept") and event.target.ref is net.flow:
            held.setdefault(event.name, []).append(event)
    for name, events in held.items():
        stores = [event for event in events if event.kind == "store"]
        if not stores or any(event.value.kind not in _KINDS for event in stores):
            continue
        parts = [part for event in events for part in event.value.flat()]
        filling = [event for event in events if event.value.items or event.kind == "kept"]
        owned = bool(filling) and all(_makes_parameters(event) for event in filling)
        hidden = not any(is_stateful(net, part) for part in parts) or _hides_one(events, name)
        if hidden and not owned:
            continue
        fresh = owned or _makes_anew(init, filling)
        if not fresh and _registered(net, init) & {_identity(part) for part in parts}:
            continue
        user = _user(net, name)
        if user is not None and not _is_looked_after(net, name):
            added = next((event for event in events if event.kind == "kept"), None)
            modules = all(part.kind == "layer" or "network" in part.tags or part.kind in _KINDS for part in parts)
            kind = "parameters" if owned else "modules" if modules else ""
            yield PlainContainer(name, stores[0], added, user, kind if len(stores) == 1 else "")


def _hides_one(events: list[Event], name: str) -> bool:
    """Whether it is `[module]` and nothing more: the usual way to keep a module out of `parameters()`.

    Nobody keeps an output head of his own away from the optimiser, unless it is a copy that is not to be trained.
    """
    value = getattr(events[0].node, "value", None)
    if len(events) > 1 or not isinstance(value, (cst.List, cst.Tuple)) or len(value.elements) > 1:
        return False
    made_here = isinstance(value.elements[0].value, cst.Call)
    return not made_here or not names_head(name) or bool(_SET_ASIDE.search(name))


def _entries(event: Event) -> list[cst.BaseExpression]:
    """The expressions that a store puts into a container, or that a call adds to one, as far as they are written."""
    node = event.node
    if event.kind == "kept":
        return [arg.value for arg in node.args] if isinstance(node, cst.Call) else []
    value = getattr(node, "value", None)
    if isinstance(value, (cst.List, cst.Tuple)):
        return [element.value for element in value.elements]
    if isinstance(value, cst.Dict):
        return [element.value for element in value.elements]
    if isinstance(value, (cst.ListComp, cst.GeneratorExp)):
        return [value.elt]
    return [value.value] if isinstance(value, cst.DictComp) else []


def _makes_parameters(event: Event) -> bool:
    """Whether all that a statement puts into the container are parameters that it makes."""
    entries = _entries(event)
    return bool(entries) and all(
        isinstance(entry, cst.Call) and event.module.qualify(dotted(entry.func)) in _PARAMETER for entry in entries
    )


def _makes_anew(init: Frame, events: list[Event]) -> bool:
    """Whether all entries are calls that get sizes alone, and so can be nothing that is registered elsewhere."""
    of_sizes = _of_sizes(init)
    entries = [entry for event in events for entry in _entries(event)]
    return bool(entries) and all(entry in of_sizes for entry in entries)


def is_stateful(net: NetworkClass, part: Val) -> bool:
    """Whether a value is a module made here that has parameters for sure."""
    if part.kind == "layer":
        made = isinstance(part.ref, tuple) and part.ref[1] is not None
        if made and part.items is not None:
            return any(is_stateful(net, inner) for inner in part.elements())
        name = str(part.ref[0]).rsplit(".", 1)[-1] if made else ""
        return (
            made and name not in (*_STATELESS, "Sequential", "ModuleList", "ModuleDict") and not name.endswith("Loss")
        )
    if part.kind == "instance" and "network" in part.tags and part.ref is not None:
        model = net.interpreter.models.find_class(part.ref)
        if model is None or model is net.model:
            return False
        flow = net.interpreter.flow(model)
        flow.build()
        return any(
            value.kind == "layer" and isinstance(value.ref, tuple) and value.ref[0].rsplit(".", 1)[-1] not in _STATELESS
            for value in flow.attributes.values()
        )
    return False


def _registered(net: NetworkClass, init: Frame) -> set[object]:
    """What torch hears of: modules that are attributes, alone or inside a module of torch or of the project."""
    found: set[object] = set()
    fresh = _made_by_helpers(net, init)
    for name, value in net.flow.attributes.items():
        if value.kind in ("layer", "instance") and name not in fresh:
            found |= _identities(value)
    for event, _ in init.walk():
        if event.kind == "call" and event.value.kind == "instance" and "network" in event.value.tags:
            for value in (*event.args, *event.kwargs.values()):
                found |= _identities(value)
    return found - {None}


def _made_by_helpers(net: NetworkClass, init: Frame) -> set[str]:
    """The attributes that hold what a call made of sizes alone: no module of a container can have gone into that.

    Two calls of one helper make two layers, although one line in it stands for both.
    """
    of_sizes = _of_sizes(init)
    stores = [event for event, _ in init.walk() if event.kind == "store" and event.target.ref is net.flow]
    others = {event.name for event in stores if getattr(event.node, "value", None) not in of_sizes}
    return {event.name for event in stores} - others


def _of_sizes(init: Frame) -> set[cst.CSTNode]:
    """The calls that get nothing but sizes."""
    return {
        event.node
        for event, _ in init.walk()
        if event.kind == "call" and all(value.kind in _SIZES for value in (*event.args, *event.kwargs.values()))
    }


def _identity(value: Val) -> object:
    if value.kind == "layer" and isinstance(value.ref, tuple):
        return value.ref[1]
    return value.ref if value.kind == "instance" and "network" in value.tags else None


def _identities(value: Val) -> set[object]:
    found = {_identity(value)}
    for inner in value.elements() if value.kind in ("layer", *_KINDS) else ():
        found |= _identities(inner)
    return found


def _hot(net: NetworkClass) -> list[Function]:
    """The methods on the way of forward, act, evaluate or value."""
    entered = frozenset[int]().union(*(frame.entered for frame in net.frames(*HOT_ROLES)))
    return [function for function in net.model.methods.values() if id(function.node) in entered]


def _user(net: NetworkClass, name: str) -> Function | None:
    """A hot method that reads the attribute for more than its length."""
    for function in _hot(net):
        lengths = [call.args[0].value for call in find(function.node, cst.Call) if dotted(call.func) == "len"]
        if any(node not in lengths for node in _reads(function, name)):
            return function
    return None


def _reads(function: Function, name: str) -> Iterator[cst.Attribute]:
    me = function.first
    for node in find(function.node, cst.Attribute):
        if node.attr.value == name and isinstance(node.value, cst.Name) and node.value.value == me:
            yield node


def _initialised(function: Function) -> set[cst.Attribute]:
    """The attributes that stand in calls of `torch.nn.init`, which fill weights and keep nothing."""
    return {
        node
        for call in find(function.node, cst.Call)
        if function.module.qualify(dotted(call.func)).startswith("torch.nn.init.")
        for node in find(call, cst.Attribute)
    }


def _is_looked_after(net: NetworkClass, name: str) -> bool:
    """Whether somebody may register, collect or move what the container holds."""
    if _TAKES_OVER & net.model.methods.keys():
        return True
    hot = {id(function.node) for function in _hot(net)}
    for function in (each for model in net.model.lineage for each in model.own_methods.values()):
        reads = set(_reads(function, name)) - _initialised(function)
        for call in find(function.node, cst.Call):
            called = call.func.attr.value if isinstance(call.func, cst.Attribute) else dotted(call.func)
            owner = dotted(call.func.value) if isinstance(call.func, cst.Attribute) else ""
            of_another = owner.startswith("self.") and owner != f"self.{name}"
            if called in _REGISTER or (reads and called in _TAKES_OVER and not of_another):
                return True
            handed = not reads.isdisjoint(node for arg in call.args for node in find(arg, cst.Attribute))
            if handed and called not in _LOOKS and id(function.node) not in hot:
                return True
    return net.is_read_outside(name)
