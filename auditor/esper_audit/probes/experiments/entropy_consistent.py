"""The entropy is that of the distribution which the log-probs describe.

Experiment: as for the sum of probabilities; the whole distribution of each head is known from log-probs alone, and so
is its entropy. Criterion: what evaluate returns is the joint entropy, or a share of the largest one, or minus the
log-prob. Pitfalls: a network may weight its heads; heads that depend on each other are not comparable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class EntropyConsistent(Probe):
    """The entropy bonus against a brute-force sum."""

    id = "entropy-consistent"
    claim = "the entropy is the sum of the entropies of all heads"
    code, name = "ESP384", "entropy-of-another-distribution"
    category, severity = Category.GRADIENT, Severity.MEDIUM
    help = "sum `-(p * log_p)` over the valid actions, and over all heads"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        network = subject.heated().eval()
        inputs = m.scorable(subject, subject.inputs(seed=8))
        scores = m.scored(subject, network, inputs)
        if scores.entropy is None:
            raise NotComparable("evaluate returns no entropy")
        each, largest, sizes = [], [], []
        for head, relative in scores.heads.items():
            log_p = relative.double().log_softmax(-1)
            each.append(-(log_p.exp() * log_p.masked_fill(log_p.isinf(), 0.0)).sum(-1))
            count = inputs.masks[head].sum(-1).double()
            largest.append(count.clamp(min=2).log())
            sizes.append(torch.full_like(count, relative.shape[-1]).log())
        per_head = torch.stack(each)
        accepted = {"the joint entropy": per_head.sum(0), "minus the log-prob": -scores.base.double()}
        for bound in (torch.stack(largest), torch.stack(sizes)):
            shares = per_head / bound
            accepted |= {
                f"{len(accepted)}": per_head.sum(0) / bound.sum(0),
                f"{len(accepted) + 1}": shares.sum(0),
                f"{len(accepted) + 2}": shares.mean(0),
            }
        limit = 10 * m.tolerance(subject.dtype)
        got = scores.entropy.double()
        distances = {
            name: m.distance(got, wanted if got.dim() == wanted.dim() else wanted.mean())
            for name, wanted in accepted.items()
        }
        joint = per_head.sum(0)
        return judged(
            passed=min(distances.values()) <= limit,
            measured=f"the entropy returned is {float(got.mean()):.4f} on average, "
            f"that of the log-probs {float(joint.mean()):.4f}",
            method=subject.method("evaluate", "act").name,
        )
