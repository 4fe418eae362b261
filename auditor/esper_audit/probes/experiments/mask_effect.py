"""Logits are masked once.

Experiment: count `masked_fill` and `where` operations in one call of evaluate (or act) that give something as wide as
a head. Criterion: not more than one per head. Pitfalls: a fill of that width may serve something else, an entropy for
one; so this probe judges findings and convicts nobody by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class MaskEffect(Probe):
    """What masking costs."""

    id = "mask-effect"
    claim = "the logits of each head are masked once per call"
    code, name = "ESP402", "mask-applied-twice"
    category, severity = Category.MEMORY, Severity.LOW
    help = "mask in one place: in the network or in the distribution"
    convicts = False  # a second fill may serve something else

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        inputs = subject.masked_inputs()
        network = subject.heated().eval()
        subject.evaluate(network, inputs)
        with m.Operations() as ran:
            subject.evaluate(network, inputs)
        widths = {mask.shape[-1] for mask in inputs.masks.values()}
        fills = ran.count("masked_fill", "masked_fill_", "where", widths=widths)
        syncs = ran.count("_local_scalar_dense", "is_nonzero", "item")
        heads = len(inputs.masks)
        return judged(
            passed=fills <= heads,
            measured=f"{fills} masking operations for {heads} heads in one call, and {syncs} host synchronisations",
            method=subject.method("evaluate", "act").name,
        )
