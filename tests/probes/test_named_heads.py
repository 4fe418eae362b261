"""Heads that are named where masks and actions come apart, and one method that acts and scores them all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from esper_audit.probes.contract import FAILED, PASSED, Order
from esper_audit.probes.trying import tried
from esper_audit.testing import order_of

OBSERVATION, WIDTH = 9, 16
BLOCKED = -1e8
CLAIMS = (
    "act-evaluate",
    "causality",
    "entropy-consistent",
    "mask-kinds",
    "mask-rank",
    "mask-semantics",
    "output-shape",
)


def results(network: nn.Module, *claims: str) -> dict[str, str]:
    """What came of these claims."""
    return {outcome.id: outcome.result for outcome in tried(order_of(network, claims, 0), network)}


class Named(nn.Module):
    """Masks lie in a dict under the names of the heads, actions side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(OBSERVATION, WIDTH, batch_first=True)
        self.move_head, self.aim_head = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 4)
        self.value_head = nn.Linear(WIDTH, 1)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(1, batch, WIDTH)

    def dists(self, features: Tensor, masks: dict[str, Tensor]) -> list[Categorical]:
        parts = [(self.move_head(features), masks["move"]), (self.aim_head(features), masks["aim"])]
        for logits, mask in parts:
            if mask.dtype != torch.bool or mask.shape != logits.shape or not mask.any(-1).all():
                raise ValueError("a mask of another kind")
        return [Categorical(logits=logits.masked_fill(~mask, BLOCKED)) for logits, mask in parts]

    def act(
        self, obs: Tensor, masks: dict[str, Tensor], hidden: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, hidden = self.gru(obs.unsqueeze(1), hidden)
        dists = self.dists(features[:, 0], masks)
        actions = torch.stack([dist.mode if deterministic else dist.sample() for dist in dists], dim=-1)
        log_prob = dists[0].log_prob(actions[:, 0]) + dists[1].log_prob(actions[:, 1])
        return actions, self.value_head(features[:, 0]).squeeze(-1), log_prob, hidden

    def evaluate_actions(
        self, obs: Tensor, masks: dict[str, Tensor], actions: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        features, _ = self.gru(obs, hidden)
        dists = self.dists(features, masks)
        log_prob = dists[0].log_prob(actions[..., 0]) + dists[1].log_prob(actions[..., 1])
        entropy = dists[0].entropy() + dists[1].entropy()
        return self.value_head(features).squeeze(-1), log_prob, entropy


class Apart(Named):
    """The keys say what they are, actions lie in a dict as well, and masks are asked for by `get`."""

    def dists(self, features: Tensor, masks: dict[str, Tensor]) -> list[Categorical]:
        move, aim = masks.get("move_mask"), masks.get("aim_mask")
        assert move is not None
        assert aim is not None
        return super().dists(features, {"move": move, "aim": aim})

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, masks: dict[str, Tensor], actions: dict[str, Tensor], hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        packed = torch.stack([actions["move_action"], actions["aim_action"]], dim=-1)
        return super().evaluate_actions(obs, masks, packed, hidden)


class Listed(Named):
    """The heads are in a list, and their masks in another one."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([self.move_head, self.aim_head])
        del self.move_head, self.aim_head

    def dists(self, features: Tensor, masks: list[Tensor]) -> list[Categorical]:  # type: ignore[override]
        found = []
        for head, mask in zip(self.heads, masks, strict=True):
            logits = head(features)
            if mask.dtype != torch.bool or mask.shape != logits.shape or not mask.any(-1).all():
                raise ValueError("a mask of another kind")
            found.append(Categorical(logits=logits.masked_fill(~mask, BLOCKED)))
        return found


@pytest.mark.parametrize("network", [Named, Apart, Listed])
def test_keys_and_places_are_those_of_the_heads(network: type[nn.Module]) -> None:
    assert results(network(), *CLAIMS) == dict.fromkeys(CLAIMS, PASSED)


class Unmasked(Named):
    """Scores without the masks."""

    def evaluate_actions(
        self, obs: Tensor, masks: dict[str, Tensor], actions: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid = {"move": torch.ones_like(masks["move"]), "aim": torch.ones_like(masks["aim"])}
        return super().evaluate_actions(obs, valid, actions, hidden)


def test_masks_that_scoring_forgets_are_seen() -> None:
    assert results(Unmasked(), "act-evaluate") == {"act-evaluate": FAILED}


class Columns(nn.Module):
    """No masks: that there are two heads is known from the columns of the actions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(OBSERVATION, WIDTH)
        self.move_head, self.aim_head = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 4)
        self.value_head = nn.Linear(WIDTH, 1)

    def dists(self, obs: Tensor) -> tuple[Categorical, Categorical, Tensor]:
        features = self.body(obs).tanh()
        move, aim = Categorical(logits=self.move_head(features)), Categorical(logits=self.aim_head(features))
        return move, aim, self.value_head(features).squeeze(-1)

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        move, aim, value = self.dists(obs)
        actions = torch.stack([move.sample(), aim.sample()], dim=-1)
        return actions, value, move.log_prob(actions[..., 0]) + aim.log_prob(actions[..., 1])

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        move, aim, value = self.dists(obs)
        log_prob = move.log_prob(actions[..., 0]) + aim.log_prob(actions[..., 1])
        return value, log_prob, move.entropy() + aim.entropy()


class Swapped(Columns):
    """Scores the second head by what the first chose."""

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        move, aim, value = self.dists(obs)
        log_prob = move.log_prob(actions[..., 1]) + aim.log_prob(actions[..., 1])
        return value, log_prob, move.entropy() + aim.entropy()


def test_columns_of_actions_are_the_heads() -> None:
    claims = ("act-evaluate", "batch-independence", "log-prob-normalised", "entropy-consistent")
    assert results(Columns(), *claims) == dict.fromkeys(claims, PASSED)
    assert results(Swapped(), "act-evaluate") == {"act-evaluate": FAILED}


class Both(nn.Module):
    """One method acts and scores; steps come before environments, and masks lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.nvec = [5, 4]
        self.lstm = nn.LSTM(OBSERVATION, WIDTH)
        self.actor, self.critic = nn.Linear(WIDTH, sum(self.nvec)), nn.Linear(WIDTH, 1)

    def get_initial_state(self, num_envs: int) -> tuple[Tensor, Tensor]:
        weight = self.actor.weight
        return weight.new_zeros(1, num_envs, WIDTH), weight.new_zeros(1, num_envs, WIDTH)

    def masked(self, logits: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None:
            return logits
        if masks.shape != logits.shape:
            raise ValueError("a mask of another shape")
        return torch.where(masks.bool(), logits, BLOCKED)

    def get_action_and_value(
        self,
        x: Tensor,
        lstm_state: tuple[Tensor, Tensor],
        action: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        number = lstm_state[0].shape[1]
        features, lstm_state = self.lstm(x.reshape(-1, number, OBSERVATION), lstm_state)
        features = features.flatten(0, 1)
        logits = self.masked(self.actor(features), masks)
        dists = [Categorical(logits=part) for part in logits.split(self.nvec, dim=-1)]
        if action is None:
            action = torch.stack([dist.sample() for dist in dists], dim=-1)
        logprob = torch.stack([dist.log_prob(a) for a, dist in zip(action.unbind(-1), dists, strict=True)], dim=-1)
        entropy = torch.stack([dist.entropy() for dist in dists], dim=-1)
        return action, logprob.sum(-1), entropy.sum(-1), self.critic(features).squeeze(-1), lstm_state


class Turned(Both):
    """Takes each entry for a valid one that is not 1 when inverted, which every number is but -1."""

    def masked(self, logits: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None:
            return logits
        if masks.shape != logits.shape:
            raise ValueError("a mask of another shape")
        return logits.masked_fill((~masks).bool(), BLOCKED)


def test_a_method_that_acts_and_scores_is_given_masks_in_one_form() -> None:
    claims = ("act-evaluate", "hidden-dtype", "hidden-used", "mask-kinds", "mask-rank", "state-roundtrip")
    assert results(Both(), *claims) == dict.fromkeys(claims, PASSED)
    assert results(Turned(), "mask-kinds") == {"mask-kinds": FAILED}


def test_an_order_crosses_the_border_between_two_processes() -> None:
    order = order_of(Columns(), ("cost",), 0)
    assert order.heads == ("move_head", "aim_head")
    assert {method.name: method.columns for method in order.methods} == {"act": 0, "evaluate_actions": 2}
    assert Order.from_json(order.to_json()) == order
