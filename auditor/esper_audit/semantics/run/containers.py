"""Tuples, lists and dicts: what is in them, under known keys and under keys known at their ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.depends import everything
from esper_audit.semantics.run.frames import ClassFlow
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.run.tensors import THROUGH_LAYERS, Tensors
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    NOTHING,
    UNKNOWN,
    Val,
    constant,
    join,
    join_all,
    tensor,
    with_role,
)

_BY_HEAD = frozenset({"mask", "action"})  # what has a part for each head
_ADDS = frozenset({"append", "extend", "insert", "update"})


class Containers(Tensors):
    """Tuples, lists and dicts: what is in them, under known keys and under keys known at their ends."""

    def subscripts(self, node: cst.Subscript) -> list[Val]:
        """The values between the brackets; slices are a kind of their own."""
        found = []
        for element in node.slice:
            if isinstance(element.slice, cst.Index):
                found.append(self.eval(element.slice.value))
            else:
                found.append(Val("slice"))
        return found

    def looked_up(self, node: cst.CSTNode, container: Val, key: Val) -> None:
        """Take note of a part or column that is taken under a written key: what callers pass has such a part."""
        if container.kind == "shape" or not container.origins or not container.roles & _BY_HEAD:
            return
        if isinstance(key.const, str | int):
            self.record("lookup", node, value=container, name=str(key.const), other=key)

    def lookup_item(self, container: Val, key: Val) -> Val:
        """What a container may hold under a key."""
        if (
            container.kind == "dict"
            and isinstance(container.ref, tuple)
            and container.ref[0] == "each"
            and not container.items
        ):
            role = next(iter(sorted(container.roles)), "")
            item = with_role(tensor() if "tensors" in container.tags else UNKNOWN, role)
            return item.but(origins=container.origins)
        if key.const is not NOTHING:
            found = container.item(key.const)
            if found is None and isinstance(key.const, int) and key.const < 0 and container.items:
                found = container.item(len(container.items) + key.const)
            if found is None and container.items:
                loose = [
                    v
                    for k, v in container.items
                    if k is None or (isinstance(k, Pattern) and isinstance(key.const, str) and k.matches(key.const))
                ]
                found = join_all(loose) if loose else None
            if found is not None:
                return found
            if container.items is not None and container.kind != "dict":
                return UNKNOWN
        pattern = pattern_of(key)
        if container.items:
            if isinstance(pattern, Pattern):
                matching = [value for name, value in container.items if isinstance(name, str) and pattern.matches(name)]
                if matching:
                    return join_all(matching)
            if key.const is NOTHING and key.kind != "slice":
                return join_all([value for name, value in container.items])
        if key.kind == "slice":
            return container.but(items=None)
        if container.roles and not container.items:
            return Val("unknown", roles=container.roles, origins=container.origins, tags=container.tags & GRADIENT_FREE)
        return UNKNOWN

    def container_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...]) -> Val:
        """Methods of dicts, lists and tuples."""
        if name == "items":
            element = join_all(owner.elements()) if owner.items else self.lookup_item(owner, Val("str"))
            return Val("pairs", ref=(Val("str"), element))
        if name == "values":
            return Val("list", items=owner.items or ((None, self.lookup_item(owner, Val("str"))),))
        if name == "keys":
            return Val("list", items=tuple(enumerate(constant(k) for k, _ in owner.items or () if isinstance(k, str))))
        if name in ("get", "pop", "__getitem__") and args:
            self.looked_up(node, owner, args[0])
            found = self.lookup_item(owner, args[0])
            return join(found, args[1]) if len(args) > 1 else found
        func = node.func
        if name in _ADDS and args and isinstance(func, cst.Attribute):
            self.kept(node, func.value, args[-1])
        if name == "append" and args and isinstance(func, cst.Attribute) and isinstance(func.value, cst.Name):
            items = dict(owner.items or ())
            items[len(items)] = args[0]
            self.env[func.value.value] = owner.but(items=tuple(items.items()), tags=owner.tags | {"grown"})
            return NONE
        return UNKNOWN

    def put_back(self, place: cst.BaseExpression, container: Val) -> None:
        """A container of layers that was filled, back where it came from: a variable, or self in its constructor."""
        if isinstance(place, cst.Name):
            self.env[place.value] = container
        elif isinstance(place, cst.Attribute):
            holder = self.eval(place.value)
            if isinstance(holder.ref, ClassFlow) and place.attr.value in holder.ref.attributes and holder.ref.building:
                holder.ref.attributes[place.attr.value] = container.but(origins=EMPTY)

    def kept(self, node: cst.Call, container: cst.BaseExpression, value: Val) -> None:
        """Take note of what is added to a container on self; the attribute itself stays what the constructor made."""
        if isinstance(container, cst.Attribute) and isinstance(container.value, cst.Name):
            holder = self.name(container.value)
            if holder.kind == "instance" and isinstance(holder.ref, ClassFlow):
                self.record("kept", node, name=container.attr.value, target=holder, value=value)


def with_layer(container: Val, key: Any, layer: Val) -> Val:
    """A `ModuleList` or `ModuleDict` after another layer was put into it; in a loop, one stands for all."""
    held = layers_in(container)
    if held is None and container.items:
        return container  # what is in it is not known
    kind = "list" if key is None else "dict"
    items = dict(held.items or ()) if held is not None else {}
    items[len(items) if key is None else key] = layer
    return container.but(items=((0, Val(kind, items=tuple(items.items()))),))


def is_collection(value: Val) -> bool:
    """Whether a value is a `ModuleList` or a `ModuleDict`."""
    return value.kind == "layer" and isinstance(value.ref, tuple) and value.ref[0] in facts.COLLECTIONS


def layers_in(container: Val) -> Val | None:
    """The list or dict behind a `ModuleList` or `ModuleDict`; None for any other layer, and where it is unknown."""
    held = container.elements() if is_collection(container) else ()
    return held[0] if len(held) == 1 and held[0].kind in ("list", "tuple", "dict") and held[0].items else None


def member_of(container: Val, key: Val = UNKNOWN) -> Val:
    """A layer of a container: the one under a known key, or that stands for all, else the container for all of them.

    It remembers the attribute that it came out of, as what `self.name(...)` gives does.
    """
    held = layers_in(container)
    parts = held.elements() if held is not None else ()
    if held is not None and key.const is not NOTHING:
        at = key.const + len(parts) if isinstance(key.const, int) and key.const < 0 else key.const
        parts = tuple(part for name, part in held.items or () if name == at) or parts
    if parts and all(part == parts[0] for part in parts) and parts[0].kind in ("layer", "instance"):
        return parts[0].but(origins=container.origins, deps=container.deps)
    habits = frozenset.intersection(*(part.tags for part in parts)) & THROUGH_LAYERS if parts else EMPTY
    return container.but(tags=container.tags | habits | {"member"}) if held is not None else container


def one_of(iterated: Val) -> Val:
    """What one round of a loop may see."""
    if iterated.kind == "layer" and layers_in(iterated) is not None:
        return member_of(iterated)
    if iterated.kind == "tensor":
        return iterated.but(rank=iterated.rank - 1 if iterated.rank else None)
    if iterated.kind == "dict":
        return Val("str")  # a dict gives its keys, which are names wherever networks are concerned
    return join_all(iterated.elements()) if iterated.items else Val(deps=everything(iterated))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A string known at its ends only: `f"{head}_logits"`."""

    prefix: str
    suffix: str

    def matches(self, text: str) -> bool:
        """Whether a text begins and ends that way."""
        return text.startswith(self.prefix) and text.endswith(self.suffix)


def pattern_of(key: Val) -> Any:
    """What is known of a string that is known at its ends only."""
    return key.ref if isinstance(key.ref, Pattern) else None
