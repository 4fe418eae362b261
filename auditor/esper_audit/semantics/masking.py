"""Where policy logits are masked, with which constant, and where the masked logits go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event, constant_key
from esper_audit.semantics.network import NetworkClass


@dataclass(frozen=True, slots=True)
class MaskStep:
    """One masking of policy logits. `constant` is a float, "finfo.min", or None when unknown."""

    event: Event
    constant: float | str | None
    additive: bool
    reaches_distribution: bool
    product: Event | None


def masked_logits(net: NetworkClass) -> Iterator[MaskStep]:
    """The masking steps on the way from the network's heads to its actions, each once, in source order of discovery.

    Only logits count: what is called so, or reaches a distribution or a hand-written `p * log p`. Attention scores and
    Q-values under an argmax are none.
    """
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
                event, constant_key(event.value), event.name == "addition", node in distributed, products.get(node)
            )
