"""Every parameter learns from a loss that should train it.

Experiment: random weights and masks with all actions valid; backward from log-prob, entropy and value, one by one.
Criterion: each parameter gets a gradient that is not 0 from at least one of them, and all are finite. Pitfalls: a
masked row with one valid action has no gradient and is no proof; a network may hold parameters for another loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import FAILED, PASSED, Measurement, NotComparable, Probe

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class GradientFlow(Probe):
    """P-grad of the catalogue: which loss reaches which parameter."""

    id = "gradient-flow"
    claim = "every parameter gets a finite gradient from log-prob, entropy or value"
    code, name = "ESP380", "parameter-without-gradient"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = "look for a `.detach()`, a `no_grad`, or a head whose output is not used"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m
        from esper_audit.probes.arguments import unmasked

        network = subject.heated().train()
        inputs = unmasked(subject.inputs())
        reached: dict[str, set[str]] = {}
        bad: list[str] = []
        for loss in ("log_prob", "entropy", "value"):
            network.zero_grad(set_to_none=True)
            output = getattr(subject.evaluate(network, inputs), loss)
            if output is None:
                continue
            reached[loss] = set()
            if not output.requires_grad:
                continue
            # Weighted, since a plain sum of log-probs or of normalised values can have a gradient of 0.
            weight = torch.linspace(0.5, 1.5, output.numel()).view(output.shape).to(output.dtype)
            (output * weight).sum().backward()
            bad += m.bad_gradients(network)
            for name, parameter in network.named_parameters():
                if parameter.grad is not None and bool(parameter.grad.any()):
                    reached[loss].add(name)
        if "log_prob" not in reached and "value" not in reached:
            raise NotComparable("evaluate returns neither log-prob nor value")
        every = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        dead = sorted(every - set().union(*reached.values()))
        parts = [f"{loss} reaches {len(names)} of {len(every)}" for loss, names in reached.items()]
        without = [loss for loss, names in reached.items() if not names]
        measured = "; ".join([", ".join(parts), *([f"none reaches {m.listed(dead, 3)}"] if dead else [])])
        if bad:
            measured += f"; not finite: {m.listed(bad, 2)}"
        return Measurement(
            FAILED if dead or bad or without else PASSED,
            measured,
            subject.method("evaluate", "act").name,
            tuple(_table(every, reached)),
        )


def _table(every: set[str], reached: Mapping[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """Which loss reaches how many parameters of which part: a head, then one row per attribute of the network."""
    yield ("part", *reached)
    parts: dict[str, set[str]] = {}
    for name in sorted(every):
        parts.setdefault(name.split(".")[0], set()).add(name)
    for part, names in parts.items():
        yield (part, *(f"{len(names & got)} of {len(names)}" for got in reached.values()))
