"""Log-prob, value and entropy have one number per environment and step, also at B = 1 and T = 1.

Experiment: evaluate for (B, T) of (5, 6), (1, 6), (5, 1) and (1, 1). Criterion: each is `[B, T]`, or `[B * T]` in a
network that takes both in one axis; all of them alike, and of that form at all four sizes. Pitfalls: a value of `[B,
T, 1]` is a convention of its own; what convicts is that log-prob and value differ, which broadcasts in the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject


class OutputShape(Probe):
    """P-shape of the catalogue."""

    id = "output-shape"
    claim = "log-prob, value and entropy have the shape [B, T], whatever B and T are"
    code, name = "ESP588", "output-shapes-differ"
    category, severity = Category.INTEGRATION, Severity.HIGH
    help = "`squeeze(-1)` where the last dimension is 1, and nowhere else"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        network = subject.heated().eval()
        wrong: list[str] = []
        shapes: dict[str, tuple[int, ...]] = {}
        batch, time = subject.inputs().starts.shape
        for size in ((batch, time), (1, time), (batch, 1), (1, 1)):
            try:
                with torch.no_grad():
                    reply = subject.evaluate(network, subject.inputs(*size))
            except NotComparable:
                raise
            except Exception as error:
                if not shapes:
                    raise
                wrong.append(f"at {size}: {m.sentence(error, 80)}")
                continue
            found = {
                name: tuple(tensor.shape)
                for name, tensor in (("log_prob", reply.log_prob), ("value", reply.value), ("entropy", reply.entropy))
                if tensor is not None and (name in shapes or tensor.dim() > (name == "entropy"))
            }
            if not shapes:
                shapes = found
                if len(shapes) < 2:
                    raise NotComparable("evaluate returns fewer than two of log-prob, value and entropy")
                alike = len(set(shapes.values())) == 1 or _pairs(shapes)
            else:
                sizes = {batch: size[0], time: size[1], batch * time: size[0] * size[1]}
                alike = found == {n: tuple(sizes.get(length, length) for length in s) for n, s in shapes.items()}
            if not alike:
                wrong.append(f"at {size}: " + ", ".join(f"{name} {shape}" for name, shape in found.items()))
        return judged(
            passed=not wrong,
            measured="; ".join(wrong) or f"alike at ({batch}, {time}), (1, {time}), ({batch}, 1), (1, 1)",
            method=subject.method("evaluate", "act").name,
        )


def _pairs(shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether all that differ keep a last dimension of 1 beside each other: a convention, with the trainer in on it."""
    value = shapes.get("value", ())
    rest = {shape for name, shape in shapes.items() if name != "value"}
    return value[-1:] == (1,) and rest == {value[:-1]}
