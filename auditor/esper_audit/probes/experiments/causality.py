"""No step sees a later one, and memory reaches from earlier ones.

Experiment: random weights; change the observation of one step in the middle. Criterion: earlier steps do not move; in
a recurrent network later ones do. A network that answers for as many environments as steps only, or for one
environment only though it makes states for more, has its axes mixed as well. Pitfalls: none where a sequence can be
passed at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class Causality(Probe):
    """P-causal of the catalogue, without episode starts."""

    id = "causality"
    claim = "a step depends on earlier steps and on no later one"
    code, name = "ESP583", "time-axis-mixed"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "check `batch_first` and the order of batch and time in every reshape"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        inputs = subject.inputs()
        if inputs.hidden is None:
            raise NotComparable("the network has no memory")
        role, call = m.sequence_call(subject)
        if narrow := _only_at(subject, role):
            return judged(passed=False, measured=narrow, method=subject.method(role, "act").name)
        network = subject.heated().eval()
        middle = inputs.starts.shape[1] // 2
        moved = m.disturbed(inputs.observations, slice(None), middle)
        with torch.no_grad():
            before = m.by_step(m.seeded(call, network, inputs))
            after = m.by_step(m.seeded(call, network, inputs.but(observations=moved)))
        past = max((m.distance(before[n][:, :middle], after[n][:, :middle]) for n in before), default=0.0)
        future = max((m.distance(before[n][:, middle + 1 :], after[n][:, middle + 1 :]) for n in before), default=0.0)
        if not before:
            raise NotComparable(f"{role} returns nothing to compare")
        limit = m.tolerance(subject.dtype) / 10
        return judged(
            passed=past <= limit < future,
            measured=f"a change at step {middle} moves earlier steps by {past:.1e} and later ones by {future:.1e}",
            method=subject.method(role, "act").name,
        )


def _only_at(subject: Subject, role: str) -> str:
    """What is to be said of a network that answers at some sizes only."""
    facts = subject.method(role, "act")
    score = role == "evaluate"
    inputs = subject.inputs()
    batch, time = inputs.starts.shape
    if subject.answers(facts, "sequence", inputs, score=score):
        return ""
    if subject.answers(facts, "sequence", subject.inputs(time, time), score=score):
        return f"`{facts.name}` answers for {time} environments and {time} steps, and not for {batch} and {time}"
    if subject.has("initial_state") and subject.answers(facts, "sequence", subject.inputs(1, time), score=score):
        return f"`{facts.name}` answers for one environment and {time} steps, and not for {batch} and {time}"
    return ""
