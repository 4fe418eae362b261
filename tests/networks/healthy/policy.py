"""Recurrent policy that assigns the charging bays of a bus depot.

Architecture::

    depot features -> embed (Linear, LayerNorm, ELU) -> memory (GRU) -> LayerNorm
    normed         -> actor   -> one logit per bay, and one for "wait"
    normed         -> critic  -> state value

At every step the operator sends the next bus to a free bay or lets it wait. Occupied bays are
masked; waiting is always allowed, so no row of a mask is ever empty.

Sequences handed to :meth:`DepotPolicy.evaluate_actions` are cut at the end of a day, so the
hidden state is only ever reset between two sequences (:meth:`DepotPolicy.reset_finished`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.distributions import Categorical

# Finite, and within the range of float16: an occupied bay gets a probability of exactly zero
# without an infinity that could meet a zero on its way through the entropy.
OCCUPIED_LOGIT = -1e4


@dataclass(frozen=True)
class DepotConfig:
    """Sizes of the depot and of its policy."""

    num_bays: int = 9
    bay_features: int = 3
    bus_features: int = 4
    hidden_size: int = 64
    num_layers: int = 1

    @property
    def obs_dim(self) -> int:
        """Features of all bays followed by those of the next bus in line."""
        return self.num_bays * self.bay_features + self.bus_features

    @property
    def num_actions(self) -> int:
        """One per bay, and "wait" at the end."""
        return self.num_bays + 1


class Decision(NamedTuple):
    """What one step of a rollout needs to remember; no part of it is differentiable."""

    action: torch.Tensor
    log_prob: torch.Tensor
    value: torch.Tensor
    hidden: torch.Tensor


class Evaluation(NamedTuple):
    """What the PPO loss is built on."""

    log_prob: torch.Tensor
    value: torch.Tensor
    entropy: torch.Tensor


class DepotPolicy(nn.Module):
    """GRU actor-critic over a single masked head."""

    def __init__(self, config: DepotConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embed = nn.Sequential(nn.Linear(config.obs_dim, size), nn.LayerNorm(size), nn.ELU())
        self.memory = nn.GRU(size, size, num_layers=config.num_layers, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.actor = nn.Sequential(
            nn.Linear(size, size // 2), nn.ELU(), nn.Linear(size // 2, config.num_actions)
        )
        self.critic = nn.Sequential(nn.Linear(size, size // 2), nn.ELU(), nn.Linear(size // 2, 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Orthogonal weights, gate by gate in the GRU; a policy that starts nearly uniform."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain=2.0**0.5)
                nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.actor[-1].weight, gain=0.01)
        nn.init.orthogonal_(self.critic[-1].weight, gain=1.0)
        for name, param in self.memory.named_parameters():
            if "weight" in name:
                for gate in param.chunk(3):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(param)

    def initial_hidden(self, batch_size: int) -> torch.Tensor:
        """Memory of an empty morning, ``[layers, batch, hidden_size]``."""
        return self.memory.weight_hh_l0.new_zeros(
            self.config.num_layers, batch_size, self.config.hidden_size
        )

    @staticmethod
    def reset_finished(hidden: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        """Clear the memory of the depots whose day is over; ``done`` is ``[batch]``."""
        return hidden * (~done.bool()).to(hidden.dtype).view(1, -1, 1)

    def _check(self, obs: torch.Tensor, free: torch.Tensor) -> None:
        """Refuse a mask that would have to be broadcast against the logits."""
        expected = (*obs.shape[:-1], self.config.num_actions)
        if free.shape != expected:
            raise ValueError(f"free: expected {tuple(expected)}, got {tuple(free.shape)}")
        if free.dtype != torch.bool:
            raise ValueError(f"free: expected torch.bool, got {free.dtype}")

    def forward(
        self,
        obs: torch.Tensor,  # [batch, time, obs_dim]
        free: torch.Tensor,  # [batch, time, num_actions]
        hidden: torch.Tensor,  # [layers, batch, hidden_size]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masked logits ``[batch, time, num_actions]``, values ``[batch, time]``, new memory."""
        if obs.dim() != 3:
            raise ValueError(f"obs: expected [batch, time, obs_dim], got {tuple(obs.shape)}")
        self._check(obs, free)
        torch._assert_async(free.any(dim=-1).all(), "free: a row does not even allow to wait")

        features, hidden = self.memory(self.embed(obs), hidden)
        features = self.norm(features)
        logits = self.actor(features).masked_fill(~free, OCCUPIED_LOGIT)
        return logits, self.critic(features).squeeze(-1), hidden

    @torch.no_grad()
    def act(
        self,
        obs: torch.Tensor,  # [batch, obs_dim]
        free: torch.Tensor,  # [batch, num_actions]
        hidden: torch.Tensor,
        greedy: bool = False,
    ) -> Decision:
        """Decide about the next bus of every depot.

        The log-probability belongs into the rollout buffer; it carries no graph, and the loss
        takes its own from :meth:`evaluate_actions`.
        """
        self._check(obs, free)
        logits, value, hidden = self(obs.unsqueeze(1), free.unsqueeze(1), hidden)
        dist = Categorical(logits=logits[:, 0])
        action = dist.logits.argmax(dim=-1) if greedy else dist.sample()
        return Decision(action, dist.log_prob(action), value[:, 0], hidden)

    def evaluate_actions(
        self,
        obs: torch.Tensor,  # [batch, time, obs_dim]
        free: torch.Tensor,  # [batch, time, num_actions]
        hidden: torch.Tensor,  # [layers, batch, hidden_size]
        actions: torch.Tensor,  # [batch, time]
    ) -> Evaluation:
        """Score recorded decisions under the current weights, ``[batch, time]`` each."""
        if actions.shape != obs.shape[:-1]:
            raise ValueError(
                f"actions: expected {tuple(obs.shape[:-1])}, got {tuple(actions.shape)}"
            )
        logits, value, _ = self(obs, free, hidden)
        dist = Categorical(logits=logits)
        return Evaluation(dist.log_prob(actions), value, dist.entropy())
