"""Twice the steps cost twice as much, and no more.

Experiment: one call of act, and of evaluate (or else `forward`) with 8 and with 16 steps; count floating-point
operations, the bytes that autograd keeps for the backward pass, and the operators that run. Criterion: from 8 to 16
steps, operations and bytes grow by a factor of at most 2.1. Tolerance: the 0.1, in every dtype, since these are counts.
Cost: three calls. Pitfalls: attention over all steps is quadratic by nature; with oneDNN the operations of an LSTM
would not be counted, so it is off; memory is that of tensors, not of the allocator; inputs, parameters and buffers are
there anyway, and left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import FAILED, PASSED, UNDECIDED, Measurement, NotComparable, Probe

if TYPE_CHECKING:
    from torch import Tensor

    from esper_audit.probes.measuring import Called
    from esper_audit.probes.subject import Subject

STEPS = 8
GROWTH = 2.1


class Cost(Probe):
    """Operations, memory and operators of a call, and how they grow with the number of steps."""

    id = "cost"
    claim = "twice the steps cost twice as much, and no more"
    code, name = "ESP482", "cost-grows-faster-than-steps"
    category, severity = Category.MEMORY, Severity.LOW
    help = "carry the hidden state from step to step instead of computing earlier steps again"
    convicts = False  # attention is so by nature
    tells = True

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        table: list[tuple[str, ...]] = [
            ("method", "environments x steps", "FLOPs", "bytes kept for backward", "operators")
        ]
        growth, blamed, undecided = "", "", "no method takes sequences"
        failed = False
        for called in m.methods(subject):
            lengths = (1,) if called.kind == "act" else (STEPS, 2 * STEPS)
            try:
                costs = [_cost(subject, called, steps) for steps in lengths]
            except NotComparable as why:
                undecided = str(why)
                continue
            table += [(f"`{called.label}`", *each.row) for each in costs]
            if called.kind == "act":
                continue
            first, second = costs
            factors = [new / max(old, 1) for new, old in ((second.flops, first.flops), (second.kept, first.kept))]
            growth = (
                f"{2 * STEPS} steps cost {factors[0]:.2f} times the FLOPs of {STEPS}, "
                f"and {factors[1]:.2f} times the memory"
            )
            failed, blamed = max(factors) > GROWTH, called.facts.name
        if len(table) == 1:
            raise NotComparable(undecided)
        parameters = sum(parameter.numel() for parameter in subject.network.parameters())
        told = [f"{parameters:,} parameters"]
        told += [
            f"{method} {flops} FLOPs, {kept} bytes for {size}"
            for method, size, flops, kept, _ in table[1:]
            if not size.endswith(f" {2 * STEPS}")
        ]
        result = (FAILED if failed else PASSED) if growth else UNDECIDED
        return Measurement(result, "; ".join([*told, growth or undecided]), blamed if failed else "", tuple(table))


@dataclass(frozen=True)
class _Cost:
    size: str
    flops: int
    kept: int
    operators: int

    @property
    def row(self) -> tuple[str, str, str, str]:
        """As the table shows it."""
        return self.size, f"{self.flops:,}", f"{self.kept:,}", f"{self.operators:,}"


def _cost(subject: Subject, called: Called, steps: int) -> _Cost:
    """What one call costs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked
    from esper_audit.probes.nested import leaves

    network = copy.deepcopy(subject.network).train()
    inputs = unmasked(subject.inputs(time=steps))
    keywords = called.keywords(subject, network, inputs)
    given = [*network.parameters(), *network.buffers(), *leaves(list(keywords.values()))]
    there = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept: dict[int, Tensor] = {}  # by the address of their memory, which stays theirs as long as they live

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    call: Any = network if called.facts.name == "forward" else getattr(network, called.facts.name)
    with (
        m.without_onednn(),
        m.validation(on=False),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        m.Operations() as ran,
        FlopCounterMode(display=False) as counter,
    ):
        call(**keywords)
    memory = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in there)
    environments = inputs.starts.shape[0]
    return _Cost(f"{environments} x {steps}", counter.get_total_flops(), memory, len(ran.seen))
