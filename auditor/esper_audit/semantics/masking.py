"""Where policy logits are masked, with which constant, and where the masked logits go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event, constant_key
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.roles import is_inverted_mask, is_upright_mask
from esper_audit.semantics.values import Val

_TRUE_MEANS = r"\b(true|1s?|ones?)\b(?:(?!\b(false|0|zeros?|not)\b)[^.;])*?\b"
_TRUE_IS_VALID = re.compile(_TRUE_MEANS + r"(valid|legal|allowed|available|permitted|keep)\b", re.IGNORECASE)
_TRUE_IS_INVALID = re.compile(
    _TRUE_MEANS + r"(invalid|illegal|forbidden|unavailable|disallowed|mask(ed)? out|blocked)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class MaskStep:
    """One masking of policy logits. `constant` is a float, "finfo.min", or None when unknown.

    `fills_true` says whether entries are replaced where the mask that came in is True; None when unknown.
    """

    event: Event
    constant: float | str | None
    additive: bool
    reaches_distribution: bool
    product: Event | None
    fills_true: bool | None = None


def true_is_valid(function: Function, mask: Val) -> bool | None:
    """What True means in the mask that came in: an action is valid (True), or is not (False); None when unknown.

    The names that the mask came in under say so, the comments beside them, and the docstring of the method.
    """
    names = {origin.rpartition("/")[2] for origin in mask.origins if not origin.startswith("@")}
    said: set[bool] = set()
    for name in names:
        if is_upright_mask(name) or is_inverted_mask(name):
            said.add(is_upright_mask(name))
        param = function.param(name)
        lines = [line for line in function.docstring.splitlines() if re.search(rf"\b{re.escape(name)}\b", line)]
        for line in (*lines, param.comment if param is not None else ""):
            said |= {True} if _TRUE_IS_VALID.search(line) else set()
            said |= {False} if _TRUE_IS_INVALID.search(line) else set()
    return said.pop() if len(said) == 1 else None


@once
def masked_logits(net: NetworkClass) -> tuple[MaskStep, ...]:
    """The masking steps on the way from the network's heads to its actions, each once, in source order of discovery.

    Only logits count: what is called so, or reaches a distribution or a hand-written `p * log p`. Attention scores and
    Q-values under an argmax are none.
    """
    return tuple(_masked_logits(net))


def _masked_logits(net: NetworkClass) -> Iterator[MaskStep]:
    if not net.speaks_of_masks:
        return
    steps: dict[cst.CSTNode, Event] = {}
    distributed: set[cst.CSTNode] = set()
    products: dict[cst.CSTNode, Event] = {}
    named: set[cst.CSTNode] = set()
    for _, event, _ in net.events("mask", "dist", "product", "logits"):
        if event.kind == "mask":
            steps.setdefault(event.node, event)
        elif event.kind == "dist":
            distributed |= {mark.node for mark in event.target.masked}
        elif event.kind == "logits":
            named |= {mark.node for mark in event.target.masked}
        else:
            for mark in event.target.masked:  # of the logarithm: a probability is finite, however it was masked
                products.setdefault(mark.node, event)
    for node, event in steps.items():
        if "mask" not in event.other.roles and "logits" not in event.target.roles:
            continue
        if "logits" in event.target.roles or node in distributed or node in products or node in named:
            yield MaskStep(
                event,
                constant_key(event.value),
                event.name == "addition",
                node in distributed,
                products.get(node),
                event.fills_true,
            )
