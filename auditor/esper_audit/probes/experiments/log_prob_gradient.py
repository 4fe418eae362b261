"""The log-prob that act returns has a gradient.

Experiment: look at it, and go backward from it. Criterion: it requires a gradient. Pitfalls: most act methods mean it
to have none; then the claim is refuted on purpose, and what remains to ask is whether the docstring says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class LogProbGradient(Probe):
    """Whether a loss may be built on what act returns."""

    id = "log-prob-gradient"
    claim = "the log-prob that act returns carries a gradient"
    code, name = "ESP301", "undocumented-gradient-free-log-prob"
    category, severity = Category.GRADIENT, Severity.MEDIUM
    help = "say in the docstring that no gradient flows through it"
    convicts = False  # by itself it is no fault

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        network = subject.heated().train()
        log_prob = m.acted(subject, network, subject.inputs().at(0)).log_prob
        if log_prob is None:
            raise NotComparable("act returns no log-prob")
        try:
            log_prob.sum().backward()
        except RuntimeError as error:
            return judged(
                passed=False, measured=f"backward from it raises {m.sentence(error)}", method=subject.method("act").name
            )
        return judged(passed=True, measured="backward from it reaches the parameters")
