"""A mask of integers means what the same mask of booleans means, or is refused.

Experiment: evaluate, act and forward with the mask as uint8 and as int64. Criterion: an error, or the results of the
bool mask. Pitfalls: `~` turns an integer 1 into 254 or -2, which is true again; floats are left out, since a float
mask may be meant to be added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class MaskKinds(Probe):
    """The dtype sweep of the catalogue."""

    id = "mask-kinds"
    claim = "a mask of integers is refused, or means what the bool mask means"
    code, name = "ESP280", "integer-mask-misread"
    category, severity = Category.DEVICE, Severity.HIGH
    help = "refuse a mask that is not bool, or convert it with `.bool()` before `~`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        network = subject.heated().eval()
        inputs = subject.inputs()
        wrong, right, blamed = [], [], ""
        for role in ("evaluate", "forward"):
            facts, names = subject.parameters_for("mask", role)
            if facts is None or not names or not inputs.masks:
                continue
            with torch.no_grad():
                wanted = m.outputs(getattr(subject, role)(network, inputs))
            keywords = subject.arguments(network, facts, inputs, "sequence", score=role == "evaluate")
            for dtype in (torch.uint8, torch.int64):
                short = str(dtype).removeprefix("torch.")
                trial = {
                    name: m.converted(value, dtype) if name in names else value for name, value in keywords.items()
                }
                try:
                    with torch.no_grad():
                        got = m.outputs(subject.called(network, facts, trial, inputs))
                except Exception:  # noqa: BLE001 - refused
                    right.append(f"{short} raises in `{facts.name}`")
                    continue
                worst = max((m.distance(wanted[name], got.get(name)) for name in wanted), default=0.0)
                if worst <= m.tolerance(subject.dtype):
                    right.append(f"{short} means the same in `{facts.name}`")
                else:
                    wrong.append(f"with a {short} mask the results of `{facts.name}` move by {worst:.1e}")
                    blamed = blamed or facts.name
        if not wrong and not right:
            raise NotComparable("no method takes masks beside a sequence")
        return judged(passed=not wrong, measured="; ".join(wrong or right), method=blamed)
