"""A mask or an action that does not fit its head is refused.

Experiment: masks one entry too wide, and of width 1, which broadcasts; an action index equal to the size of the head.
Criterion: each raises. Pitfalls: an error from deep inside PyTorch counts as a refusal; it only reads badly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class MaskWidth(Probe):
    """Masks and actions of another size than the head."""

    id = "mask-width"
    claim = "masks and actions that do not fit a head are refused"
    code, name = "ESP503", "unchecked-head-size"
    category, severity = Category.INTEGRATION, Severity.LOW
    help = "compare masks and actions with the sizes of the heads, and raise"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        network = subject.heated().eval()
        inputs = subject.masked_inputs()
        subject.evaluate(network, inputs)
        calls = [("evaluate", subject.evaluate)]
        if subject.takes("mask", "forward"):
            calls.append(("forward", subject.forward))
        head, mask = next(iter(inputs.masks.items()))
        size = mask.shape[-1]
        wide = torch.cat([mask, torch.ones_like(mask[..., :1])], dim=-1)
        one = torch.ones_like(mask[..., :1])
        silent = []
        for what, masks, actions in (
            (f"a mask of width {size + 1}", {**inputs.masks, head: wide}, inputs.actions),
            ("a mask of width 1", {**inputs.masks, head: one}, inputs.actions),
            (f"action {size}", inputs.masks, {**inputs.actions, head: torch.full_like(inputs.actions[head], size)}),
        ):
            for role, call in calls:
                if role == "forward" and actions is not inputs.actions:
                    continue
                try:
                    call(network, inputs.but(masks=masks, actions=actions))
                except NotComparable:
                    raise
                except Exception:  # noqa: BLE001, S112 - refused, as it should be
                    continue
                silent.append(f"{what} in {role}")
        verb = "is" if len(silent) == 1 else "are"
        return judged(
            passed=not silent,
            measured=f"for head `{head}` of {size} actions, "
            + (f"{' and '.join(silent)} {verb} accepted" if silent else "all are refused"),
            method=subject.method("evaluate", "act").name,
        )
