"""A row without a valid action is refused.

Experiment: act and evaluate with one mask row all False. Criterion: an error. Pitfalls: an environment may promise
that this never happens; then the check costs nothing and still catches the day it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class EmptyMaskRow(Probe):
    """P-empty of the catalogue."""

    id = "empty-mask-row"
    claim = "a mask row without a valid action is refused"
    code, name = "ESP587", "empty-mask-row-accepted"
    category, severity = Category.INTEGRATION, Severity.LOW
    help = "raise when a row has no valid action, or keep one action always valid"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        inputs = subject.inputs(time=1)
        roles = [role for role in ("act", "evaluate") if subject.has(role)]
        roles = [role for role in roles if "mask" in subject.roles(subject.method(role)).values()]
        if not roles or not inputs.masks:
            raise NotComparable("the network takes no masks")
        network = subject.heated().eval()
        head, mask = next(iter(inputs.masks.items()))
        empty = mask.clone()
        empty[0] = False
        silent, refused = "", ""
        for role in roles:
            getattr(subject, role)(network, inputs)
            try:
                with torch.no_grad():
                    reply = getattr(subject, role)(network, inputs.but(masks={**inputs.masks, head: empty}))
            except NotComparable:
                raise
            except Exception as error:  # noqa: BLE001 - the refusal that is hoped for
                refused = f"{role} raises {m.sentence(error, 80)}"
                continue
            number = None if reply.log_prob is None else float(reply.log_prob.flatten()[0])
            silent = f"{role} accepts it" + (f" with log-prob {number:.3f}" if number is not None else "")
        return judged(passed=not silent, measured=silent or refused, method=subject.method(roles[0]).name)
