"""The differential: a network beside an independent calculation from its weights, whatever its layers are called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

from esper_audit.probes.contract import FAILED, PASSED, UNDECIDED, Outcome
from esper_audit.testing import ClaimsFailedError, check_network
from esper_reference.network import FactoredActorCritic

D, H, LEFT, RIGHT = 9, 12, 5, 4


def tried(network: nn.Module, seed: int = 0) -> Outcome:
    """The outcome of the differential on a network."""
    try:
        (outcome,) = check_network(network, claims=["differential"], seed=seed)
    except ClaimsFailedError as error:
        (outcome,) = error.outcomes
    return outcome


class Nameless(nn.Module):
    """Two heads over a recurrent core; the names of the layers say nothing."""

    def __init__(self, core: nn.Module | None = None, between: Callable[[Tensor], Tensor] = functional.gelu) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(D, H), core or nn.GRU(H, H, num_layers=2, batch_first=True), nn.LayerNorm(H)
        self.q, self.r, self.s = nn.Linear(H, LEFT), nn.Linear(H, RIGHT), nn.Linear(H, 1)
        self.head_sizes = {"left": LEFT, "right": RIGHT}
        self.between = between

    def evaluate_actions(
        self, observations: Tensor, hidden: Any, masks: dict[str, Tensor], actions: dict[str, Tensor]
    ) -> dict[str, Any]:
        core, hidden = self.remembered(self.between(self.a(observations)), hidden)
        core = torch.tanh(self.c(core))
        left = Categorical(logits=self.masked(self.q(core), masks["left"]))
        right = Categorical(logits=self.masked(self.r(core), masks["right"]))
        log_prob = left.log_prob(actions["left"]) + right.log_prob(actions["right"])
        entropy = self.joint([left.entropy(), right.entropy()], [masks["left"], masks["right"]])
        return {"log_prob": log_prob, "entropy": entropy, "value": self.s(core).squeeze(-1), "hidden": hidden}

    def remembered(self, features: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        core, hidden = self.b(features, hidden)
        return core, hidden

    def masked(self, logits: Tensor, mask: Tensor) -> Tensor:
        return logits.masked_fill(~mask, -1e9)

    def joint(self, entropies: list[Tensor], _masks: list[Tensor]) -> Tensor:
        return torch.stack(entropies).sum(dim=0)


class ByCell(Nameless):
    """The same with a cell, called once per step."""

    def remembered(self, features: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        steps = []
        for step in features.unbind(1):
            hidden = self.b(step, hidden)
            steps.append(hidden[0] if isinstance(hidden, tuple) else hidden)
        return torch.stack(steps, dim=1), hidden


class BatchFirstState(Nameless):
    """The hidden state is [B, L, H]."""

    def initial_hidden(self, batch: int) -> Tensor:
        return torch.zeros(batch, 2, H)

    def remembered(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        core, hidden = self.b(features, hidden.transpose(0, 1).contiguous())
        return core, hidden.transpose(0, 1)


def test_the_reference_agrees_in_every_output() -> None:
    outcome = tried(FactoredActorCritic(D, {"left": LEFT, "right": RIGHT}))
    assert outcome.result == PASSED
    outputs = [name for name, *_ in outcome.table]
    assert {"forward: logits left", "evaluate: log_prob", "evaluate: value", "evaluate: hidden 1"} <= set(outputs)
    assert outcome.measured.endswith("; entropy: raw")


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(Nameless(), id="GRU"),
        pytest.param(Nameless(nn.LSTM(H, H, num_layers=2, batch_first=True), torch.tanh), id="LSTM"),
        pytest.param(Nameless(nn.RNN(H, H, nonlinearity="relu", batch_first=True), torch.relu), id="RNN"),
        pytest.param(ByCell(nn.GRUCell(H, H)), id="GRUCell"),
        pytest.param(ByCell(nn.LSTMCell(H, H, bias=False), functional.silu), id="LSTMCell"),
        pytest.param(BatchFirstState(), id="state [B, L, H]"),
    ],
)
def test_layers_are_matched_by_numbers_and_not_by_names(network: nn.Module) -> None:
    for seed in range(3):
        outcome = tried(network, seed)
        assert outcome.result == PASSED, outcome
        assert {row[0] for row in outcome.table[1:] if row[1]} >= {
            "evaluate: log_prob",
            "evaluate: value",
            "evaluate: entropy",
            "evaluate: hidden 0",
        }


def with_method(name: str, method: Callable[..., Any], base: type[Nameless] = Nameless) -> nn.Module:
    """A network of which one method is another."""
    changed: type[nn.Module] = type("Changed", (base,), {name: method})
    return changed()


def axes_mixed(self: Nameless, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    batch, time, width = features.shape
    core, hidden = self.b(features.reshape(time, batch, width).transpose(0, 1), hidden)
    return core, hidden


def state_dropped(self: Nameless, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    core, hidden = self.b(features, torch.zeros_like(hidden))
    return core, hidden


def state_of_the_first_step(self: Nameless, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    core, after = self.b(features, hidden)
    return core, torch.cat([after[:1], core[:, 0].unsqueeze(0)])


@pytest.mark.parametrize(
    ("name", "method", "output"),
    [
        pytest.param("masked", lambda _, logits, __: logits, "log_prob", id="mask ignored"),
        pytest.param("masked", lambda _, logits, mask: logits - 2.0 * ~mask, "log_prob", id="mask too weak"),
        pytest.param("remembered", axes_mixed, "log_prob", id="B and T mixed"),
        pytest.param("remembered", state_dropped, "log_prob", id="hidden state dropped"),
        pytest.param("remembered", state_of_the_first_step, "hidden", id="wrong state returned"),
    ],
)
def test_what_only_masks_steps_or_memory_show_is_convicted(name: str, method: Callable[..., Any], output: str) -> None:
    for seed in range(3):
        outcome = tried(with_method(name, method), seed)
        assert outcome.result == FAILED, outcome
        assert any(row[0].startswith(f"evaluate: {output}") and float(row[1]) > 1e-2 for row in outcome.table[1:])


def test_a_temperature_is_a_convention_and_no_fault() -> None:
    outcome = tried(with_method("masked", lambda _, logits, mask: logits.masked_fill(~mask, -1e9) / 0.7))
    assert outcome.result == PASSED
    assert ("evaluate: log_prob", "", "not understood") in outcome.table


def log_n(_: Nameless, entropies: list[Tensor], __: list[Tensor]) -> Tensor:
    return torch.stack([entropies[0] / math.log(LEFT), entropies[1] / math.log(RIGHT)]).mean(0)


def log_n_valid(_: Nameless, entropies: list[Tensor], masks: list[Tensor]) -> Tensor:
    return torch.stack([e / m.sum(-1).clamp(min=2).log() for e, m in zip(entropies, masks, strict=True)]).sum(0)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (log_n, "/ log n, mean over the heads"),
        (log_n_valid, "/ log n_valid"),
        (lambda _, entropies, __: entropies[0] * entropies[1], "no known convention; nearest: "),
    ],
)
def test_the_convention_of_the_entropy_is_named(method: Callable[..., Tensor], told: str) -> None:
    outcome = tried(with_method("joint", method))
    assert outcome.result == PASSED
    assert f"; entropy: {told}" in outcome.measured


def test_what_was_not_computed_anew_is_said() -> None:
    outcome = tried(Nameless(between=lambda features: features.relu() + features))
    assert outcome.result == PASSED
    assert outcome.measured.endswith("; taken as it was: the input of b")


def test_two_calls_of_one_layer_are_not_comparable() -> None:
    class Twice(Nameless):
        def remembered(self, features: Tensor, hidden: Any) -> tuple[Tensor, Any]:
            self.c(features)
            return super().remembered(features, hidden)

    outcome = tried(Twice())
    assert outcome.result == UNDECIDED
    assert "`c` is not called once per step or once per sequence" in outcome.error
