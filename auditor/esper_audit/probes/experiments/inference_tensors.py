"""What act returns may be fed to a training forward: no tensor born in inference mode gets out.

Experiment: take an action, look at every tensor returned; then evaluate from the hidden state and with the actions as
they came, and go backward. Criterion: no inference tensor. Pitfalls: a buffer that copies makes them harmless, and
subtraction is harmless as well; the claim is about the tensors themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class InferenceTensors(Probe):
    """P-infer of the catalogue."""

    id = "inference-tensors"
    claim = "no tensor born in inference mode leaves act"
    code, name = "ESP303", "inference-tensor-escape"
    category, severity = Category.GRADIENT, Severity.MEDIUM
    help = "use `torch.no_grad()` in act, or `.clone()` what leaves the block"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        network = subject.heated().train()
        inputs = subject.inputs()
        reply = m.acted(subject, network, inputs.at(0))
        born = [name for name, tensor in reply.tensors() if tensor.is_inference()]
        if not born:
            return judged(
                passed=True, measured=f"{len(list(reply.tensors()))} tensors returned, none of them an inference tensor"
            )
        consequences = []
        trials = {"hidden state": inputs.at(1).but(hidden=reply.hidden)} if reply.hidden is not None else {}
        if reply.action and set(reply.action) == set(inputs.actions):
            trials["actions"] = inputs.at(0).but(actions=reply.action)
        for what, trial in trials.items():
            try:
                evaluated = subject.evaluate(network, trial)
                m.first(evaluated.log_prob, evaluated.value).sum().backward()
            except NotComparable:
                continue
            except Exception as error:  # noqa: BLE001 - what the trainer would see
                consequences.append(f"evaluate with the {what} raises {m.sentence(error, 80)}")
        return judged(
            passed=False,
            measured="; ".join([f"{len(born)} inference tensors returned ({m.listed(born, 6)})", *consequences]),
            method=subject.method("act").name,
        )
