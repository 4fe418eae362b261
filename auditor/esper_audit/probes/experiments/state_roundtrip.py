"""A copy and a restored checkpoint compute the same.

Experiment: after a step of act, a forward without gradients and a disturbed buffer: `deepcopy`, and `load_state_dict`
into a fresh network. Criterion: the same outputs, of act as well where it is given its hidden state. Pitfalls: an act
that takes no hidden state may keep it on `self`, which is another interface. A copy after a forward with gradients is
the question of `graph-kept`; pickling, which has pitfalls of its own, that of `export`.
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
        calls = {role: (call, inputs)}
        if role != "forward" and subject.has("act") and subject.takes("hidden", "act"):
            calls["act"] = (subject.act, inputs.at(0))
            with torch.no_grad():
                m.seeded(subject.act, network, subject.inputs(seed=4).at(0))
        with torch.no_grad():
            call(network, inputs)
        try:
            copied = copy.deepcopy(network)
        except Exception as error:  # noqa: BLE001 - the finding itself
            return judged(
                passed=False,
                measured=f"deepcopy raises {m.sentence(error)}",
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
            wanted, copy_gives, restored_gives = (
                {
                    f"{name} of {each}": tensor
                    for each, (method, given) in calls.items()
                    for name, tensor in m.outputs(m.seeded(method, which, given)).items()
                }
                for which in (network, copied.eval(), restored.eval())
            )
        if not wanted:
            raise NotComparable(f"{role} returns nothing to compare")
        distances = {
            what: max(m.distance(wanted[name], got[name]) for name in wanted)
            for what, got in (("deepcopy", copy_gives), ("state_dict", restored_gives))
        }
        worst = max(distances, key=lambda name: distances[name])
        keys = len(missing.missing_keys) + len(missing.unexpected_keys)
        return judged(
            passed=distances[worst] <= 1e-6 and not keys,
            measured=f"outputs differ by {distances[worst]:.1e} after {worst}"
            + (f", {keys} keys do not match" if keys else ""),
            method=subject.method(role, "act").name,
        )
