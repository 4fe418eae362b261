"""A fresh hidden state fits a network of any dtype.

Experiment: the network in bfloat16, float16 and float64, one step from its own initial state; then, as a control, from
the same state in the dtype of the parameters. Criterion: the first runs wherever the control does. Pitfalls: the
control may fail for reasons of its own (an operation that the CPU lacks in half precision): then nothing is decided.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class HiddenDtype(Probe):
    """P-dtype of the catalogue, for the hidden state."""

    id = "hidden-dtype"
    claim = "a fresh hidden state has the dtype of the parameters"
    code, name = "ESP201", "hidden-without-dtype"
    category, severity = Category.DEVICE, Severity.MEDIUM
    help = "make the state with `dtype` of a parameter, or with `weight.new_zeros`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.nested import leaves

        if subject.initial(1) is None:
            raise NotComparable("the network has no hidden state")
        wrong: list[str] = []
        right: list[str] = []
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            network = copy.deepcopy(subject.network).to(dtype)
            state = subject.initial(5, network)
            inputs = subject.inputs(time=1)
            inputs = inputs.but(observations=inputs.observations.to(dtype))
            call = subject.act if subject.has("act") else subject.forward
            short = str(dtype).removeprefix("torch.")
            try:
                call(network, inputs.but(hidden=m.converted(state, dtype)))
            except NotComparable:
                raise
            except Exception:  # noqa: BLE001, S112 - the control failed: this dtype decides nothing
                continue
            got = ", ".join(sorted({str(leaf.dtype).removeprefix("torch.") for leaf in leaves(state)}))
            try:
                call(network, inputs.but(hidden=state))
            except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
                wrong.append(f"in {short} a step from the initial state ({got}) raises {m.sentence(error, 90)}")
            else:
                (right if got == short else wrong).append(f"in {short} the initial state is {got}")
        if not wrong and not right:
            raise NotComparable("the network runs in no other dtype, whatever its hidden state")
        return judged(
            passed=not wrong,
            measured="; ".join(wrong or right),
            method=subject.method("initial_state").name if subject.has("initial_state") else "",
        )
