"""Every tensor of the network moves with it.

Experiment: the network and its inputs on the meta device, which needs no GPU; watch all operations of one call of
evaluate, or of `forward` or act where evaluate stops. Criterion: none combines a tensor on meta with one that stayed on
the CPU. Pitfalls: a single number may stay, and so may an index; an operation that needs values stops the experiment,
and what came before it still counts. The validation of `torch.distributions` is such an operation, and off meanwhile.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.measuring import Operations
    from esper_audit.probes.subject import Subject


class DeviceMoves(Probe):
    """P-meta of the catalogue, for everything but the hidden state."""

    id = "device-moves"
    claim = "every tensor that a call needs moves with the network"
    code, name = "ESP281", "tensor-left-behind"
    category, severity = Category.DEVICE, Severity.HIGH
    acquits = False  # only one call was looked at
    help = "register it with `register_buffer`, or make it with the device of an input"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        stops = []
        for role in ("evaluate", "forward", "act"):
            if not subject.has(role):
                continue
            name = subject.method(role).name
            try:
                ran, stopped = _moved(subject, role)
            except NotComparable as why:
                stops.append(str(why))
                continue
            if left := sorted(set(ran.mixed)):
                measured = f"a tensor stayed on the CPU when the network moved: in {m.listed(left)}"
                return judged(passed=False, measured=measured, method=name)
            if not stopped:
                return judged(
                    passed=True, measured=f"{len(ran.seen)} operations of `{name}` ran on the other device alone"
                )
            stops.append(f"`{name}` stops on the meta device ({stopped})")
        raise NotComparable(stops[0] if stops else "the network has no method that could be called")


def _moved(subject: Subject, role: str) -> tuple[Operations, str]:
    """The operations of one call on the meta device, and why it stopped if it did."""
    from esper_audit.probes import measuring as m
    from esper_audit.probes.nested import mapped

    facts = subject.method(role)
    kind = "act" if role == "act" else "sequence"
    inputs = subject.inputs(time=1) if role == "act" else subject.inputs()
    keywords = subject.arguments(subject.network, facts, inputs, kind, score=role == "evaluate")
    network = copy.deepcopy(subject.network).to("meta").eval()
    moved = {name: mapped(value, lambda tensor: tensor.to("meta")) for name, value in keywords.items()}
    with m.validation(on=False), m.Operations() as ran:
        try:
            (network if facts.name == "forward" else getattr(network, facts.name))(**moved)
        except Exception as error:  # noqa: BLE001 - an operation that needs values, or the finding itself
            return ran, m.sentence(error, 90)
    return ran, ""
