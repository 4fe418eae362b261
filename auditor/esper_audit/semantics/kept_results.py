"""Results that a method on the way of the gradient leaves on self, with the graph that they came out of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.depends import bare, held, with_gradient
from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import HOT_ROLES, NetworkClass
from esper_audit.semantics.outputs import sources_of
from esper_audit.semantics.plain_containers import is_stateful
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.tree import find
from esper_audit.semantics.values import UNKNOWN, Val


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """One attribute that is left with a graph: where it is stored, and whether anybody reads it.

    `used` is true where another method of the class than the one that stores it reads the attribute.
    """

    event: Event
    used: bool


def kept_graphs(net: NetworkClass) -> Iterator[KeptGraph]:
    """The attributes whose last store in a hot method surely holds a tensor with a graph, each statement once."""
    seen: set[cst.CSTNode] = set()
    for frame in net.frames(*HOT_ROLES):
        last: dict[str, Event] = {}
        for event, _ in frame.walk():
            if event.kind == "store" and event.target.ref is net.flow:
                last[event.name] = event
        for name, event in last.items():
            if event.node not in seen and not event.contexts & GRADIENT_FREE and _has_graph(net, event.value):
                seen.add(event.node)
                yield KeptGraph(event, _is_used(net, name, event))


def _has_graph(net: NetworkClass, value: Val) -> bool:
    """Whether a gradient surely flows back to a layer or parameter from a tensor inside a value."""
    for leaf in _tensors(value):
        sources = sources_of(net, leaf)
        trained = {atom[1:] for atom in bare(with_gradient(sources)) if atom.startswith("@")}
        if "?" not in bare(sources) and any(_learns(net, net.flow.attributes.get(name, UNKNOWN)) for name in trained):
            return True
    return False


def _learns(net: NetworkClass, value: Val) -> bool:
    """Whether an attribute has weights that are trained: an embedding of positions may be computed."""
    if value.kind == "layer" and value.items is None:
        name = str(value.ref[0]) if isinstance(value.ref, tuple) else ""
        return is_stateful(net, value) or name.endswith(("Sequential", "ModuleList", "ModuleDict"))
    if value.kind == "layer":
        return any(_learns(net, part) for each in value.elements() for part in each.flat())
    return is_stateful(net, value) or "raw_parameter" in value.tags


def _tensors(value: Val, depth: int = 0) -> Iterator[Val]:
    """The tensors that a value certainly is or holds: those of distributions and objects of the project, too."""
    if value.kind == "tensor":
        yield from (value,) if value.dtype != "int64" else ()  # indices have no graph
    elif depth <= 4:
        for part in held(value):
            yield from _tensors(part, depth + 1)


def _is_used(net: NetworkClass, name: str, event: Event) -> bool:
    """Whether another method of the class reads the attribute."""
    for model in net.model.lineage:
        for function in model.own_methods.values():
            if function.node is event.function.node or function.name == "__init__":
                continue
            targets = {target.target for target in find(function.node, cst.AssignTarget)}
            for node in find(function.node, cst.Attribute):
                if node.attr.value == name and node not in targets:
                    return True
    return False
