"""What act returns for the rollout carries no graph.

Experiment: one step, with gradients switched on around it. Criterion: nothing returned requires a gradient, or only
what evaluate-style use needs. Pitfalls: a caller may wrap act in `no_grad`; a method that both acts and scores has to
keep the graph, and is not judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class ActGraph(Probe):
    """P-infer of the catalogue, for gradients."""

    id = "act-graph"
    claim = "what act returns for the rollout carries no graph"
    code, name = "ESP480", "act-keeps-graph"
    category, severity = Category.MEMORY, Severity.INFO
    help = "decorate act with `torch.no_grad()`, unless every caller does so"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        facts = subject.method("act")
        if subject.evaluates_through_act:
            raise NotComparable(f"`{facts.name}` also scores actions, and has to keep the graph")
        if facts.name == "forward":
            raise NotComparable("`forward` acts, and training may call it as well")
        reply = m.acted(subject, subject.heated().train(), subject.inputs().at(0))
        if any(action.requires_grad for action in (reply.action or {}).values()):
            raise NotComparable("the action is differentiable itself, and has to keep the graph")
        kept = [name for name, tensor in reply.tensors() if tensor.requires_grad]
        return judged(
            passed=not kept,
            measured=f"{len(kept)} tensors with a graph" + (f": {m.listed(kept)}" if kept else ""),
            method=facts.name,
        )
