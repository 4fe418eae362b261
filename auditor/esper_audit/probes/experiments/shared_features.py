"""Policy and value both train the features that they share.

Experiment: as for `gradient-cut`: which parameters move log-prob, entropy and value, and which get a gradient from
each. Criterion: no parameter moves both policy and value, and is trained by one of them alone. Tolerance: a change
counts from 1e-3 on, in every dtype. Cost: none beside `gradient-cut`. Pitfalls: a `.detach()` in front of the value
head, or of the whole policy, may be meant: where the value is trained in a phase of its own, or where a policy reads
features that are learned from the value alone. Nothing in the network tells that from a mistake, hence the low
severity; write `# esper: ignore[ESP370] why` above the class, or leave `shared-features` out of `check_network`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.experiments.gradient_cut import cuts_of

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class SharedFeatures(Probe):
    """Features that one of two losses does not train."""

    id = "shared-features"
    claim = "policy and value both train the features that they share"
    code, name = "ESP370", "features-trained-by-one-loss"
    category, severity = Category.GRADIENT, Severity.LOW
    help = (
        "take out the `.detach()` between the features and the head that does not train them; "
        "where it is meant, write `# esper: ignore[ESP370] why` above the class"
    )

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        cuts = cuts_of(subject)
        policy = [name for name in cuts.depends if name != "value"]
        if "value" not in cuts.depends or not policy:
            raise NotComparable("evaluate does not return both log-prob and value with a gradient")
        shared = set().union(*(cuts.depends[name] for name in policy)) & cuts.depends["value"]
        if not shared:
            raise NotComparable("policy and value share no parameter")
        parts = []
        for name in cuts.depends:
            if cut := sorted(cuts.cut(name) & cuts.trained_by_others(name)):
                other = "value" if name != "value" else " and ".join(policy)
                layers = dict.fromkeys(each.split(".")[0] for each in cut)
                parts.append(
                    f"{name} trains {len(shared) - len(cut)} of {len(shared)} parameters that it shares with {other}, "
                    f"which do train them: it is detached from `{m.listed(layers, 3)}`, by mistake or on purpose"
                )
        return judged(
            passed=not parts,
            measured="; ".join(parts) or f"{len(shared)} parameters are shared, and both train them",
            method=subject.method("evaluate", "act").name,
        )
