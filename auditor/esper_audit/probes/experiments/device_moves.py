"""Every tensor of the network moves with it.

Experiment: the network and its inputs on the meta device, which needs no GPU; watch all operations of one call.
Criterion: none combines a tensor on meta with one that stayed on the CPU. Pitfalls: a single number may stay, and so
may an index; an operation that needs values stops the experiment, and what came before it still counts.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class DeviceMoves(Probe):
    """P-meta of the catalogue, for everything but the hidden state."""

    id = "device-moves"
    claim = "every tensor that a call needs moves with the network"
    code, name = "ESP281", "tensor-left-behind"
    category, severity = Category.DEVICE, Severity.HIGH
    acquits = False  # only one call was looked at
    help = "register it with `register_buffer`, or make it with the device of an input"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.subject import mapped

        role = next((role for role in ("evaluate", "forward", "act") if subject.has(role)), "")
        if not role:
            raise NotComparable("the network has no method that could be called")
        facts = subject.method(role)
        kind = "act" if role == "act" else "sequence"
        inputs = subject.inputs(time=1) if role == "act" else subject.inputs()
        keywords = subject.arguments(subject.network, facts, inputs, kind, score=role == "evaluate")
        network = copy.deepcopy(subject.network).to("meta").eval()
        moved = {name: mapped(value, lambda tensor: tensor.to("meta")) for name, value in keywords.items()}
        stopped = ""
        with m.Operations() as ran:
            try:
                (network if facts.name == "forward" else getattr(network, facts.name))(**moved)
            except Exception as error:  # noqa: BLE001 - an operation that needs values, or the finding itself
                stopped = m.sentence(error, 90)
        left = sorted(set(ran.mixed))
        if not left and stopped:
            raise NotComparable(f"`{facts.name}` stops on the meta device ({stopped})")
        return judged(
            passed=not left,
            measured=f"a tensor stayed on the CPU when the network moved: in {m.listed(left)}"
            if left
            else f"{len(ran.seen)} operations of `{facts.name}` ran on the other device alone",
            method=facts.name,
        )
