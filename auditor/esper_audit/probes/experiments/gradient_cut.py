"""What an output depends on, it has a gradient for.

Experiment: random weights; move one parameter after the other, and see which of log-prob, entropy and value change; go
backward from each, and see which parameters it has a gradient for. The same for the observation of the first step and
the outputs of the last one. Criterion: whatever changes an output has a gradient from it. Tolerance: a change counts
from 1e-3 on, in every dtype. Cost: one call for each parameter. Pitfalls: features may be detached on purpose, from the
value or from the policy as a whole, while the other one trains them: that is the question of `shared-features`. A
hidden state may be detached between the steps to save memory; then say so beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject

OUTPUTS = ("log_prob", "entropy", "value")
MOVED = 1e-3
MOST = 300  # parameters


class GradientCut(Probe):
    """Numbers against gradients."""

    id = "gradient-cut"
    claim = "log-prob, entropy and value have a gradient for all that they depend on"
    code, name = "ESP385", "gradient-cut"
    category, severity = Category.GRADIENT, Severity.MEDIUM
    help = "look for a `.detach()`, a `.data` or a `no_grad` between the parameter and the output"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        cuts = cuts_of(subject)
        wrong = {name: sorted(cuts.cut(name) - cuts.trained_by_others(name)) for name in cuts.depends}
        parts = [
            f"{name} depends on {len(found)} parameters that get no gradient from it ({m.listed(found, 2)})"
            for name, found in wrong.items()
            if found
        ]
        parts += [
            f"{name} of the last step depends on the first observation, and has no gradient for it"
            for name in sorted(cuts.early)
            if not cuts.cut(name) & cuts.trained_by_others(name)  # or the features are detached as they are
        ]
        counts = ", ".join(f"{name} {len(cuts.reached[name])}" for name in cuts.depends)
        return judged(
            passed=not parts,
            measured="; ".join(parts) or f"parameters that get a gradient: {counts}",
            method=subject.method("evaluate", "act").name,
        )


@dataclass(frozen=True)
class Cuts:
    """By output: the parameters that move it, and those that it has a gradient for."""

    depends: dict[str, set[str]]
    reached: dict[str, set[str]]
    early: set[str]  # outputs whose last step the first observation moves, without a gradient

    def cut(self, output: str) -> set[str]:
        """The parameters that move an output and get no gradient from it."""
        return self.depends[output] - self.reached[output]

    def trained_by_others(self, output: str) -> set[str]:
        """What the value trains and the whole policy is cut from, or the other way round: it may be meant so."""
        policy = [name for name in self.depends if name != "value"]
        if output == "value":
            return set().union(*(self.reached[name] for name in policy))
        apart = [self.cut(name) for name in policy if self.depends[name]]
        trained = set(self.reached.get("value", ()))
        return trained.intersection(*apart) if apart else set()


_KNOWN: WeakKeyDictionary[Subject, Cuts] = WeakKeyDictionary()  # two experiments ask, and it costs a call per parameter


def cuts_of(subject: Subject) -> Cuts:
    """What each output depends on and what it trains."""
    if subject not in _KNOWN:
        _KNOWN[subject] = _measured(subject)
    return _KNOWN[subject]


def _measured(subject: Subject) -> Cuts:
    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked

    network = subject.heated().eval()
    inputs = unmasked(subject.inputs(seed=10))
    observations = inputs.observations.clone().requires_grad_()
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if len(parameters) > MOST:
        raise NotComparable(f"{len(parameters)} parameters are more than this tries one by one")
    with m.without_onednn():
        reply = m.seeded(subject.evaluate, network, inputs.but(observations=observations))
        outputs = _outputs(reply)
        if not outputs:
            raise NotComparable("evaluate returns neither log-prob nor value with a gradient")
        reached = {name: _reached(output, parameters) for name, output in outputs.items()}
        early = {name for name, output in outputs.items() if _reaches_back(output, observations)}
        depends = _dependent(subject, network, inputs, outputs)
        return Cuts(depends, reached, _dependent_early(subject, network, inputs, outputs) - early)


def _outputs(reply: Reply) -> dict[str, Tensor]:
    """Those that can go backward: one that cannot at all is the question of `gradient-flow`."""
    found = {name: getattr(reply, name) for name in OUTPUTS}
    return {name: output for name, output in found.items() if output is not None and output.requires_grad}


def _reached(output: Tensor, parameters: dict[str, nn.Parameter]) -> set[str]:
    """The parameters for which an output has a gradient that is not 0."""
    import torch

    weight = torch.linspace(0.5, 1.5, output.numel()).view(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(
        (output * weight).sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    return {n for n, g in zip(parameters, gradients, strict=True) if g is not None and bool(g.any())}


def _reaches_back(output: Tensor, observations: Tensor) -> bool:
    """Whether the last step of an output has a gradient for the first observation."""
    import torch

    if output.shape[:2] != observations.shape[:2]:
        return True  # nobody knows which step it belongs to
    gradient = torch.autograd.grad(output[:, -1].sum(), observations, retain_graph=True, allow_unused=True)[0]
    return gradient is not None and bool(gradient[:, 0].any())


def _dependent(subject: Subject, network: nn.Module, inputs: Inputs, before: dict[str, Tensor]) -> dict[str, set[str]]:
    """For each output the parameters that move it."""
    import torch

    from esper_audit.probes import measuring as m

    generator = torch.Generator().manual_seed(subject.order.seed + 3)
    found: dict[str, set[str]] = {name: set() for name in before}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            kept = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=generator).mul(0.2).to(parameter.dtype))
            after = m.seeded(subject.evaluate, network, inputs)
            parameter.copy_(kept)
            for output, was in before.items():
                if m.distance(was, getattr(after, output)) > MOVED:
                    found[output].add(name)
    return found


def _dependent_early(subject: Subject, network: nn.Module, inputs: Inputs, before: dict[str, Tensor]) -> set[str]:
    """The outputs whose last step the first observation moves."""
    import torch

    from esper_audit.probes import measuring as m

    moved = m.disturbed(inputs.observations, slice(None), 0)
    with torch.no_grad():
        after = m.seeded(subject.evaluate, network, inputs.but(observations=moved))
    return {
        name
        for name, was in before.items()
        if was.shape[:2] == moved.shape[:2] and m.distance(was[:, -1], getattr(after, name)[:, -1]) > MOVED
    }
