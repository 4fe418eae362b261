"""Large numbers stay numbers: log-prob, entropy, value and all gradients are finite for large observations and logits.

Experiment: random weights, all actions valid. Evaluate as a control; then with observations a thousandfold; then with
weights enlarged until a layer gives 10000. Backward from log-prob, entropy and value together. Criterion: whatever is
finite in the control is finite there too, or the call raises before anything overflows; the first operation that made
an infinity or NaN of finite numbers is told. Tolerance: none, and only float32 and float64 are judged, since 1000 is
large in half precision. Cost: at most ten calls. Pitfalls: what a matrix product itself cannot hold is no fault of the
network; a value that is meant to be an exponential overflows rightly. Whether log-probs still follow large logits is
the question of `policy-range`.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.subject import Subject

OBSERVATIONS, LAYERS = 1e3, 1e4
FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
OUTPUTS = ("log_prob", "entropy", "value")


class ExtremeInputs(Probe):
    """P-extreme of the catalogue, for numbers that overflow."""

    id = "extreme-inputs"
    claim = "large observations and large logits give finite outputs and gradients"
    code, name = "ESP387", "overflow"
    category, severity = Category.GRADIENT, Severity.MEDIUM
    help = "use `log_softmax`, `logsumexp` and `softplus`, which hold for every number, in the place of `exp` and `log`"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m
        from esper_audit.probes.arguments import unmasked

        if subject.dtype not in (torch.float32, torch.float64):
            raise NotComparable(f"the network computes in {subject.dtype}")
        network = subject.heated().eval()
        inputs = unmasked(subject.inputs(time=3, seed=11))
        if wrong := _overflows(subject, network, inputs)[0]:
            raise NotComparable(f"{wrong} for ordinary inputs already")
        large = inputs.but(observations=inputs.observations * OBSERVATIONS)
        enlarged, most = _enlarged(subject, network, inputs)
        told, names = [], ("with observations a thousandfold", f"with layers that give {most:.0e}")
        for name, (tried, given) in zip(names, ((network, large), (enlarged, inputs)), strict=True):
            wrong, first = _overflows(subject, tried, given)
            if not wrong:
                continue
            if first in m.Overflow.PRODUCTS:
                raise NotComparable(f"{name} a matrix product overflows")
            told.append(f"{name}: {wrong}" + (f", first in `{first}`" if first else ""))
        return judged(
            passed=not told,
            measured="; ".join(told) or f"all finite {' and '.join(names)}",
            method=subject.method("evaluate", "act").name,
        )


def _overflows(subject: Subject, network: nn.Module, inputs: Inputs) -> tuple[str, str]:
    """What is not finite, outputs or else gradients, and the operation that it came from."""
    from esper_audit.probes import measuring as m

    network = copy.deepcopy(network)
    ran = m.Overflow()
    try:
        with m.without_onednn(), m.validation(on=False), ran:
            reply = m.seeded(subject.evaluate, network, inputs)
    except NotComparable:
        raise
    except Exception as error:  # noqa: BLE001 - a check of the network: of what overflowed, or of what it was given
        if not ran.first:
            raise NotComparable(f"evaluate refuses such numbers ({m.sentence(error)})") from None
        return f"evaluate raises {m.sentence(error, 90)}", ran.first
    outputs = {name: output for name in OUTPUTS if (output := getattr(reply, name)) is not None}
    if not outputs:
        raise NotComparable("evaluate returns neither log-prob nor value")
    if wrong := [name for name, output in outputs.items() if not bool(output.isfinite().all())]:
        return f"{m.listed(wrong)} not finite", ran.first
    able = [output.sum() for output in outputs.values() if output.requires_grad]
    if able:
        with m.without_onednn():
            sum(able[1:], able[0]).backward()
    bad = m.bad_gradients(network)
    return (f"gradients of {len(bad)} parameters not finite ({m.listed(bad, 2)})" if bad else ""), ""


def _enlarged(subject: Subject, network: nn.Module, inputs: Inputs) -> tuple[nn.Module, float]:
    """A copy whose weights are so large that one of its layers gives 10000, if any can; and what that layer gives."""
    import torch

    from esper_audit.probes import measuring as m

    found, most = network, 0.0
    for factor in FACTORS:
        larger = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in larger.parameters():
                if parameter.dim() >= 2 and parameter.is_floating_point():
                    parameter.mul_(factor)
            ran = m.Overflow()
            with m.without_onednn(), m.validation(on=False), contextlib.suppress(Exception), ran:
                m.seeded(subject.evaluate, larger, inputs)  # whether it raises is asked of the network that is found
        if not ran.products < float("inf"):
            break
        found, most = larger, ran.products
        if most >= LAYERS:
            break
    return found, most
