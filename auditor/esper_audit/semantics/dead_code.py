"""What a network class keeps and nobody reads, and which parts of its file can never matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.tree import descendants, dotted

_ECHO = (cst.Name, cst.Integer, cst.Float, cst.SimpleString, cst.Attribute, cst.ConcatenatedString, cst.Subscript)


@once
def dead_attributes(net: NetworkClass) -> dict[str, Event]:
    """Attributes that the class's own constructor computes and that nothing in the project reads, with their store.

    Echoed configuration, layers, parameters, buffers and objects are none, nor is anything on a class whose foreign
    ancestors may read it, or that looks its attributes up by name.
    """
    if not _stored_and_unread(net):
        return {}
    times = Counter(event.name for event in net.stores)
    found = {
        event.name: event
        for event in net.stores
        if event.function.owner is net.model
        and times[event.name] == 1
        and not event.name.startswith("__")
        and isinstance(event.node, (cst.Assign, cst.AnnAssign))
        and event.node.value is not None
        and not _echoes(event.node.value)
        and _plain_data(event)
    }
    if not found or net.foreign_bases() or _looks_up_by_name(net):
        return {}
    return {
        name: event
        for name, event in found.items()
        if not _documented(net, name) and net.reads_attribute(name) is False
    }


def _stored_and_unread(net: NetworkClass) -> bool:
    """Whether an attribute of the class's file is written once and never spelled again.

    A look at the bytes is enough to leave most networks alone.
    """
    index = net.project.index(net.module.path)
    assert index is not None  # the class came out of it
    return bool(index.attributes_spelled_once)


def _echoes(node: cst.BaseExpression) -> bool:
    """A name, a literal, an empty container, or a container of those: kept, not computed."""
    if isinstance(node, (cst.List, cst.Tuple, cst.Set)):
        return all(_echoes(element.value) for element in node.elements)
    if isinstance(node, cst.Dict):
        return all(_echoes(element.value) for element in node.elements)
    if isinstance(node, cst.UnaryOperation):
        return _echoes(node.expression)
    return isinstance(node, _ECHO)


def _plain_data(event: Event) -> bool:
    """A computed number, string, container or tensor; not a layer, an object or something unknown that may be one."""
    value = event.value
    node = event.node.value  # type: ignore[attr-defined]
    if value.kind in ("layer", "instance", "func", "class", "bound", "none", "ext", "module"):
        return False
    if "parameter" in value.tags:
        return False
    if value.kind in ("dict", "list", "tuple"):
        return not any(
            item.kind in ("layer", "instance") or (item.kind == "unknown" and _may_be_module(node))
            for item in value.flat()
        )
    if value.kind == "unknown":
        return isinstance(node, (cst.BinaryOperation, cst.Comparison, cst.BooleanOperation))
    return not isinstance(node, cst.Call) or value.kind in ("number", "tensor", "str")


def _may_be_module(node: cst.BaseExpression) -> bool:
    """Whether a container's elements are made by calls of classes, which may be modules that register elsewhere."""
    for descendant in descendants(node):
        if isinstance(descendant, cst.Call):
            last = dotted(descendant.func).rsplit(".", 1)[-1]
            if last[:1].isupper() or not last:
                return True
    return False


def _documented(net: NetworkClass, name: str) -> bool:
    """An attribute that the class documents is part of its interface."""
    return any(name in model.docstring for model in net.model.lineage)


def _looks_up_by_name(net: NetworkClass) -> bool:
    for model in net.model.lineage:
        if {"__getattr__", "__getattribute__"} & model.own_methods.keys():
            return True
        for node in descendants(model.node):
            if isinstance(node, cst.Attribute) and node.attr.value == "__dict__":
                return True
            if (
                isinstance(node, cst.Call)
                and isinstance(node.func, cst.Name)
                and node.func.value in ("vars", "getattr")
            ):
                return True
    return False


def dead_regions(net: NetworkClass, module: ModuleModel) -> Iterator[cst.CSTNode]:
    """Parts of the network's file that never matter.

    Values of dead attributes, private functions nobody names, and statements behind a return or raise.
    """
    for event in dead_attributes(net).values():
        yield event.node
    dynamic = any(text in module.source.data for text in (b"getattr(", b"globals(", b"__all__"))
    for name in module.index.functions:
        if module.index.functions[name].decorator_list:
            continue  # a decorator may have registered it
        if _is_private(name) and _named_once(net, module, name) and name in module.functions and not dynamic:
            yield module.functions[name].node
    for frame in net.all_frames if module.index.has_unreachable else ():
        for event in frame.events:
            if event.kind == "unreachable" and event.module is module:
                yield event.node


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _named_once(net: NetworkClass, module: ModuleModel, name: str) -> bool:
    files = net.project.files_naming(name)
    if files is None or set(files) - {module.path}:
        return False
    return module.source.text.count(name) == 1  # its own definition
