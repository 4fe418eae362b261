"""Networks are called as their authors call them, and what a probe measures on them does not depend on the manner.

Each network here is sound and keeps to the manner of a library. A fault planted into the same manner has to be seen:
an adapter that makes everything look right would be worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from esper_audit.probes.contract import FAILED, PASSED, UNDECIDED
from esper_audit.probes.trying import tried
from esper_audit.testing import check_network, order_of

OBSERVATION, ACTIONS, WIDTH = 9, 4, 16
BOX = SimpleNamespace(shape=(OBSERVATION,))
TORQUE = SimpleNamespace(shape=(ACTIONS,))
CHOICE = SimpleNamespace(shape=(), n=ACTIONS)
SCORES = {"evaluate_actions": {"tuple": ["value", "log_prob", "entropy"]}}


def results(network: nn.Module, *claims: str) -> dict[str, str]:
    """What came of these claims, with what the source says about the values returned."""
    said = getattr(network, "said", {})
    order = order_of(network, claims, 0)
    methods = tuple(replace(method, returns=said.get(method.name)) for method in order.methods)
    return {outcome.id: outcome.result for outcome in tried(replace(order, methods=methods), network)}


def holds(network: nn.Module, *claims: str) -> bool:
    """Whether all of these claims were decided, and hold."""
    return results(network, *claims) == dict.fromkeys(claims, PASSED)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """The same weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Flattened(nn.Module):
    """Rows only, `forward` acts, and the spaces are kept: what lies in a row is flattened first."""

    said: ClassVar = {"forward": {"tuple": ["action", "value", "log_prob"]}, **SCORES}

    def __init__(self, action_space: Any = CHOICE) -> None:
        super().__init__()
        self.observation_space, self.action_space = BOX, action_space
        self.policy_net = nn.Sequential(nn.Flatten(), nn.Linear(OBSERVATION, WIDTH), nn.Tanh())
        self.action_net = nn.Linear(WIDTH, ACTIONS)
        self.value_net = nn.Sequential(nn.Flatten(), nn.Linear(OBSERVATION, 1))
        self.log_std = nn.Parameter(torch.zeros(ACTIONS)) if action_space is TORQUE else None

    def distribution(self, obs: Tensor) -> Any:
        mean = self.action_net(self.policy_net(obs))
        if self.log_std is None:
            return Categorical(logits=mean)
        return torch.distributions.Independent(Normal(mean, self.log_std.exp()), 1)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        dist = self.distribution(obs)
        actions = dist.mode if deterministic else dist.sample()
        return actions, self.value_net(obs), dist.log_prob(actions)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dist = self.distribution(obs)
        return self.value_net(obs), dist.log_prob(actions), dist.entropy()


@pytest.mark.parametrize("space", [CHOICE, TORQUE])
def test_a_forward_that_acts_is_compared_with_evaluate(space: Any) -> None:
    claims = ("act-evaluate", "batch-independence", "randomness", "gradient-flow", "output-shape")
    assert holds(Flattened(space), *claims)


class Louder(Flattened):
    """Scores with another temperature than it acts with."""

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, log_prob, entropy = super().evaluate_actions(obs, actions)
        return value, 1.5 * log_prob, entropy


@pytest.mark.parametrize("space", [CHOICE, TORQUE])
def test_a_forward_that_acts_otherwise_than_evaluate_is_seen(space: Any) -> None:
    assert results(Louder(space), "act-evaluate") == {"act-evaluate": FAILED}


class States(NamedTuple):
    """A state for the policy and one for the critic."""

    pi: tuple[Tensor, Tensor]
    vf: tuple[Tensor, Tensor]


class Rows(nn.Module):
    """Recurrent, with the rows of one environment side by side, and a named tuple of states."""

    said: ClassVar = {"forward": {"tuple": ["action", "value", "log_prob", "hidden"]}, **SCORES}

    def __init__(self) -> None:
        super().__init__()
        self.observation_space, self.action_space = BOX, CHOICE
        self.lstm_actor = nn.LSTM(OBSERVATION, WIDTH)
        self.lstm_critic = nn.LSTM(OBSERVATION, WIDTH)
        self.action_net, self.value_net = nn.Linear(WIDTH, ACTIONS), nn.Linear(WIDTH, 1)

    def run(self, core: nn.LSTM, obs: Tensor, state: Any, episode_starts: Tensor) -> tuple[Tensor, Any]:
        number = state[0].shape[1]
        steps = obs.reshape(number, -1, OBSERVATION).swapaxes(0, 1)
        outputs = []
        for step, start in zip(steps, episode_starts.reshape(number, -1).swapaxes(0, 1), strict=True):
            keep = (1.0 - start).view(1, number, 1)  # numbers: a bool is refused
            output, state = core(step.unsqueeze(0), (keep * state[0], keep * state[1]))
            outputs.append(output)
        return torch.cat(outputs).transpose(0, 1).flatten(0, 1), state

    def forward(
        self,
        obs: Tensor,
        lstm_states: States,
        episode_starts: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, States]:
        policy, pi = self.run(self.lstm_actor, obs, lstm_states.pi, episode_starts)
        critic, vf = self.run(self.lstm_critic, obs, lstm_states.vf, episode_starts)
        dist = Categorical(logits=self.action_net(policy))
        actions = dist.mode if deterministic else dist.sample()
        return actions, self.value_net(critic), dist.log_prob(actions), States(pi, vf)

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, lstm_states: States, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        policy, _ = self.run(self.lstm_actor, obs, lstm_states.pi, episode_starts)
        critic, _ = self.run(self.lstm_critic, obs, lstm_states.vf, episode_starts)
        dist = Categorical(logits=self.action_net(policy))
        return self.value_net(critic), dist.log_prob(actions), dist.entropy()


def test_rows_of_one_environment_side_by_side_are_told_from_steps_side_by_side() -> None:
    claims = ("act-evaluate", "batch-independence", "causality", "episode-reset", "hidden-used", "output-shape")
    assert holds(Rows(), *claims)


class Forgetless(Rows):
    """Drops episode starts when it scores."""

    def evaluate_actions(
        self, obs: Tensor, actions: Tensor, lstm_states: States, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return super().evaluate_actions(obs, actions, lstm_states, torch.zeros_like(1.0 * episode_starts))


def test_a_start_that_is_dropped_is_seen_whatever_the_order_of_rows() -> None:
    found = results(Forgetless(), "act-evaluate", "episode-reset")
    assert found == {"act-evaluate": FAILED, "episode-reset": FAILED}


class Kept(nn.Module):
    """`act(inputs, rnn_hxs, masks)`: one tensor of states, rows step by step, and 0 where an episode starts."""

    said: ClassVar = {
        "act": {"tuple": ["value", "action", "log_prob", "hidden"]},
        "evaluate_actions": {"tuple": ["value", "log_prob", "entropy", "hidden"]},
    }

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(OBSERVATION, WIDTH)
        self.dist, self.critic = nn.Linear(WIDTH, ACTIONS), nn.Linear(WIDTH, 1)

    def base(self, inputs: Tensor, rnn_hxs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        number = rnn_hxs.size(0)
        hidden, outputs = rnn_hxs.unsqueeze(0), []
        for step, mask in zip(inputs.view(-1, number, OBSERVATION), masks.view(-1, number, 1), strict=True):
            output, hidden = self.gru(step.unsqueeze(0), hidden * mask)
            outputs.append(output)
        return torch.cat(outputs).flatten(0, 1), hidden.squeeze(0)

    def act(
        self,
        inputs: Tensor,
        rnn_hxs: Tensor,
        masks: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, rnn_hxs = self.base(inputs, rnn_hxs, masks)
        dist = Categorical(logits=self.dist(features))
        action = dist.mode if deterministic else dist.sample()
        return self.critic(features), action.unsqueeze(-1), dist.log_prob(action).unsqueeze(-1), rnn_hxs

    def evaluate_actions(
        self, inputs: Tensor, rnn_hxs: Tensor, masks: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, rnn_hxs = self.base(inputs, rnn_hxs, masks)
        dist = Categorical(logits=self.dist(features))
        return self.critic(features), dist.log_prob(action.squeeze(-1)).unsqueeze(-1), dist.entropy().mean(), rnn_hxs


def test_masks_that_keep_the_state_and_actions_in_a_column_are_understood() -> None:
    claims = ("act-evaluate", "batch-independence", "causality", "episode-reset", "hidden-used", "step-sequence")
    assert holds(Kept(), *claims)


class Asked(nn.Module):
    """Reads observations and actions from a dict, and returns what belongs to the action in another."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space, self.action_space = BOX, TORQUE
        self.net = nn.Linear(OBSERVATION, ACTIONS)
        self.log_std = nn.Parameter(torch.zeros(ACTIONS))

    def act(self, inputs: dict[str, Tensor], role: str = "") -> tuple[Tensor, dict[str, Tensor]]:
        assert not role
        mean = self.net(inputs["observations"])
        dist = Normal(mean, self.log_std.exp())
        actions = dist.rsample()
        log_prob = dist.log_prob(inputs.get("taken_actions", actions)).sum(-1, keepdim=True)
        return actions, {"log_prob": log_prob, "mean_actions": mean}


def test_a_dict_of_observations_is_given_what_it_is_asked_for() -> None:
    assert holds(Asked(), "act-evaluate", "batch-independence", "gradient-flow", "randomness")


class Stored(nn.Module):
    """`(logits, state)` with a dict of states, batch first, that only the network itself can make."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(OBSERVATION, WIDTH)
        self.core = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, ACTIONS)

    def forward(self, obs: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        obs = obs.unsqueeze(1) if obs.dim() == 2 else obs
        before = None
        if state is not None:
            before = (state["hidden"].transpose(0, 1).contiguous(), state["cell"].transpose(0, 1).contiguous())
        features, (hidden, cell) = self.core(self.embed(obs), before)
        return self.out(features), {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}


def test_a_state_that_only_the_network_makes_is_taken_from_it() -> None:
    assert holds(Stored(), "batch-independence", "causality", "hidden-used", "step-sequence")


class Distribution(nn.Module):
    """`forward` returns a distribution, which scores actions for whoever asks it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(OBSERVATION, ACTIONS)
        self.spare = nn.Linear(OBSERVATION, 1)

    def forward(self, x: Tensor) -> Categorical:
        return Categorical(logits=self.layer(x))


def test_a_distribution_is_asked_for_log_probs() -> None:
    assert holds(Distribution(), "batch-independence", "entropy-consistent", "state-roundtrip")
    assert results(Distribution(), "gradient-flow") == {"gradient-flow": FAILED}  # the spare layer gets none


class Critic(nn.Module):
    """Takes states and actions, and keeps both widths as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.state_dim, self.action_dim = OBSERVATION, ACTIONS
        self.net = nn.Linear(OBSERVATION + ACTIONS, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.net(torch.cat((state, action), dim=1)).squeeze(1)
        return value


def test_a_critic_of_states_and_actions_is_given_both() -> None:
    assert holds(Critic(), "batch-independence", "inputs-changed", "state-roundtrip")


class Normalised(nn.Module):
    """Batch normalisation, in a network whose log-probs nobody compares."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(OBSERVATION, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, ACTIONS))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def test_batch_normalisation_is_no_fault_of_a_network_without_log_probs() -> None:
    assert results(Normalised(), "batch-independence") == {"batch-independence": UNDECIDED}


class Gathered(nn.Module):
    """Takes whatever comes, in one place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(OBSERVATION, ACTIONS)

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.cat(inputs, dim=-1))
        return out


def test_positional_arguments_are_passed_by_position() -> None:
    assert holds(Gathered(), "batch-independence", "inputs-changed")


def test_the_reason_is_that_of_the_call_that_got_furthest() -> None:
    class Late(Gathered):
        def forward(self, *inputs: Tensor) -> Tensor:
            out = super().forward(*inputs)
            raise LookupError(f"after {out.dim()} dimensions")

    (outcome,) = check_network(Late(), claims=["batch-independence"])
    assert outcome.result == UNDECIDED
    assert "LookupError: after" in outcome.error
