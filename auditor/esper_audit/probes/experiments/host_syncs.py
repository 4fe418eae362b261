"""Act and evaluate never make the host wait for the device.

Experiment: count the operations that read a tensor's value into Python, and note the line of the network's own project
that asked. Criterion: none. Pitfalls: on a CPU nothing waits, so this costs nothing there; the validation of
`torch.distributions` asks as well, and where a trainer needs the action in Python, one wait per step is unavoidable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class HostSyncs(Probe):
    """Waits for the device, with their lines."""

    id = "host-syncs"
    claim = "act and evaluate never make the host wait for the device"
    code, name = "ESP180", "host-synchronisation"
    category, severity = Category.COMPILE, Severity.INFO
    help = "keep tensors in conditions and checks, with `torch.where` or an asynchronous assertion"
    convicts = False  # it costs nothing on a CPU, and something may have to wait

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.waits import Waits

        counts, places, blamed = [], [], ""
        network = subject.heated().eval()
        for role in ("act", "evaluate", "forward"):
            if not subject.has(role):
                continue
            inputs = subject.inputs(time=1) if role == "act" else subject.inputs()
            getattr(subject, role)(network, inputs)  # the convention is found by trying, and is not to be counted
            with Waits(subject.order.root) as waits:
                getattr(subject, role)(network, inputs)
            name = subject.method(role).name
            counts.append(f"{len(waits.places)} in `{name}`")
            places += waits.places
            if waits.places:
                blamed = blamed or name
        if not counts:
            raise NotComparable("the network has no method that could be called")
        where = f" ({m.listed(dict.fromkeys(places), 3)})" if places else ""
        return judged(passed=not places, measured=f"waits per call: {', '.join(counts)}{where}", method=blamed)
