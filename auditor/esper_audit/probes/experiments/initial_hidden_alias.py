"""The rows and parts of a fresh hidden state share no memory.

Experiment: write to one row of h and look at the other rows, at c, and at the next fresh state. Criterion: nothing
else changes. Pitfalls: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class InitialHiddenAlias(Probe):
    """P-alias of the catalogue."""

    id = "initial-hidden-alias"
    claim = "the parts of a fresh hidden state share no memory"
    code, name = "ESP589", "initial-hidden-aliased"
    category, severity = Category.INTEGRATION, Severity.HIGH
    help = "make h and c with a call each, at full size: no `expand`, no `(z, z)`, no cached tensor"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes.nested import leaves

        if not subject.has("initial_state"):
            raise NotComparable("the network has no method that makes a hidden state")
        state = leaves(subject.initial(5))
        if not state:
            raise NotComparable("the initial state holds no tensors")
        rows = state[0].dim() - 2 if state[0].dim() >= 2 else 0
        before = [leaf.clone() for leaf in state]
        with torch.no_grad():
            state[0].select(rows, 0).fill_(7.0)
        changed = []
        others = state[0].narrow(rows, 1, state[0].shape[rows] - 1)
        if not torch.equal(others, before[0].narrow(rows, 1, others.shape[rows])):
            changed.append("other environments")
        if any(not torch.equal(leaf, was) for leaf, was in zip(state[1:], before[1:], strict=True)):
            changed.append("the other part of the state")
        if any(not torch.equal(leaf, was) for leaf, was in zip(leaves(subject.initial(5)), before, strict=True)):
            changed.append("the next fresh state")
        return judged(
            passed=not changed,
            measured=f"writing to one environment changes {' and '.join(changed) or 'nothing else'}",
            method=subject.method("initial_state").name,
        )
