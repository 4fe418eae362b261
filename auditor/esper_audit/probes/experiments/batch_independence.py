"""An environment's results depend on no other environment.

Experiment: random weights, training mode; change the observations of the first row, then of the last, and look at all
other rows. Criterion: nothing moves, to the last digits. Pitfalls: dropout draws other numbers in each call, so the
generator is set back; a fault of axis order may show for one end of the batch only, hence both. Batch normalisation
mixes rows in training mode: a fault where log-probs are compared, and what it is for where a critic is trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject


class BatchIndependence(Probe):
    """P-indep of the catalogue."""

    id = "batch-independence"
    claim = "what is computed for one environment does not depend on the others"
    code, name = "ESP582", "environments-mixed"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "check the order of batch and time in every reshape, and use no statistics over the batch"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        role = next((role for role in ("evaluate", "forward", "act") if subject.has(role)), "")
        role = "evaluate" if subject.evaluates_through_act else role
        if not role:
            raise NotComparable("the network has no method that could be called")
        call = getattr(subject, role)
        if role == "forward":
            m.steady(subject, role)
        network = subject.heated().train()
        inputs = subject.inputs() if role != "act" else subject.inputs(time=1)
        worst, where = _moved(call, network, inputs)
        limit = m.tolerance(subject.dtype) / 10
        if worst > limit and role != "evaluate" and _moved(call, network.eval(), inputs)[0] <= limit:
            raise NotComparable(
                "rows share statistics of the batch in training mode alone, and no log-prob rests on it"
            )
        return judged(
            passed=worst <= limit,
            measured=f"other rows move by {worst:.1e}" + (f" ({where})" if where else ""),
            method=subject.method(role, "act").name,
        )


def _moved(call: Callable[[nn.Module, Inputs], Reply], network: nn.Module, inputs: Inputs) -> tuple[float, str]:
    """How far the other rows move at most when the first row changes, or the last, and where."""
    import torch

    from esper_audit.probes import measuring as m

    worst, where = 0.0, ""
    batch = inputs.starts.shape[0]
    for row in (0, batch - 1):
        others = [b for b in range(batch) if b != row]
        moved = m.disturbed(inputs.observations, row)
        with torch.no_grad():
            torch.manual_seed(1)
            before = m.outputs(call(network, inputs))
            torch.manual_seed(1)
            after = m.outputs(call(network, inputs.but(observations=moved)))
        for name in before:
            if before[name].dim() < 1 or before[name].shape[0] != batch:
                continue
            moved_by = m.distance(before[name][others], after[name][others])
            if moved_by > worst:
                worst, where = moved_by, f"{name}, when row {row} changes"
    return worst, where
