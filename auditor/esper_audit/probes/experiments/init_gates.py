"""Where recurrent weights are orthogonal, each gate is.

Experiment: the weights of a fresh LSTM or GRU; is the stacked matrix orthogonal up to a gain, and are its blocks?
Criterion: orthogonal blocks wherever the whole is orthogonal. Pitfalls: the default initialisation claims nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class InitGates(Probe):
    """P-init of the catalogue, for orthogonal gates."""

    id = "init-gates"
    claim = "orthogonal recurrent weights are orthogonal gate by gate"
    code, name = "ESP680", "fused-orthogonal-gates"
    category, severity = Category.QUALITY, Severity.INFO
    help = "initialise `weight.chunk(4)` (GRU: 3) one by one"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        worst, where, claimed = 0.0, "", False
        for name, module in subject.fresh().named_modules():
            kinds = {torch.nn.LSTM: 4, torch.nn.LSTMCell: 4, torch.nn.GRU: 3, torch.nn.GRUCell: 3}
            gates = next((number for kind, number in kinds.items() if isinstance(module, kind)), 0)
            for key, weight in module.named_parameters(recurse=False) if gates else ():
                if not key.startswith("weight_hh"):
                    continue
                blocks = [deviation(gate) for gate in weight.detach().chunk(gates)]
                if deviation(weight.detach()) < 0.01 or max(blocks) < 0.01:
                    claimed = True
                    if max(blocks) > worst:
                        worst, where = max(blocks), f"{name}.{key}"
        if not claimed:
            raise NotComparable("no recurrent weight is orthogonal, so none claims to be")
        return judged(
            passed=worst < 0.01,
            measured=f"a gate deviates from orthogonal by {worst:.2f}" + (f" ({where})" if worst >= 0.01 else ""),
        )


def deviation(weight: torch.Tensor) -> float:
    """How far a matrix is from orthogonal up to a gain: the largest entry of W W^T / g^2 - 1."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    product = wide @ wide.T
    gain = float(product.diagonal().mean()) or 1.0
    return float((product / gain - torch.eye(len(product))).abs().max())
