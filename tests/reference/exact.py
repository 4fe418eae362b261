"""What the reference has to compute, computed once more and in another way: float64, one cell and one action at a time.

Nothing of `esper_reference` is used but the names of its parameters. There is no module, no fused LSTM, no masked
softmax: gates are sums over one row, and a distribution is normalised over a list that holds the valid actions alone,
so that an invalid one has no logit that could leak. `tests/benchmarks/exactness.py` prints the largest differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Rows = list[list[float]]


class Exact(NamedTuple):
    """Everything for B environments and T steps, as nested lists of Python floats: `[b][t]`, and `[layer][b][i]`."""

    log_prob: Rows
    value: Rows
    entropy: Rows
    max_entropy: Rows
    h: list[Rows]
    c: list[Rows]
    head_log_probs: list[list[dict[str, dict[int, float]]]]  # [b][t][head][action], valid actions only


def exact(
    parameters: Mapping[str, Tensor],
    observations: Tensor,
    masks: Mapping[str, Tensor],
    actions: Mapping[str, Tensor],
    hidden: tuple[Tensor, Tensor],
    episode_starts: Tensor | None,
) -> Exact:
    """Evaluate `actions` under `parameters` (a state_dict), step by step; arguments as in `evaluate_actions`."""
    weights = {name: tensor.double() for name, tensor in parameters.items()}
    layers = hidden[0].shape[0]
    batch, time = observations.shape[:2]
    h = [[hidden[0][layer, b].double() for b in range(batch)] for layer in range(layers)]
    c = [[hidden[1][layer, b].double() for b in range(batch)] for layer in range(layers)]
    out = Exact([], [], [], [], [], [], [])
    for b in range(batch):
        rows: tuple[list[float], ...] = ([], [], [], [])
        per_step = []
        for t in range(time):
            x = dense(weights, "trunk.0", observations[b, t].double())
            x = normalised(weights, "trunk.1", x).clamp(min=0.0)
            for layer in range(layers):
                if episode_starts is not None and bool(episode_starts[b, t]):
                    h[layer][b], c[layer][b] = torch.zeros_like(h[layer][b]), torch.zeros_like(c[layer][b])
                h[layer][b], c[layer][b] = cell(weights, layer, x, h[layer][b], c[layer][b])
                x = h[layer][b]
            features = normalised(weights, "core_norm", x)
            totals = [0.0, 0.0, 0.0]
            step = {}
            for head, mask in masks.items():
                logits = two_layers(weights, f"heads.{head}", features).tolist()
                valid = [action for action in range(len(logits)) if bool(mask[b, t, action])]
                largest = max(logits[action] for action in valid)
                norm = largest + math.log(math.fsum(math.exp(logits[action] - largest) for action in valid))
                log_probs = {action: logits[action] - norm for action in valid}
                totals[0] += log_probs[int(actions[head][b, t])]
                totals[1] -= math.fsum(math.exp(log_p) * log_p for log_p in log_probs.values())
                totals[2] += math.log(len(valid))
                step[head] = log_probs
            value = float(two_layers(weights, "value_head", features)[0])
            for row, number in zip(rows, (totals[0], value, totals[1], totals[2]), strict=True):
                row.append(number)
            per_step.append(step)
        for column, row in zip((out.log_prob, out.value, out.entropy, out.max_entropy), rows, strict=True):
            column.append(row)
        out.head_log_probs.append(per_step)
    out.h.extend([state.tolist() for state in layer] for layer in h)
    out.c.extend([state.tolist() for state in layer] for layer in c)
    return out


def dense(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """One linear layer for one row."""
    return (weights[f"{name}.weight"] * x).sum(dim=1) + weights[f"{name}.bias"]


def two_layers(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """A head for one row."""
    return dense(weights, f"{name}.2", dense(weights, f"{name}.0", x).clamp(min=0.0))


def normalised(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """LayerNorm for one row, from its definition."""
    centred = x - x.sum() / len(x)
    variance = (centred * centred).sum() / len(x)
    return centred / (variance + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def cell(weights: Mapping[str, Tensor], layer: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one LSTM layer for one row, with the forget gate of Gers et al. 2000."""
    size = len(h)
    from_input = (weights[f"lstm.weight_ih_l{layer}"] * x).sum(dim=1) + weights[f"lstm.bias_ih_l{layer}"]
    from_state = (weights[f"lstm.weight_hh_l{layer}"] * h).sum(dim=1) + weights[f"lstm.bias_hh_l{layer}"]
    gates = from_input + from_state
    input_gate, forget_gate, candidate, output_gate = (gates[i * size : (i + 1) * size] for i in range(4))
    new_c = forget_gate.sigmoid() * c + input_gate.sigmoid() * candidate.tanh()
    return output_gate.sigmoid() * new_c.tanh(), new_c
