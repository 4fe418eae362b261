"""With some actions masked, entropy and log-prob have finite values and gradients.

Experiment: random masks and weights, backward from log-prob and entropy together. Criterion: everything is finite.
Pitfalls: none known; rows without a valid action are another probe's question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class MaskEntropy(Probe):
    """P-grad of the catalogue, for masked rows."""

    id = "mask-entropy"
    claim = "entropy and log-prob of masked rows have finite values and gradients"
    code, name = "ESP302", "neg-inf-mask"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "mask with a large finite constant, or leave masked entries out of the product"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        inputs = subject.masked_inputs()
        network = subject.heated().train()
        reply = subject.evaluate(network, inputs)
        parts = [part for part in (reply.log_prob, reply.entropy) if part is not None]
        if not parts:
            raise NotComparable("evaluate returns neither log-prob nor entropy")
        broken = [
            name
            for name, part in (("log_prob", reply.log_prob), ("entropy", reply.entropy))
            if part is not None and not bool(part.isfinite().all())
        ]
        sum(part.sum() for part in parts).backward()  # type: ignore[union-attr]
        bad = m.bad_gradients(network)
        return judged(
            passed=not broken and not bad,
            measured=(
                f"not finite: {m.listed([*broken, *(f'gradient of {name}' for name in bad)], 3)}"
                if broken or bad
                else "all values and gradients finite"
            ),
            method=subject.method("evaluate", "act").name,
        )
