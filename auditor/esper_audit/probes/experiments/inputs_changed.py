"""No method changes what it is given.

Experiment: act, evaluate and forward, with episode starts where they are taken; compare every tensor that was passed
with a copy made before. Criterion: nothing changed. Pitfalls: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class InputsChanged(Probe):
    """In-place changes of what belongs to the caller."""

    id = "inputs-changed"
    claim = "no method changes the tensors it is given"
    code, name = "ESP382", "input-changed-in-place"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "work on a copy: `masked_fill` for `masked_fill_`, a product for `*=`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m
        from esper_audit.probes.nested import leaves

        network = subject.heated().eval()
        changed, tried, blamed = [], 0, ""
        for role in ("act", "evaluate", "forward"):
            if not subject.has(role):
                continue
            inputs = subject.inputs(time=1 if role == "act" else 6)
            inputs.starts[1, 0] = inputs.starts[2, -1] = True
            given = {
                "observations": inputs.observations, "episode starts": inputs.starts,
                **{f"{head} mask": mask for head, mask in inputs.masks.items()},
                **{f"hidden {i}": leaf for i, leaf in enumerate(leaves(inputs.hidden))},
            }  # fmt: skip
            before = {name: tensor.clone() for name, tensor in given.items()}
            with torch.no_grad():
                getattr(subject, role)(network, inputs)
            tried += 1
            found = [f"{name} in {role}" for name, tensor in given.items() if not torch.equal(tensor, before[name])]
            if found:
                blamed = blamed or subject.method(role).name
            changed += found
        if not tried:
            raise NotComparable("the network has no method that could be called")
        return judged(
            passed=not changed,
            measured=f"changed: {m.listed(changed)}" if changed else "nothing changed",
            method=blamed,
        )
