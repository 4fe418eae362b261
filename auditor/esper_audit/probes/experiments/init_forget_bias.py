"""The forget gate of a fresh LSTM starts with a bias of about 1, both bias vectors together.

Experiment: add the forget slices of bias_ih and bias_hh of every LSTM layer and cell. Criterion: the sum is at most
1.5, and no other gate has the bias that the forget gate lacks. Pitfalls: 0 is PyTorch's default and no fault; another
value may be meant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject

GATES = ("input", "forget", "cell", "output")


class InitForgetBias(Probe):
    """P-init of the catalogue, for the forget gate."""

    id = "init-forget-bias"
    claim = "the forget gate starts with a bias of at most 1, bias_ih and bias_hh together"
    code, name = "ESP602", "forget-bias-doubled"
    category, severity = Category.QUALITY, Severity.LOW
    help = "write it to one of the two: test for `bias_ih` instead of `bias`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        network = subject.fresh()
        sums: dict[str, float] = {}
        others: dict[str, float] = {}
        for name, module in network.named_modules():
            if not isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell):
                continue
            parameters = dict(module.named_parameters())
            for key, bias in parameters.items():
                if key.startswith("bias_ih"):
                    total = bias + parameters[key.replace("_ih", "_hh")]
                    gates = [float(gate.mean()) for gate in total.detach().chunk(4)]
                    sums[f"{name}.{key}".strip(".")] = gates[1]
                    if (
                        abs(gates[1]) < 0.25
                    ):  # opened in the wrong slice: PyTorch's order is input, forget, cell, output
                        others |= {gate: by for gate, by in zip(GATES, gates, strict=True) if by > 0.75}
        if not sums:
            raise NotComparable("the network has no LSTM with biases")
        worst = max(sums, key=lambda name: sums[name])
        if others:
            found = ", ".join(f"{gate} {by:.2f}" for gate, by in others.items())
            return judged(
                passed=False, measured=f"the bias of the forget gate is 0, that of another gate is not: {found}"
            )
        gate = 1.0 / (1.0 + math.exp(-sums[worst]))
        return judged(
            passed=sums[worst] <= 1.5,
            measured=f"bias_ih + bias_hh of the forget gate is {sums[worst]:.2f}: it keeps {gate:.3f} per step",
        )
