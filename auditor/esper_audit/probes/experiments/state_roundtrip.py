"""A copy and a restored checkpoint compute the same.

Experiment: after a forward with gradients and a disturbed buffer: `deepcopy`, and `load_state_dict` into a fresh
network. Criterion: the same outputs. Pitfalls: none; pickling, which has some, is the question of `export`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class StateRoundtrip(Probe):
    """P-state of the catalogue."""

    id = "state-roundtrip"
    claim = "deepcopy and state_dict carry everything that the outputs depend on"
    code, name = "ESP481", "state-not-in-checkpoint"
    category, severity = Category.MEMORY, Severity.HIGH
    help = "register tensors as parameters or buffers, and keep no result on `self`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        role, call = m.sequence_call(subject)
        network = subject.heated().train()
        inputs = subject.inputs()
        call(network, inputs)
        try:
            copied = copy.deepcopy(network)
        except Exception as error:  # noqa: BLE001 - the finding itself
            return judged(
                passed=False,
                measured=f"deepcopy after a forward raises {m.sentence(error)}",
                method=subject.method(role, "act").name,
            )
        network.eval()
        with torch.no_grad():
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.add_(0.25)
        restored = subject.fresh(seed=1)  # what is random in the constructor has to come from the checkpoint
        missing = restored.load_state_dict(network.state_dict(), strict=False)
        copied.load_state_dict(network.state_dict(), strict=False)
        with torch.no_grad():
            wanted = m.outputs(m.seeded(call, network, inputs))
            distances = {
                what: max((m.distance(wanted[n], got[n]) for n in wanted), default=0.0)
                for what, got in (
                    ("deepcopy", m.outputs(m.seeded(call, copied.eval(), inputs))),
                    ("state_dict", m.outputs(m.seeded(call, restored.eval(), inputs))),
                )
            }
        if not wanted:
            raise NotComparable(f"{role} returns nothing to compare")
        worst = max(distances, key=lambda name: distances[name])
        keys = len(missing.missing_keys) + len(missing.unexpected_keys)
        return judged(
            passed=distances[worst] <= 1e-6 and not keys,
            measured=f"outputs differ by {distances[worst]:.1e} after {worst}"
            + (f", {keys} keys do not match" if keys else ""),
            method=subject.method(role, "act").name,
        )
