"""At unchanged weights, evaluate gives the log-probs and values that act gave: the PPO ratio is 1.

Experiment: random weights, training mode; act steps through T steps with the hidden state carried and some episodes
starting on the way, evaluate scores the actions taken, once from the first hidden state and once from the one in the
middle. Criterion: differences below the rounding of the dtype (1e-4 in float32, without oneDNN), and no refusal.
Pitfalls: dropout is a real mismatch; a policy that starts near uniform hides one a hundredfold, hence random weights; a
network may leave a last dimension of 1, `[B, 1]` from act and `[B, T, 1]` from evaluate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class ActEvaluate(Probe):
    """P-ratio and P-window of the catalogue."""

    id = "act-evaluate"
    claim = "evaluate gives the log-probs and values that act gave"
    code, name = "ESP580", "act-evaluate-mismatch"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "use the same masks, resets, hidden state and layers in both; the ratio has to be 1 before the first update"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        if not subject.has("act"):
            raise NotComparable("the network has no act method")
        network = subject.heated().train()
        starts = subject.inputs(seed=3)
        middle = starts.starts.shape[1] // 2
        method = subject.method("evaluate", "act")
        if all({"starts", "keeps"} & set(subject.roles(facts).values()) for facts in (method, subject.method("act"))):
            for row, step in enumerate((1, middle, middle + 1), start=1):
                starts.starts[row, step] = True
        with m.without_onednn():
            inputs, replies, states = m.act_sequence(subject, network, starts)
            try:
                whole = subject.evaluate(network, inputs)
            except NotComparable:
                raise
            except Exception as error:  # noqa: BLE001 - of the audited code
                subject.evaluate(network, starts)  # does it refuse these actions, or everything?
                return judged(
                    passed=False,
                    measured=f"evaluate refuses the actions that act took: {m.sentence(error)}",
                    method=method.name,
                )
            window = subject.evaluate(network, inputs.cut(middle, inputs.starts.shape[1]).but(hidden=states[middle]))
        distances = {}
        for name, act, evaluated, later in (
            ("log_prob", m.along_time(replies, "log_prob"), whole.log_prob, window.log_prob),
            ("value", m.along_time(replies, "value"), whole.value, window.value),
        ):
            if act is None or evaluated is None:
                continue
            stepped = m.in_axes_of(act, evaluated)
            distances[name] = m.distance(stepped, m.in_axes_of(evaluated, stepped))
            if later is not None:
                distances[f"{name} from the middle"] = m.distance(stepped[:, middle:], m.in_axes_of(later, stepped))
        if not distances:
            raise NotComparable("act and evaluate return no log-prob and no value that could be compared")
        worst = max(distances, key=lambda name: distances[name])
        limit = m.tolerance(subject.dtype)
        return judged(
            passed=distances[worst] <= limit,
            measured=f"largest difference {distances[worst]:.1e} ({worst}), tolerance {limit:.0e}",
            method=method.name,
        )
