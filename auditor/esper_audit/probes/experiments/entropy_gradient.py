"""Rows with one valid action give the entropy bonus a finite gradient, in half precision as well.

Experiment: evaluate with one valid action per row, in float32 and in float16, and go backward from the entropy.
Criterion: value and gradients are finite. Pitfalls: a network that does not run in float16 at all decides nothing
there.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.subject import Subject


class EntropyGradient(Probe):
    """P-grad of the catalogue, for rows without a choice."""

    id = "entropy-gradient"
    claim = "rows with one valid action give the entropy a finite gradient in float32 and float16"
    code, name = "ESP304", "normaliser-clamp-underflow"
    category, severity = Category.GRADIENT, Severity.LOW
    help = "clamp what can really be too small: `num_valid.clamp(min=2)` before the log"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        inputs = forced(subject)
        seen, wrong = [], []
        for dtype in (torch.float32, torch.float16):
            network = copy.deepcopy(subject.network).to(dtype).train()
            trial = inputs.but(observations=inputs.observations.to(dtype), hidden=m.converted(inputs.hidden, dtype))
            short = str(dtype).removeprefix("torch.")
            try:
                entropy = subject.evaluate(network, trial).entropy
            except NotComparable:
                raise
            except Exception:  # noqa: BLE001, S112 - it does not run in this dtype, which is another probe's question
                continue
            if entropy is None:
                raise NotComparable("evaluate returns no entropy")
            entropy.sum().backward()
            bad = m.bad_gradients(network)
            seen.append(short)
            if bad or not bool(entropy.isfinite().all()):
                wrong.append(f"{short}: gradients of {len(bad)} parameters are NaN or infinite ({m.listed(bad, 2)})")
        if not seen:
            raise NotComparable("evaluate runs neither in float32 nor in float16")
        return judged(
            passed=not wrong,
            measured="; ".join(wrong) or f"all gradients finite in {' and '.join(seen)}",
            method=subject.method("evaluate", "act").name,
        )


def forced(subject: Subject) -> Inputs:
    """Inputs in which every row of every mask has the action taken as its only valid one."""
    inputs = subject.inputs()
    if not inputs.masks:
        raise NotComparable("the network has no masks")
    if not any("mask" in subject.roles(f).values() for f in subject.order.methods):
        raise NotComparable("the network takes no masks")
    masks = {
        head: torch.zeros_like(mask).scatter(-1, inputs.actions[head].unsqueeze(-1), value=True)
        for head, mask in inputs.masks.items()
    }
    return inputs.but(masks=masks)
