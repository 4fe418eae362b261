"""Stepping through a sequence and running it in one call give the same.

Experiment: random weights; `forward` (or evaluate) over T steps at once, and step by step with the state carried.
Criterion: differences below the rounding of the dtype, without oneDNN. Pitfalls: none for networks that are causal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class StepSequence(Probe):
    """One call for T steps against T calls for one."""

    id = "step-sequence"
    claim = "T calls for one step give what one call for T steps gives"
    code, name = "ESP581", "step-differs-from-sequence"
    category, severity = Category.INTEGRATION, Severity.HIGH
    help = "carry the hidden state from call to call, and keep batch and time apart"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        inputs = subject.inputs()
        if inputs.hidden is None:
            raise NotComparable("the network has no memory")
        role, call = m.sequence_call(subject)
        network = subject.heated().eval()
        with m.without_onednn(), torch.no_grad():
            whole = m.by_step(call(network, inputs))
            hidden, steps = inputs.hidden, []
            for t in range(inputs.starts.shape[1]):
                reply = call(network, inputs.at(t).but(hidden=hidden))
                if reply.hidden is None:
                    raise NotComparable(f"{role} does not return the hidden state")
                hidden = reply.hidden
                steps.append(m.by_step(reply))
        distances = {name: m.distance(whole[name], torch.cat([step[name] for step in steps], dim=1)) for name in whole}
        if not distances:
            raise NotComparable(f"{role} returns nothing to compare")
        worst = max(distances, key=lambda name: distances[name])
        limit = m.tolerance(subject.dtype)
        return judged(
            passed=distances[worst] <= limit,
            measured=f"largest difference {distances[worst]:.1e} ({worst}), tolerance {limit:.0e}",
            method=subject.method(role, "act").name,
        )
