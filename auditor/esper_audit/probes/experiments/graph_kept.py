"""After a forward with gradients, nothing of its graph stays on the network.

Experiment: evaluate (or else `forward`) with gradients; then copy the network, and look for tensors with a graph in the
attributes of every module. Criterion: `deepcopy` works. Tolerance: none. Cost: a call and a copy. Pitfalls: a library
may keep its last distribution on purpose, and save and load where others copy; the harm is the memory of one graph, and
a copy (of a target network, of an average of the weights) that fails in the middle of training, hence the low severity.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class GraphKept(Probe):
    """P-state of the catalogue, for what is kept on `self`."""

    id = "graph-kept"
    claim = "a network can be copied after a forward with gradients"
    code, name = "ESP483", "graph-kept-on-self"
    category, severity = Category.MEMORY, Severity.LOW
    help = "return what a later call needs, or keep it detached; a tensor with a graph on `self` keeps the graph alive"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.nested import leaves

        role, call = m.sequence_call(subject)
        network = subject.heated().train()
        call(network, subject.inputs())
        kept = [
            f"{name}.{attribute}".lstrip(".")
            for name, module in network.named_modules()
            for attribute, value in vars(module).items()
            if not attribute.startswith("_") and any(tensor.grad_fn is not None for tensor in leaves(value))
        ]
        shown = f"; tensors with a graph: {m.listed(kept)}" if kept else ""
        try:
            copy.deepcopy(network)
        except Exception as error:  # noqa: BLE001 - the finding itself
            return judged(
                passed=False,
                measured=f"deepcopy raises {m.sentence(error)}{shown}",
                method=subject.method(role, "act").name,
            )
        return judged(passed=True, measured=f"deepcopy works{shown}")
