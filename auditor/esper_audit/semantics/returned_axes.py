"""What a method hands back: values, log-probs and entropies, with the axes they have and those that are stated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.axes import Axes
from esper_audit.semantics.flow import Frame
from esper_audit.semantics.model import ClassModel
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.roles import tensor_role
from esper_audit.semantics.run.frames import PlainObject
from esper_audit.semantics.run.torch_calls import last_sized
from esper_audit.semantics.shapes import axes_in
from esper_audit.semantics.values import Val

SCORES = ("value", "log_prob", "entropy")  # what a loss puts side by side: one number for each step
_RETURNS = re.compile(r"^\s*Returns?\s*:?\s*$|^\s*:?returns?\b:?", re.IGNORECASE)
_STATED = re.compile(r"`*(\w+)`*\s*(?:\([^)\[]*\))?\s*[:,]?\s+(?:of |with )?(?:shape )?`*(\[[^\]]*\]|\([^)]*,[^)]*\))")


@dataclass(frozen=True, slots=True)
class Returned:
    """One tensor that a method returns. `stated` are its axes as a comment or the docstring gives them."""

    role: str
    value: Val
    stated: Axes | None
    in_prose: bool = False  # by the docstring alone

    @property
    def axes(self) -> Axes | None:
        """The axes that it has."""
        return self.value.axes


def returned(net: NetworkClass, frame: Frame) -> Iterator[Returned]:
    """The values, log-probs and entropies that a method returns, one number for each step."""
    critics = {
        head.name for head in net.heads if head.role == "value" and "to_one" in last_sized(net.layers[head.name]).tags
    }
    documented = _documented(frame.function.docstring)
    for name, value, comment in _named(frame.result, "", None):
        role = tensor_role(name) if name else ""
        role = "value" if not role and value.from_layers & critics and not value.roles & set(SCORES[1:]) else role
        role = role or next((each for each in SCORES if value.roles & {"value", "log_prob", "entropy"} == {each}), "")
        if role in SCORES and value.is_tensorish and not value.tags & {"logp", "p"}:
            yield Returned(role, value, comment or documented.get(role), in_prose=comment is None)


def _named(value: Val, name: str, stated: Axes | None) -> Iterator[tuple[str, Val, Axes | None]]:
    """The tensors inside a result, with the names of the fields or keys they stand under."""
    if not value.items or (value.kind not in ("tuple", "list", "dict") and "record" not in value.tags):
        yield name, value, stated
        return
    comments = field_axes(value.ref.model) if isinstance(value.ref, PlainObject) else {}
    for key, item in value.items:
        yield from _named(item, key if isinstance(key, str) else "", comments.get(key))


def field_axes(model: ClassModel) -> dict[str, Axes]:
    """The axes that comments beside the fields of a named tuple or dataclass state."""
    found: dict[str, Axes] = {}
    for line in model.node.body.body:
        if isinstance(line, cst.SimpleStatementLine) and (comment := line.trailing_whitespace.comment) is not None:
            axes = axes_in(comment.value)
            for small in line.body:
                if isinstance(small, cst.AnnAssign) and isinstance(small.target, cst.Name) and axes is not None:
                    found[small.target.value] = axes
    return found


def _documented(docstring: str) -> dict[str, Axes]:
    """The axes that the part of a docstring about what is returned states, by role."""
    found: dict[str, Axes] = {}
    speaks = False
    for line in docstring.splitlines():
        speaks = speaks or bool(_RETURNS.search(line))
        for name, shape in _STATED.findall(line) if speaks else ():
            axes, role = axes_in(shape), tensor_role(name)
            if axes is not None and role in SCORES:
                found.setdefault(role, axes)
    return found
