"""The hidden state that is passed is used.

Experiment: random weights; the same observations from two hidden states, and from the first one again, in act,
evaluate and forward. Criterion: the results differ, and come back with the state: a network that keeps a state of its
own on `self` answers differently the second time; and no part of the state (h, c) moves act but not evaluate, or the
other way round. Pitfalls: running statistics move from call to call, in training mode only.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import Tensor

    from esper_audit.probes.replies import Reply
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
        from esper_audit.probes.nested import leaves, mapped

        inputs = subject.inputs(time=2)
        if inputs.hidden is None:
            raise NotComparable("the network has no hidden state to pass")
        network = subject.heated().eval()
        other = mapped(inputs.hidden, lambda t: t + 1.0)
        moved, blamed = {}, ""
        unread: dict[str, set[int]] = {}  # by role, the parts of the state that move nothing
        for role in ("act", "evaluate", "forward"):
            if not subject.has(role) or "hidden" not in subject.roles(subject.method(role)).values():
                continue
            call = getattr(subject, role)
            trial = inputs.at(0) if role == "act" else inputs
            with torch.no_grad():
                torch.manual_seed(1)
                before = m.outputs(call(network, trial))
                torch.manual_seed(1)
                after = call(network, trial.but(hidden=other))
                torch.manual_seed(1)
                again = m.outputs(call(network, trial))
            if before:
                kept = max(m.distance(before[name], again[name]) for name in before)
                if kept > m.tolerance(subject.dtype):
                    if role == "forward":
                        continue  # a bare core may go on from what it keeps on `self`: that is another interface
                    return judged(
                        passed=False,
                        measured=f"the same hidden state gives other results the second time, by {kept:.1e} in {role}",
                        method=subject.method(role).name,
                    )
                moved[role] = _moves(after, before)
                with torch.no_grad():
                    unread[role] = {
                        part
                        for part in range(len(leaves(trial.hidden)))
                        if _moves(m.seeded(call, network, trial.but(hidden=_with(trial.hidden, part))), before) == 0.0
                    }
                if moved[role] == 0.0:
                    blamed = blamed or subject.method(role).name
        if not moved:
            raise NotComparable("no method takes a hidden state")
        if not blamed and {"act", "evaluate"} <= set(unread) and (parts := unread["act"] ^ unread["evaluate"]):
            heard, deaf = ("act", "evaluate") if unread["evaluate"] & parts else ("evaluate", "act")
            return judged(
                passed=False,
                measured=f"part {min(parts)} of the hidden state moves the results of {heard}, and not those of {deaf}",
                method=subject.method(deaf).name,
            )
        shown = ", ".join(f"{role} {by:.1e}" for role, by in moved.items())
        return judged(passed=not blamed, measured=f"another hidden state moves the results by: {shown}", method=blamed)


def _with(hidden: Any, part: int) -> Any:
    """A hidden state with other numbers in one of its tensors."""
    from esper_audit.probes.nested import mapped

    number = count()
    return mapped(hidden, lambda tensor: tensor + 1.0 if next(number) == part else tensor)


def _moves(reply: Reply, before: dict[str, Tensor]) -> float:
    """How far results are from those before."""
    from esper_audit.probes import measuring as m

    after = m.outputs(reply)
    return max(m.distance(before[name], after[name]) for name in before)
