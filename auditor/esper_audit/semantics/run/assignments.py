"""What an assignment leaves: in variables, on self, in containers and in masked tensors."""

from __future__ import annotations

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics.axes import labels
from esper_audit.semantics.depends import adding, cut, everything, part_of
from esper_audit.semantics.run.conditions import Conditions
from esper_audit.semantics.run.containers import is_collection, one_of, pattern_of, with_layer
from esper_audit.semantics.run.frames import ClassFlow, PlainObject
from esper_audit.semantics.run.layout import named_size, settled, size_of, sized
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.run.tensors import true_means_true
from esper_audit.semantics.shapes import axes_in, rank_in
from esper_audit.semantics.values import (
    NOTHING,
    UNKNOWN,
    Val,
    bounded,
    join,
    sequence,
    tensor,
    with_role,
)


class Assignments(Conditions):
    """What an assignment leaves: in variables, on self, in containers and in masked tensors."""

    def assign(self, target: cst.CSTNode, value: Val, comment: str, statement: cst.CSTNode | None) -> None:
        """Bind a target to a value: the name's role and a shape comment add to what is known."""
        value = adding(bounded(value), self.control)
        if isinstance(target, cst.Name):
            name = target.value
            role = role_names.tensor_role(name)
            if role and not value.roles & {"logits", "mask", "hidden"} and value.kind in ("tensor", "unknown", "tuple"):
                value = with_role(value, role)
            if comment and value.is_tensorish and value.rank is None:
                value = value.but(rank=rank_in(comment))
            if comment and value.is_tensorish and value.axes is None:
                value = settled(value, axes_in(comment))
            if value.kind == "number":
                value = named_size(value, name)
            if role == "logits" and value.masked and statement is not None:
                self.record("logits", statement, target=value)  # what was masked turns out to be called logits
            self.env[name] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            self.unpack(target, value, comment, statement)
        elif isinstance(target, cst.Attribute):
            self.assign_attribute(target, value, statement)
        elif isinstance(target, cst.Subscript):
            self.assign_item(target, value, statement)

    def unpack(self, target: cst.Tuple | cst.List, value: Val, comment: str, statement: cst.CSTNode | None) -> None:
        """Bind the parts of a tuple target; `b, t, a = x.shape` also checks a rank."""
        elements = target.elements
        if "record" in value.tags and isinstance(value.ref, PlainObject):  # a NamedTuple is a tuple, too
            value = sequence("tuple", [value.item(field) or UNKNOWN for field in value.ref.model.annotated_fields])
        starred = any(isinstance(element, cst.StarredElement) for element in elements)
        known = self.env.get(value.ref) if value.kind == "shape" and isinstance(value.ref, str) else None
        if known is not None and statement is not None:
            if starred:
                self.record("size_check", statement, value=known)
            elif known.is_tensorish:
                # `b, t, a = x.shape` raises for any other rank
                self.record("rank_check", statement, value=known)
                names = [e.value.value if isinstance(e.value, cst.Name) else "" for e in elements]
                if known.axes is None or not any(known.axes) or known.axes[0].startswith("*"):
                    known = known.but(axes=labels(names))
                self.env[value.ref] = known = known.but(rank=len(elements))
                value = value.but(axes=known.axes)
        for position, element in enumerate(elements):
            item = value.item(position) if not starred else None
            if item is None and value.kind == "list":
                item = value.item(None)  # all elements are alike: what `split` and comprehensions give
            if item is None:
                if value.kind in ("tuple", "unknown", "list") and "hidden" in value.roles:
                    item = tensor(None, "hidden", origins=value.origins, tags=value.tags)
                    item = item.but(deps=part_of(value, position))
                elif value.kind == "shape":
                    item = sized(Val("number"), size_of(value.axes, position) if not starred else "")
                else:
                    item = Val("unknown", tags=value.tags & GRADIENT_FREE, origins=value.origins)
                    item = item.but(deps=everything(value) if starred else part_of(value, position))
            self.assign(element.value, item, comment if len(elements) == 1 else "", statement)

    def assign_attribute(self, target: cst.Attribute, value: Val, statement: cst.CSTNode | None) -> None:
        """Keep what is stored on self or on an object."""
        owner = self.eval(target.value)
        if owner.kind == "instance" and isinstance(owner.ref, ClassFlow):
            name = target.attr.value
            flow = owner.ref
            flow.store(name, value)
            self.record("store", statement or target, value=value, name=name, target=owner)
        elif owner.kind == "instance" and isinstance(owner.ref, PlainObject):
            owner.ref.attributes[target.attr.value] = value
        elif owner.kind == "instance":
            self.record("store", statement or target, value=value, name=target.attr.value, target=owner)

    def assign_item(self, target: cst.Subscript, value: Val, statement: cst.CSTNode | None) -> None:
        """Store under a subscript: a masked tensor, an entry of a container, or a container on self."""
        container = self.eval(target.value)
        keys = self.subscripts(target)
        if isinstance(target.value, cst.Name) and container.is_tensorish and target.value.value in self.env:
            inner = everything(value).union(*(cut(everything(key)) for key in keys))
            container = self.env[target.value.value] = adding(container, inner)
        name = target.value.value if isinstance(target.value, cst.Name) else ""
        mask = next((key for key in keys if "mask" in key.roles), None)
        if container.is_tensorish and statement is not None:
            self.record("write", statement, target=container, value=value, args=tuple(keys))
        if container.kind in ("tensor", "unknown") and mask is not None:
            masked = self.masking(
                statement or target, container, mask, value, "index assignment", fills_true=true_means_true(mask)
            )
            if name:
                self.env[name] = masked
            elif isinstance(target.value, cst.Attribute):
                self.assign_attribute(target.value, masked, None)
            return
        if is_collection(container) and keys:
            key = keys[0].const if keys[0].const is not NOTHING else pattern_of(keys[0])
            self.put_back(target.value, with_layer(container, key if key is not None else "", value))
            return
        if name and "hidden" in container.roles and container.is_tensorish:
            self.env[name] = container.but(tags=container.tags | {"kept"})  # `h[:, done] = 0`
            return
        owner = self.eval(target.value.value) if isinstance(target.value, cst.Attribute) else UNKNOWN
        if container.kind in ("dict", "list") and owner.kind == "instance" and isinstance(owner.ref, ClassFlow):
            # An entry of a container on self is kept like an attribute of that name.
            self.assign_attribute(target.value, Val(container.kind, items=((None, value),)), statement)  # type: ignore[arg-type]
            return
        if name and container.kind in ("dict", "list"):
            key = keys[0].const if keys and keys[0].const is not NOTHING else pattern_of(keys[0]) if keys else None
            items = dict(container.items or ())
            items[key] = join(items[key], value) if key in items and key is None else value
            self.env[name] = container.but(items=tuple(items.items()))

    def bind_loop(self, target: cst.BaseAssignTargetExpression, iterated: Val) -> None:
        """Bind the target of a loop to what one round may see."""
        element = one_of(iterated)
        if iterated.kind == "pairs" and iterated.ref is not None:
            element = sequence("tuple", list(iterated.ref))
        self.assign(target, element, "", None)
