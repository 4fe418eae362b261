"""Each claim holds for the reference, whatever the seed, and a planted fault breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from esper_audit.probes.contract import FAILED, PASSED, Order, Outcome
from esper_audit.probes.trying import tried
from esper_audit.testing import order_of
from esper_reference.network import Evaluation, FactoredActorCritic, Hidden, Output

SIZES = {"slot": 6, "op": 4}
SEEDS = range(5)


@cache
def order(name: str) -> Order:
    """What reading says about a class of this file, which no seed changes."""
    return order_of(globals()[name](9, SIZES), (), 0)


def outcomes(cls: type[nn.Module], *probes: str, seed: int = 0) -> list[Outcome]:
    """What experiments say about a network of this class: it is drawn anew, and so are its inputs."""
    torch.manual_seed(seed)
    return list(tried(replace(order(cls.__name__), probes=probes, seed=seed), cls(9, SIZES)))


def results(cls: type[nn.Module], *probes: str) -> set[tuple[str, ...]]:
    """What experiments say with each seed."""
    return {tuple(f"{each.result}{each.error}" for each in outcomes(cls, *probes, seed=seed)) for seed in SEEDS}


@pytest.mark.parametrize(
    "probe", ["device-moves", "extreme-inputs", "nan-inputs", "cost", "gradient-cut", "shared-features"]
)
def test_the_reference_passes_with_every_seed(probe: str) -> None:
    assert results(FactoredActorCritic, probe) == {(PASSED,)}


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


# cost


class Recomputing(FactoredActorCritic):
    """Each step runs the LSTM over all steps before it once more."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        for end in range(1, observations.shape[1]):
            starts = None if episode_starts is None else episode_starts[:, :end]
            super().forward(observations[:, :end], hidden, starts)
        return super().forward(observations, hidden, episode_starts)


class Pairwise(FactoredActorCritic):
    """Compares each step with each other one: no matrix product, and memory all the same."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        logits, value, hidden = super().forward(observations, hidden, episode_starts)
        pairs = (value.unsqueeze(1) - value.unsqueeze(2)).unsqueeze(-1).expand(-1, -1, -1, 64) * 1.0
        return Output(logits, value + 0.0 * pairs.square().mean((2, 3)), hidden)


@pytest.mark.parametrize(
    ("cls", "probe", "measured"),
    [
        (NaiveSoftmax, "extreme-inputs", "first in `exp`"),
        (ExponentialValue, "extreme-inputs", "value not finite, first in `exp`"),
        (Recomputing, "cost", "16 steps cost 3.78 times the FLOPs of 8"),
        (Pairwise, "cost", "16 steps cost 2.00 times the FLOPs of 8, and 2.76 times the memory"),
        (Laundering, "nan-inputs", "`evaluate_actions` returns numbers (log_prob, value)"),
        (LaunderedLogits, "nan-inputs", "`evaluate_actions` returns numbers (log_prob)"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_planted_fault_fails_with_every_seed(cls: type[FactoredActorCritic], probe: str, measured: str) -> None:
    assert results(cls, probe) == {(FAILED,)}
    assert measured in outcomes(cls, probe)[0].measured


def test_the_cost_is_told_as_a_table_and_with_the_number_of_parameters() -> None:
    (found,) = outcomes(FactoredActorCritic, "cost")
    parameters = sum(parameter.numel() for parameter in FactoredActorCritic(9, SIZES).parameters())
    assert found.measured.startswith(f"{parameters:,} parameters; ")
    assert found.table[0] == ("method", "environments x steps", "FLOPs", "bytes kept for backward", "operators")
    assert [row[:2] for row in found.table[1:]] == [
        ("`get_action`", "5 x 1"),
        ("`evaluate_actions`", "5 x 8"),
        ("`evaluate_actions`", "5 x 16"),
    ]
    layers = [module for module in FactoredActorCritic(9, SIZES).modules() if isinstance(module, nn.Linear)]
    products = sum(2 * layer.in_features * layer.out_features for layer in layers) + 2 * 4 * 64 * (64 + 64)
    assert found.table[1][2] == f"{5 * products:,}"


# gradient-cut and shared-features


class DetachedValue(FactoredActorCritic):
    """The value learns from features that the policy alone trains."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        output = super().forward(observations, hidden, episode_starts)
        core, _ = self._remember(self.trunk(observations), hidden, episode_starts)
        return output._replace(value=self.value_head(self.core_norm(core).detach()).squeeze(-1))


class DetachedPolicy(FactoredActorCritic):
    """The policy reads features that the value alone trains."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        output = super().forward(observations, hidden, episode_starts)
        core, _ = self._remember(self.trunk(observations), hidden, episode_starts)
        core = self.core_norm(core).detach()
        return output._replace(logits={name: head(core) for name, head in self.heads.items()})


class DetachedEntropy(FactoredActorCritic):
    """The entropy bonus trains the heads, and not what is below them: nobody wants that."""

    def evaluate_actions(
        self,
        observations: Tensor,
        masks: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        hidden: Hidden,
        episode_starts: Tensor | None,
    ) -> Evaluation:
        evaluation = super().evaluate_actions(observations, masks, actions, hidden, episode_starts)
        core, _ = self._remember(self.trunk(observations), hidden, episode_starts)
        core = self.core_norm(core).detach()
        heads = self.distributions({name: head(core) for name, head in self.heads.items()}, masks)
        return evaluation._replace(entropy=torch.stack([head.entropy() for head in heads.values()]).sum(0))


class DetachedSteps(FactoredActorCritic):
    """No gradient flows from one step to the step before it."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        outputs = []
        for t in range(observations.shape[1]):
            starts = None if episode_starts is None else episode_starts[:, t : t + 1]
            outputs.append(super().forward(observations[:, t : t + 1], hidden, starts))
            hidden = outputs[-1].hidden[0].detach(), outputs[-1].hidden[1].detach()
        logits = {name: torch.cat([each.logits[name] for each in outputs], 1) for name in self.head_sizes}
        return Output(logits, torch.cat([each.value for each in outputs], 1), outputs[-1].hidden)


@pytest.mark.parametrize(
    ("cls", "failed", "passed", "measured"),
    [
        (
            DetachedValue,
            "shared-features",
            "gradient-cut",
            "value trains 0 of 10 parameters that it shares with log",
        ),
        (DetachedPolicy, "shared-features", "gradient-cut", "log_prob trains 0 of 10 parameters"),
        (DetachedEntropy, "gradient-cut", "shared-features", "entropy depends on 10 parameters that get no gradient"),
        (DetachedSteps, "gradient-cut", "shared-features", "value of the last step depends on the first observation"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_may_be_meant_is_told_apart_from_what_cannot_be(
    cls: type[FactoredActorCritic], failed: str, passed: str, measured: str
) -> None:
    assert results(cls, failed, passed) == {(FAILED, PASSED)}
    assert measured in outcomes(cls, failed)[0].measured
