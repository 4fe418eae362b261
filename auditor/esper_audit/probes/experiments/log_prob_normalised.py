"""The probabilities of all valid joint actions sum to 1.

Experiment: random weights and masks; evaluate scores every action of every head, one head at a time, beside the same
actions of the others. In a policy whose heads are independent this gives the whole distribution. Criterion: the sum is
1 up to the rounding of the dtype, in every row. A forbidden action with a probability, a head that is left out, a
softmax over another dimension and an epsilon inside a logarithm all break it. Pitfalls: heads that depend on each
other (checked: not comparable then); continuous actions have no sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class LogProbNormalised(Probe):
    """P-mask of the catalogue, with the whole distribution instead of a sample."""

    id = "log-prob-normalised"
    claim = "the probabilities of all valid actions sum to 1"
    code, name = "ESP383", "log-prob-not-normalised"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "log-softmax over the last dimension of the masked logits, and the sum over all heads"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        network = subject.heated().eval()
        inputs = m.scorable(subject, subject.inputs(seed=8))
        scores = m.scored(subject, network, inputs)
        total = scores.base.double() + sum(relative.double().logsumexp(-1) for relative in scores.heads.values())
        limit = m.tolerance(subject.dtype)
        off = float(total.abs().max())
        sums = total.exp()
        return judged(
            passed=off <= limit,
            measured=f"the probabilities of all valid actions sum to {float(sums.min()):.5f} at least "
            f"and {float(sums.max()):.5f} at most, over {total.numel()} rows",
            method=subject.method("evaluate", "act").name,
        )
