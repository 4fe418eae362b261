"""A fresh policy is close to uniform over the valid actions.

Experiment: the entropy of the fresh network over random observations, as a share of its maximum. Criterion: at least
0.95 on average. Pitfalls: small features hide a large gain, so this is lenient; a policy may start elsewhere on
purpose.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class InitPolicy(Probe):
    """P-init of the catalogue, for the policy."""

    id = "init-policy"
    claim = "a fresh policy is close to uniform"
    code, name = "ESP681", "policy-head-gain"
    category, severity = Category.QUALITY, Severity.LOW
    help = "initialise the last layer of each policy head with a gain of 0.01"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes.arguments import unmasked

        inputs = unmasked(subject.inputs(seed=2))
        if not inputs.masks:
            raise NotComparable("the network has no discrete head that is known")
        network = subject.fresh().eval()
        sizes = {head: mask.shape[-1] for head, mask in inputs.masks.items()}
        uniform = -sum(math.log(size) for size in sizes.values())
        spread = []
        with torch.no_grad():
            for shift in range(4):
                actions = {h: torch.full_like(a, shift % sizes[h]) for h, a in inputs.actions.items()}
                log_prob = subject.evaluate(network, inputs.but(actions=actions)).log_prob
                if log_prob is None:
                    raise NotComparable("evaluate returns no log-prob")
                spread.append(float((log_prob - uniform).abs().mean()))
        mean = fmean(spread)
        return judged(
            passed=mean < 0.35,
            measured=f"log-probs of a fresh policy are {mean:.2f} from uniform on average",
        )
