"""What a network returns is what its weights say: it agrees with an independent calculation.

Experiment: random weights; layers are matched by the numbers that flow between them, and no name is asked for. Logits,
joint log-prob, value and hidden state are then computed anew in float64, cell step by cell step, with masks that are
exact, and compared; entropies are compared with every convention in use (raw, / log n, / log n_valid). Criterion: where
one step with all actions valid and an empty memory agrees, which says that the layers are understood, T steps with
masks and a hidden state agree too (1e-4 in float32, relative). Pitfalls: residual connections and concatenations are
taken as they were; two calls of one layer, and attention, are not comparable; an unknown convention of the entropy is
told and convicts nobody.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import FAILED, PASSED, Measurement, NotComparable, Probe
from esper_audit.probes.late import torch

if TYPE_CHECKING:
    from torch import Tensor

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.recomputing import Recomputed
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject

_MOST_ORDERS = 24  # in which heads of one size may be tried


class Differential(Probe):
    """The whole network against an independent calculation."""

    id = "differential"
    claim = "logits, log-probs, values and hidden states are what the weights say"
    code, name = "ESP389", "outputs-differ-from-weights"
    category, severity = Category.GRADIENT, Severity.HIGH
    help = (
        "the first output that differs says where to look: at masks, at the hidden state, or at the axes of a sequence"
    )

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        rows: list[Row] = []
        reasons: list[str] = []
        for role in ("forward", "evaluate"):
            if not (subject.has(role) or (role == "evaluate" and subject.evaluates_through_act)):
                continue
            try:
                rows += _compared(subject, role)
            except NotComparable as why:
                reasons.append(f"{role}: {why}")
        if not any(row.comparable for row in rows):
            raise NotComparable("; ".join(reasons) or "no output is understood")
        wrong = [row for row in rows if row.wrong]
        shown = wrong or [row for row in rows if row.comparable]
        worst = max(shown, key=lambda row: row.difference)
        conventions = dict.fromkeys(row.convention for row in rows if row.convention)
        measured = f"largest difference {worst.difference:.1e} ({worst.name}), tolerance {worst.limit:.0e}"
        if conventions:
            measured += f"; entropy: {', '.join(conventions)}"
        if taken := dict.fromkeys(layer for row in rows for layer in row.taken):
            measured += f"; taken as it was: the input of {m.listed(taken)}"
        table = (("output", "largest difference", "note"), *(row.told() for row in rows))
        blamed = wrong[0].role if wrong else "evaluate"
        return Measurement(FAILED if wrong else PASSED, measured, subject.method(blamed, "act").name, table)


@dataclass
class Row:
    """One output of one method."""

    role: str
    output: str
    difference: float = math.nan
    limit: float = 0.0
    base: float = math.nan  # the difference in the easy case
    convention: str = ""
    taken: tuple[str, ...] = ()  # layers of this call whose input was not computed anew

    @property
    def name(self) -> str:
        """As the table tells it."""
        return f"{self.role}: {self.output}"

    @property
    def comparable(self) -> bool:
        """Whether the easy case agrees."""
        return self.base <= self.limit

    @property
    def wrong(self) -> bool:
        """Whether the easy case agrees and the other does not."""
        return self.comparable and not self.difference <= self.limit

    def told(self) -> tuple[str, str, str]:
        """A row of the table."""
        note = self.convention or ("" if self.comparable else "not understood")
        return self.name, f"{self.difference:.1e}" if self.comparable else "", note


@dataclass
class _Seen:
    """One call: what was returned, what was computed anew, and from which inputs."""

    reply: Reply
    right: Recomputed
    inputs: Inputs
    heads: dict[str, Tensor] = field(default_factory=dict)  # {head: [B, T, n]} computed anew, before masks


def _compared(subject: Subject, role: str) -> list[Row]:
    """Every output of one method, once in the easy case and once in the other."""
    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked
    from esper_audit.probes.recomputing import recomputed

    if role == "forward":
        m.steady(subject, role)
    network = subject.heated().eval()

    def seen(inputs: Inputs) -> _Seen:
        with torch.no_grad(), m.without_onednn():
            return _Seen(*recomputed(network, getattr(subject, role), inputs), inputs)

    easy = seen(unmasked(_choices(subject.inputs(time=1, memory=False))))
    inputs = _choices(subject.inputs(seed=5))
    full = seen(inputs if subject.takes("mask", role) else unmasked(inputs))
    limit = m.tolerance(subject.dtype)
    _match_heads(easy, full)
    rows = []
    before, after = dict(_differences(easy)), dict(_differences(full))
    for output, difference in after.items():
        taken = tuple(full.right.taken)
        rows.append(Row(role, output, difference, limit, before.get(output, math.inf), taken=taken))
    if full.heads and full.reply.entropy is not None:
        rows.append(_entropy(role, full, limit))
    return rows


def _choices(inputs: Inputs) -> Inputs:
    """Masks that leave three actions at least: with fewer, conventions of the entropy cannot be told apart."""
    masks = {}
    for head, mask in inputs.masks.items():
        more = mask.clone()
        taken = inputs.actions[head]
        for offset in range(min(3, mask.shape[-1])):
            more = more.scatter(-1, ((taken + offset) % mask.shape[-1]).unsqueeze(-1), value=True)
        masks[head] = more
    return inputs.but(masks=masks)


def _differences(seen: _Seen) -> Iterator[tuple[str, float]]:
    """The relative difference of each output that there is."""
    from esper_audit.probes.nested import leaves
    from esper_audit.probes.recomputing import as_layers

    masks = seen.inputs.masks
    for head, logits in seen.heads.items():
        got = seen.reply.logits.get(head)
        if got is not None and got.shape == logits.shape:
            yield f"logits {head}", _relative(_normalised(got, masks[head]), _normalised(logits, masks[head]))
    if seen.heads and seen.reply.log_prob is not None:
        yield "log_prob", _relative(seen.reply.log_prob, _log_prob(seen))
    if seen.reply.value is not None:
        # Which of the last layers is the value head, the numbers say.
        ends = [end.squeeze(-1) for end in seen.right.ends.values() if end.shape[-1] == 1]
        if ends:
            yield "value", min(_relative(seen.reply.value, end) for end in ends)
    states = [each for state in seen.right.hidden.values() for each in state]
    returned = [as_layers(each, states[0].shape) for each in leaves(seen.reply.hidden)] if states else []
    if states and len(returned) == len(states):
        for number, got in enumerate(returned):
            if got is not None:
                yield f"hidden {number}", min(_relative(got, state) for state in states)


def _relative(got: Tensor, wanted: Tensor) -> float:
    from esper_audit.probes import measuring as m

    return m.distance(got, wanted) / (1 + float(wanted.abs().max()))


def _normalised(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probs of the valid actions, 0 elsewhere: the same for raw, masked and normalised logits."""
    log_probs = logits.double().masked_fill(~mask, -torch.inf).log_softmax(-1)
    return log_probs.masked_fill(~mask, 0.0)


def _log_prob(seen: _Seen) -> Tensor:
    """The joint log-prob of the actions of the inputs."""
    parts = [
        _normalised(logits, seen.inputs.masks[head]).gather(-1, seen.inputs.actions[head].unsqueeze(-1)).squeeze(-1)
        for head, logits in seen.heads.items()
    ]
    return torch.stack(parts).sum(dim=0)


# --- which of the last layers is which head


def _match_heads(easy: _Seen, full: _Seen) -> None:
    """Give each head its last layer, in the order that explains the easy case best."""
    sizes = {head: mask.shape[-1] for head, mask in easy.inputs.masks.items()}

    def off(order: _Order) -> float:
        easy.heads = _cut(easy.right.ends, order)
        return max((difference for name, difference in _differences(easy) if name.startswith("log")), default=math.inf)

    best = min(itertools.islice(_orders(sizes, easy), _MOST_ORDERS), key=off, default={})
    easy.heads, full.heads = _cut(easy.right.ends, best), _cut(full.right.ends, best)


_Order = dict[str, tuple[str, int, int]]  # {head: (layer, first column, last column)}


def _orders(sizes: Mapping[str, int], seen: _Seen) -> Iterator[_Order]:
    """Every way to give the heads their last layers: one each, or one for all of them side by side."""
    widths = {name: end.shape[-1] for name, end in seen.right.ends.items()}
    fitting = [name for name, width in widths.items() if width in sizes.values()]
    for names in itertools.permutations(fitting, len(sizes)):
        if all(widths[name] == size for name, size in zip(names, sizes.values(), strict=True)):
            yield {head: (name, 0, size) for (head, size), name in zip(sizes.items(), names, strict=True)}
    for name, width in widths.items():
        if len(sizes) > 1 and width == sum(sizes.values()):
            ends = list(itertools.accumulate(sizes.values()))
            yield {head: (name, end - size, end) for (head, size), end in zip(sizes.items(), ends, strict=True)}


def _cut(ends: Mapping[str, Tensor], order: _Order) -> dict[str, Tensor]:
    return {head: ends[name][..., first:last] for head, (name, first, last) in order.items()}


# --- entropy


def _entropy(role: str, seen: _Seen, limit: float) -> Row:
    """Which convention the returned entropy follows."""
    parts: dict[str, list[Tensor]] = {"raw": [], "/ log n": [], "/ log n_valid": []}
    for head, logits in seen.heads.items():
        mask = seen.inputs.masks[head]
        log_probs = _normalised(logits, mask)
        entropy = -(log_probs.exp().masked_fill(~mask, 0.0) * log_probs).sum(-1)
        parts["raw"].append(entropy)
        parts["/ log n"].append(entropy / torch.tensor(float(mask.shape[-1])).log().clamp(min=1.0))
        parts["/ log n_valid"].append(entropy / mask.sum(-1).double().log().clamp(min=1.0))
    got = seen.reply.entropy
    assert got is not None
    off = {}
    for name, heads in parts.items():
        joint = torch.stack(heads)
        off[name] = _relative(got, joint.sum(0))
        if len(heads) > 1:
            off[f"{name}, mean over the heads"] = _relative(got, joint.mean(0))
    nearest = min(off, key=lambda name: off[name])
    if off[nearest] <= limit:
        return Row(role, "entropy", off[nearest], limit, 0.0, nearest)
    return Row(role, "entropy", off[nearest], limit, math.inf, f"no known convention; nearest: {nearest}")
