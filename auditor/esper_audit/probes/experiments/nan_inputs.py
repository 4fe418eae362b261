"""An observation that is not a number is not hidden.

Experiment: random weights; NaN for one environment at one step, in evaluate and in act. Criterion: the call raises, or
each of log-prob and value that depends on this observation is NaN there. Tolerance: none. Cost: six calls.
Pitfalls: NaN may stand for what is missing, on purpose; a network that compares or rounds its observations hides it by
nature. Then say so beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject

ROW, STEP = 1, 2
OUTPUTS = ("log_prob", "value")


class NanInputs(Probe):
    """P-extreme of the catalogue, for what is not a number."""

    id = "nan-inputs"
    claim = "an observation that is NaN raises or comes out as NaN"
    code, name = "ESP388", "nan-hidden"
    category, severity = Category.GRADIENT, Severity.LOW
    help = "take out the `nan_to_num`; where NaN stands for what is missing, give the network a mask of it"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        told, why, hidden, blamed = [], "the network has no method that acts or scores", False, ""
        for role, call in (("evaluate", subject.evaluate), ("act", subject.act)):
            if not (subject.has(role) or (role == "evaluate" and subject.evaluates_through_act)):
                continue
            name = subject.method(role, "act").name
            try:
                text, silent = _answer(subject, call, at=STEP if role == "evaluate" else 0)
            except NotComparable as reason:
                why = str(reason)
                continue
            told.append(f"`{name}` {text}")
            if silent:
                hidden, blamed = True, blamed or name
        if not told:
            raise NotComparable(why)
        return judged(passed=not hidden, measured=f"with NaN observed {'; '.join(told)}", method=blamed)


def _answer(subject: Subject, call: Callable[[nn.Module, Inputs], Reply], *, at: int) -> tuple[str, bool]:
    """What a method makes of NaN, and whether that hides it."""
    import torch

    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked

    network = subject.heated().eval()
    inputs = unmasked(subject.inputs(time=at + 1, seed=12))
    other = m.disturbed(inputs.observations, ROW, at)
    nan = inputs.observations.clone()
    nan[ROW, at] = torch.nan
    with torch.no_grad(), m.without_onednn():
        before = m.seeded(call, network, inputs)
        after = m.seeded(call, network, inputs.but(observations=other))
        depends = [name for name in OUTPUTS if _moves(getattr(before, name), getattr(after, name), at)]
        if not depends:
            raise NotComparable("no log-prob and no value depends on the observation")
        try:
            reply = m.seeded(call, network, inputs.but(observations=nan))
        except Exception as error:  # noqa: BLE001 - a refusal, of whatever type
            return f"raises {type(error).__name__}", False
    silent = [name for name in depends if not bool(getattr(reply, name)[ROW, at].isnan().any())]
    if silent:
        return f"returns numbers ({m.listed(silent)})", True
    return f"returns NaN ({m.listed(depends)})", False


def _moves(before: Tensor | None, after: Tensor | None, at: int) -> bool:
    """Whether an output of the row that was changed is another one."""
    if before is None or after is None or before.dim() < 2 or before.shape[1] != at + 1 or before.shape != after.shape:
        return False
    pair = before[ROW, at], after[ROW, at]
    return bool((pair[0].isfinite() & pair[1].isfinite() & (pair[0] != pair[1])).all())
