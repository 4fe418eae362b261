"""The policy can become as sharp as its logits say.

Experiment: random weights, all actions valid; then all weights that log-probs reach thirtyfold. Criterion: two actions
of a head differ by more than 3 nats somewhere (softmax of a softmax allows 1); and where `forward` returns logits
whose differences are those of the log-probs at first, they still are at ten times the weights (an epsilon or a clamp
inside the logarithm puts a floor under them, with gradient 0). A network that scores nothing is tried with the bias of
its heads raised by 50 and by 100: where it answers then, and differently, it takes logits for probabilities, as
`Categorical(logits)` does. Pitfalls: logits that are cut on purpose should be cut before they are returned; a head that
ends in a norm without weights cannot be scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper_audit.probes.subject import Subject

NATS = 3.0


class PolicyRange(Probe):
    """P-extreme of the catalogue, for the policy."""

    id = "policy-range"
    claim = "log-probs follow the logits, however far these are apart"
    code, name = "ESP386", "log-prob-bounded"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "give logits, not probabilities, to one log-softmax; no epsilon and no clamp inside a logarithm"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.arguments import unmasked

        network = subject.heated().eval()
        try:
            inputs = unmasked(m.scorable(subject, subject.inputs(seed=9)))
            sharp = m.scored(subject, _scaled(network, 30.0), inputs)
        except NotComparable:
            if told := _probabilities_wanted(subject):
                return judged(passed=False, measured=told, method=subject.method("evaluate", "act").name)
            raise
        method = subject.method("evaluate", "act").name
        span = {head: float((r.amax(-1) - r.amin(-1)).max()) for head, r in sharp.heads.items()}
        narrow = min(span, key=lambda head: span[head])
        if not span[narrow] > NATS:
            return judged(
                passed=False,
                measured=f"with thirtyfold weights the log-probs of two actions of head `{narrow}` still differ by "
                f"{span[narrow]:.2f} at most",
                method=method,
            )
        measured = f"with thirtyfold weights log-probs differ by {span[narrow]:.0f} and more"
        if not subject.has("forward"):
            return judged(passed=True, measured=measured)
        for head in sharp.heads:
            try:
                errors = [_deviation(m, subject, _scaled(network, by), inputs, head) for by in (1.0, 10.0)]
            except NotComparable:
                continue
            if errors[0] < 0.01 and errors[1] > 0.5:
                return judged(
                    passed=False,
                    measured=f"with tenfold weights the log-probs of head `{head}` are {errors[1]:.1f} from what the "
                    f"logits say (unscaled {errors[0]:.0e})",
                    method=method,
                )
            if errors[0] < 0.01:
                measured += f"; those of `{head}` follow the logits to {errors[1]:.0e}"
        return judged(passed=True, measured=measured)


def _scaled(network: nn.Module, factor: float) -> nn.Module:
    """A copy with larger weights."""
    import copy

    import torch

    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(factor)
    return network


def _deviation(m: object, subject: Subject, network: nn.Module, inputs: object, head: str) -> float:
    """How far the differences of log-probs are from those of the logits."""
    import torch

    with torch.no_grad():
        logits: Tensor | None = subject.forward(network, inputs).logits.get(head)  # type: ignore[arg-type]
    scores = m.scored(subject, network, inputs)  # type: ignore[attr-defined]
    relative = scores.heads[head].double()
    if logits is None or logits.shape != relative.shape:
        raise NotComparable("forward returns no logits of this head")
    wanted = logits.double()
    difference = (wanted - wanted.amax(-1, keepdim=True)) - (relative - relative.amax(-1, keepdim=True))
    return float(difference.abs().max())


def _probabilities_wanted(subject: Subject) -> str:
    """What is to be said of a network that scores actions only where all its logits are positive."""
    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked
    from esper_audit.probes.subject import Subject

    spans = {}
    for raised in (50.0, 100.0):
        try:
            other = Subject(subject.order, _raised(subject, raised))
            inputs = unmasked(m.scorable(other, other.inputs(seed=9)))
            scores = m.scored(other, other.network, inputs)
        except NotComparable:
            return ""
        spans[raised] = max(float((relative.amax(-1) - relative.amin(-1)).max()) for relative in scores.heads.values())
    if spans[50.0] < 1.5 * spans[100.0]:
        return ""
    return (
        "it scores no action until the logits are positive, and then differently when all of them rise: two log-probs "
        f"differ by {spans[50.0]:.3f} at most with 50 added, by {spans[100.0]:.3f} with 100"
    )


def _raised(subject: Subject, by: float) -> nn.Module:
    """A copy with random weights and a larger bias in the last layer of each head, known by its number of actions."""
    import torch
    from torch import nn

    network = subject.heated().eval()
    sizes = set(subject.heads.values())
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear) and module.out_features in sizes and module.bias is not None:
                module.bias.add_(by)
    return network
