"""The probabilities are no matter of luck: two evaluations of the same actions agree, in training mode as well.

Experiment: random weights, training mode; evaluate twice with other seeds. Criterion: the same log-probs and values.
Pitfalls: dropout is meant to do this, and makes the PPO ratio noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class Randomness(Probe):
    """P-mode of the catalogue."""

    id = "randomness"
    claim = "evaluating the same actions twice gives the same log-probs and values"
    code, name = "ESP381", "random-evaluation"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "take dropout and noise out of the policy, or switch them off in act and evaluate alike"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        role, call = "evaluate", subject.evaluate
        if not subject.has("evaluate") and not subject.evaluates_through_act:
            raise NotComparable("no method scores actions")
        network = subject.heated().train()
        inputs = subject.inputs()
        with torch.no_grad():
            torch.manual_seed(1)
            before = m.outputs(call(network, inputs))
            torch.manual_seed(2)
            after = m.outputs(call(network, inputs))
        if not before:
            raise NotComparable(f"{role} returns nothing to compare")
        moved = {name: m.distance(before[name], after[name]) for name in before}
        worst = max(moved, key=lambda name: moved[name])
        return judged(
            passed=moved[worst] <= 1e-6,
            measured=f"two evaluations differ by {moved[worst]:.1e} ({worst})",
            method=subject.method(role, "act").name,
        )
