"""A fresh hidden state is on the device of the parameters.

Experiment: the network on the meta device, which needs no GPU; where does its initial state lie? Criterion: on meta.
Pitfalls: a method that takes a device is given that of the parameters.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class HiddenDevice(Probe):
    """P-meta of the catalogue, for the hidden state."""

    id = "hidden-device"
    claim = "a fresh hidden state is on the device of the parameters"
    code, name = "ESP202", "hidden-without-device"
    category, severity = Category.DEVICE, Severity.HIGH
    acquits = False  # a state made elsewhere in the network was not looked at
    help = "make the state with `device` of a parameter or of the input"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes.nested import leaves

        if not subject.has("initial_state"):
            raise NotComparable("the network has no method that makes a hidden state")
        method = subject.method("initial_state").name
        try:
            state = subject.initial(5, copy.deepcopy(subject.network).to("meta"))
        except NotImplementedError as error:  # what leaves the meta device would leave a GPU
            if "copy out of meta" not in str(error):
                raise
            return judged(
                passed=False, measured="a state on meta, the device of the parameters, is moved away", method=method
            )
        devices = sorted({leaf.device.type for leaf in leaves(state)})
        if not devices:
            raise NotComparable("the initial state holds no tensors")
        return judged(
            passed=devices == ["meta"],
            measured=f"with the parameters on meta, the initial state is on {', '.join(devices)}",
            method=method,
        )
