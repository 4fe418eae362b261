"""The hidden state that is passed is used.

Experiment: random weights; the same observations from two hidden states, and from the first one again, in act,
evaluate and forward. Criterion: the results differ, and come back with the state: a network that keeps a state of its
own on `self` answers differently the second time. Pitfalls: running statistics move from call to call, in training
mode only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class HiddenUsed(Probe):
    """Whether evaluate, too, starts from the state it is given."""

    id = "hidden-used"
    claim = "the hidden state that is passed changes the result"
    code, name = "ESP585", "hidden-ignored"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "start from the hidden state that was stored with the first step of the window"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m
        from esper_audit.probes.subject import mapped

        inputs = subject.inputs(time=2)
        if inputs.hidden is None:
            raise NotComparable("the network has no hidden state to pass")
        network = subject.heated().eval()
        other = mapped(inputs.hidden, lambda t: t + 1.0)
        moved, blamed = {}, ""
        for role in ("act", "evaluate", "forward"):
            if not subject.has(role) or "hidden" not in subject.roles(subject.method(role)).values():
                continue
            call = getattr(subject, role)
            trial = inputs.at(0) if role == "act" else inputs
            with torch.no_grad():
                torch.manual_seed(1)
                before = m.outputs(call(network, trial))
                torch.manual_seed(1)
                after = m.outputs(call(network, trial.but(hidden=other)))
                torch.manual_seed(1)
                again = m.outputs(call(network, trial))
            if before:
                kept = max(m.distance(before[name], again[name]) for name in before)
                if kept > m.TOLERANCE.get(subject.dtype, 1e-4):
                    if role == "forward":
                        continue  # a bare core may go on from what it keeps on `self`: that is another interface
                    return judged(
                        passed=False,
                        measured=f"the same hidden state gives other results the second time, by {kept:.1e} in {role}",
                        method=subject.method(role).name,
                    )
                moved[role] = max(m.distance(before[name], after[name]) for name in before)
                if moved[role] == 0.0:
                    blamed = blamed or subject.method(role).name
        if not moved:
            raise NotComparable("no method takes a hidden state")
        shown = ", ".join(f"{role} {by:.1e}" for role, by in moved.items())
        return judged(passed=not blamed, measured=f"another hidden state moves the results by: {shown}", method=blamed)
