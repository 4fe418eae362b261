"""Compiling the network compiles the methods that training calls.

Experiment: `torch.compile(network)` with a backend that counts graphs, `nn.LSTM` allowed; call forward, act and
evaluate on the result. Criterion: act and evaluate lead to graphs, too. Pitfalls: true of every network on torch
2.13; whether it matters depends on a trainer that compiles, which a rule has to find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import COMPILE, Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class CompileCoverage(Probe):
    """What `torch.compile(network)` really covers."""

    id = "compile-coverage"
    claim = "torch.compile(network) compiles act and evaluate, too"
    code, name = "ESP103", "compile-covers-forward-only"
    category, severity = Category.COMPILE, Severity.MEDIUM
    help = "compile the methods that training calls"
    group = COMPILE
    convicts = False  # nobody said that the network is compiled

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import dynamo

        counts = {}
        for name, keywords in dynamo.calls(subject):
            counts[name] = dynamo.covered(subject.network, name, keywords)
        others = {name: graphs for name, graphs in counts.items() if name != "forward"}
        if not others:
            raise NotComparable("the network has no method but forward")
        shown = ", ".join(f"{graphs} in `{name}`" for name, graphs in counts.items())
        return judged(passed=all(others.values()), measured=f"graphs compiled: {shown}", method=next(iter(others)))
