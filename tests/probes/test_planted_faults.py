"""Each claim holds for the reference, whatever the seed, and a planted fault breaks it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_audit.probes.contract import FAILED, PASSED, Order, Outcome
from esper_audit.probes.trying import tried
from esper_audit.testing import order_of
from esper_reference.network import FactoredActorCritic, Hidden, Output

SIZES = {"slot": 6, "op": 4}
SEEDS = range(5)


@cache
def order(cls: Any) -> Order:
    """What reading says about a class, which no seed changes."""
    return order_of(cls(9, SIZES), (), 0)


def outcome(cls: type[nn.Module], probe: str, seed: int = 0) -> Outcome:
    """What one experiment says about a network of this class: it is drawn anew, and so are its inputs."""
    torch.manual_seed(seed)
    (found,) = tried(replace(order(cls), probes=(probe,), seed=seed), cls(9, SIZES))
    return found


def results(cls: type[nn.Module], probe: str) -> set[tuple[str, str]]:
    """What an experiment says with each seed."""
    return {(found.result, found.error) for found in (outcome(cls, probe, seed) for seed in SEEDS)}


@pytest.mark.parametrize("probe", ["device-moves", "extreme-inputs", "nan-inputs"])
def test_the_reference_passes_with_every_seed(probe: str) -> None:
    assert results(FactoredActorCritic, probe) == {(PASSED, "")}


# extreme-inputs and nan-inputs


class NaiveSoftmax(FactoredActorCritic):
    """Probabilities by exp and a quotient, without the largest logit taken off first."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        logits, value, hidden = super().forward(observations, hidden, episode_starts)
        powers = {name: each.exp() for name, each in logits.items()}
        return Output({name: (each / each.sum(-1, keepdim=True)).log() for name, each in powers.items()}, value, hidden)


class ExponentialValue(FactoredActorCritic):
    """A value whose square overflows nowhere, and whose exponential does."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        logits, value, hidden = super().forward(observations, hidden, episode_starts)
        return Output(logits, (1.0 + value.exp()).log(), hidden)


class Laundering(FactoredActorCritic):
    """NaN becomes 0 before anybody sees it."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        return super().forward(torch.nan_to_num(observations), hidden, episode_starts)


class LaunderedLogits(FactoredActorCritic):
    """The policy hides what the value shows."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        logits, value, hidden = super().forward(observations, hidden, episode_starts)
        return Output({name: torch.nan_to_num(each) for name, each in logits.items()}, value, hidden)


@pytest.mark.parametrize(
    ("cls", "probe", "measured"),
    [
        (NaiveSoftmax, "extreme-inputs", "first in `exp`"),
        (ExponentialValue, "extreme-inputs", "value not finite, first in `exp`"),
        (Laundering, "nan-inputs", "`evaluate_actions` returns numbers (log_prob, value)"),
        (LaunderedLogits, "nan-inputs", "`evaluate_actions` returns numbers (log_prob)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_planted_fault_fails_with_every_seed(cls: type[FactoredActorCritic], probe: str, measured: str) -> None:
    assert results(cls, probe) == {(FAILED, "")}
    assert measured in outcome(cls, probe).measured
