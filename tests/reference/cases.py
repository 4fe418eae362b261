"""Networks and inputs for the tests of the reference: sizes that all differ, so that no two axes can be mistaken."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_reference.network import Evaluation, FactoredActorCritic, Hidden

HEADS = {"slot": 6, "blueprint": 5, "op": 4, "pause": 2}
OBSERVATION_DIM = 7
HIDDEN_DIM = 16


class Case(NamedTuple):
    """The arguments of `evaluate_actions`, in order."""

    observations: Tensor
    masks: dict[str, Tensor]
    actions: dict[str, Tensor]
    hidden: Hidden
    episode_starts: Tensor | None


def make_network(*, layers: int = 1, heat: float = 1.0, **others: Any) -> FactoredActorCritic:
    """A small network; with `heat`, its weights are random numbers of that scale.

    A fresh policy head is near 0 and hides what happens before it a hundredfold.
    """
    sizes = {"trunk_dim": 12, "hidden_dim": HIDDEN_DIM, **others}
    network = FactoredActorCritic(OBSERVATION_DIM, HEADS, layers=layers, **sizes)
    if heat:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.5 * heat))
    return network


def make_case(
    network: FactoredActorCritic,
    batch: int = 5,
    time: int = 6,
    *,
    starts: float | None = 0.2,
    memory: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random inputs: masks with one to all actions valid, valid actions, a hidden state that is not 0."""
    shape = (batch, time)
    masks = {}
    actions = {}
    for head, size in network.head_sizes.items():
        actions[head] = torch.randint(size, shape)
        share = torch.rand(*shape, 1)  # some rows nearly full, some nearly empty
        masks[head] = (torch.rand(*shape, size) < share).scatter(-1, actions[head].unsqueeze(-1), value=True)
    h, c = network.initial_hidden(batch)
    hidden = (torch.randn_like(h).tanh(), torch.randn_like(c)) if memory else (h, c)
    return Case(
        torch.randn(*shape, network.observation_dim).to(dtype),
        masks,
        actions,
        hidden,
        torch.rand(shape) < starts if starts is not None else None,
    )


def at(case: Case, t: int) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Observation, masks and episode start of one step: `[B, ...]`."""
    start = None if case.episode_starts is None else case.episode_starts[:, t]
    return case.observations[:, t], {head: mask[:, t] for head, mask in case.masks.items()}, start


def part(case: Case, first: int, last: int, hidden: Hidden) -> Case:
    """Steps `first` to `last` - 1, from a given state."""
    chosen = slice(first, last)
    return Case(
        case.observations[:, chosen],
        {head: mask[:, chosen] for head, mask in case.masks.items()},
        {head: action[:, chosen] for head, action in case.actions.items()},
        hidden,
        None if case.episode_starts is None else case.episode_starts[:, chosen],
    )


def difference(left: Tensor, right: Tensor) -> float:
    """The largest absolute difference; the shapes have to be the same."""
    assert left.shape == right.shape
    return float((left.detach().double() - right.detach().double()).abs().max())


def differences(left: Evaluation, right: Evaluation) -> float:
    """The largest of all that `evaluate_actions` returns."""
    return max(
        difference(mine, other)
        for mine, other in zip((*left[:-1], *left.hidden), (*right[:-1], *right.hidden), strict=True)
    )
