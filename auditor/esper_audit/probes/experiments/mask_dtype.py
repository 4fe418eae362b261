"""Masking works in half precision.

Experiment: the network in float16 and in bfloat16, one call with masks. Criterion: the call raises no overflow, and no
log-prob of a valid action and no entropy becomes NaN or infinite that is finite in the dtype of the parameters, and
with all actions valid. Pitfalls: other operations may fail in half precision on a CPU; only an error that speaks of
overflow convicts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject


class MaskDtype(Probe):
    """P-dtype of the catalogue, for the mask constant."""

    id = "mask-dtype"
    claim = "masked logits are finite in float16 and bfloat16"
    code, name = "ESP203", "mask-constant-overflow"
    category, severity = Category.DEVICE, Severity.LOW
    help = "use a constant that half precision holds, or cast the logits with `.float()` before masking"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.arguments import unmasked

        role = "evaluate" if subject.takes("mask", "evaluate") else "forward"
        inputs = subject.masked_inputs(role)
        call = getattr(subject, role)
        seen, wrong = [], []
        everywhere = set(_not_finite(call(copy.deepcopy(subject.network), inputs)))  # not a matter of the dtype
        for dtype in (torch.float16, torch.bfloat16):
            short = str(dtype).removeprefix("torch.")
            network = copy.deepcopy(subject.network).to(dtype)
            trial = inputs.but(observations=inputs.observations.to(dtype), hidden=m.converted(inputs.hidden, dtype))
            try:
                reply = call(network, trial)
            except NotComparable:
                raise
            except Exception as error:  # noqa: BLE001 - sorted below
                if "overflow" in str(error):
                    wrong.append(f"{short}: {m.sentence(error, 90)}")
                    seen.append(short)
                continue
            seen.append(short)
            if broken := set(_not_finite(reply)) - everywhere - set(_not_finite(call(network, unmasked(trial)))):
                wrong.append(f"{short}: {' and '.join(sorted(broken))} of masked rows are not finite")
        if not seen:
            raise NotComparable("the network runs neither in float16 nor in bfloat16")
        return judged(passed=not wrong, measured="; ".join(wrong) or f"runs in {' and '.join(seen)}")


def _not_finite(reply: Reply) -> Iterator[str]:
    """What of a reply is NaN or infinite somewhere."""
    for name, tensor in (("log-probs", reply.log_prob), ("entropies", reply.entropy)):
        if tensor is not None and not bool(tensor.isfinite().all()):
            yield name
