"""A mask without a time axis is refused, also where it would broadcast.

Experiment: B == T; every mask is passed as [B, n] beside observations [B, T, D], to evaluate and to forward.
Criterion: an error, or the result that repeating the mask over time gives. Pitfalls: with B != T the arithmetic raises
by itself, so only B == T decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.subject import Subject


class MaskRank(Probe):
    """P-shape of the catalogue, for masks."""

    id = "mask-rank"
    claim = "a mask [B, n] beside observations [B, T, D] is refused at B == T"
    code, name = "ESP502", "mask-rank-mismatch"
    category, severity = Category.INTEGRATION, Severity.HIGH
    help = "compare the shape of each mask with that of the logits, and raise"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m
        from esper_audit.probes.nested import mapped

        if subject.inputs().hidden is None:
            raise NotComparable("without memory nothing says that the network takes sequences")
        network = subject.heated().eval()
        size = 4
        inputs = subject.inputs(size, size, seed=5)
        flat = _first_step(inputs)
        if not flat:
            raise NotComparable("the network has no masks")
        meant = {head: mask.unsqueeze(1).expand(-1, size, -1) for head, mask in flat.items()}
        inputs = inputs.but(actions={head: torch.zeros_like(action) for head, action in inputs.actions.items()})
        silent, refused, method = [], [], ""
        for role, call in (("evaluate", subject.evaluate), ("forward", subject.forward)):
            facts, names = subject.parameters_for("mask", role)
            if facts is None or not names:
                continue
            repeated, score = inputs.but(masks=meant), role == "evaluate"
            right = call(network, repeated)
            keywords = subject.arguments(network, facts, repeated, "sequence", score=score)
            first = subject.arguments(network, facts, repeated.at(0), "sequence", score=score)
            for name in names:
                keywords[name] = mapped(first[name], _without_time)
            try:
                with torch.no_grad():
                    wrong = subject.called(network, facts, keywords, inputs)
            except Exception as error:  # noqa: BLE001 - the refusal that is hoped for
                refused.append(f"`{facts.name}` raises {m.sentence(error, 80)}")
                continue
            if all(
                m.distance(a, b) < 1e-6
                for a, b in zip(m.outputs(right).values(), m.outputs(wrong).values(), strict=True)
            ):
                refused.append(f"`{facts.name}` repeats it over time")
                continue
            method = method or facts.name
            silent.append(f"`{facts.name}` accepts it and gives other numbers{_opened(wrong.logits, meant)}")
        if not silent and not refused:
            raise NotComparable("no method takes masks beside a sequence")
        return judged(passed=not silent, measured=f"B = T = {size}: " + "; ".join(silent + refused), method=method)


def _first_step(inputs: Inputs) -> dict[str, torch.Tensor]:
    """The masks of the first step, `[B, n]`; action 0, which is taken, is valid whichever way they are read."""
    masks = {head: mask[:, 0].clone() for head, mask in inputs.masks.items()}
    for mask in masks.values():
        mask[:, 0] = True
    return masks


def _without_time(mask: torch.Tensor) -> torch.Tensor:
    """The mask of one step, wherever the method has its axis of time, as `[B, n]`."""
    return mask.reshape(-1, mask.shape[-1])


def _opened(logits: object, meant: dict[str, torch.Tensor]) -> str:
    """How many entries that the mask forbids are open in what came back."""
    opened = forbidden = 0
    for head, mask in meant.items():
        given = logits.get(head) if isinstance(logits, dict) else None
        if isinstance(given, torch.Tensor) and given.shape == mask.shape:
            lowest = given.amax(-1, keepdim=True) - 1e3
            opened += int(((given > lowest) & ~mask).sum())
            forbidden += int((~mask).sum())
    return f": {opened} of {forbidden} forbidden actions are open" if forbidden else ""
