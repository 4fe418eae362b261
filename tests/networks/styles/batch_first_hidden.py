"""Pump station controller whose LSTM state travels as ``[batch, layers, hidden]``.

The replay code slices everything along the environment axis, the hidden state included, so the
policy keeps that axis first and turns the state round at the border of the LSTM only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class PumpConfig:
    sensors: int = 18
    pump_levels: int = 5
    embed_dim: int = 48
    hidden_dim: int = 32
    layers: int = 2


class LSTMState(NamedTuple):
    """Hidden and cell state, each ``[batch, layers, hidden]``."""

    h: torch.Tensor
    c: torch.Tensor


def init_lstm(lstm: nn.LSTM) -> None:
    """Orthogonal blocks per gate and a forget bias of one (in one of the two biases)."""
    with torch.no_grad():
        for name, param in lstm.named_parameters():
            if "weight" in name:
                for block in param.chunk(4):
                    nn.init.orthogonal_(block)
            else:
                param.zero_()
        for layer in range(lstm.num_layers):
            bias = getattr(lstm, f"bias_ih_l{layer}")
            bias[lstm.hidden_size : 2 * lstm.hidden_size].fill_(1.0)


class PumpPolicy(nn.Module):
    def __init__(self, cfg: PumpConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = nn.Sequential(
            nn.Linear(cfg.sensors, cfg.embed_dim), nn.LayerNorm(cfg.embed_dim), nn.Tanh()
        )
        self.lstm = nn.LSTM(cfg.embed_dim, cfg.hidden_dim, cfg.layers, batch_first=True)
        self.actor = nn.Linear(cfg.hidden_dim, cfg.pump_levels)
        self.critic = nn.Linear(cfg.hidden_dim, 1)
        init_lstm(self.lstm)
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.zeros_(self.actor.bias)
        nn.init.orthogonal_(self.critic.weight, 1.0)
        nn.init.zeros_(self.critic.bias)

    def get_initial_state(self, batch_size: int) -> LSTMState:
        like = next(self.lstm.parameters())
        shape = (batch_size, self.cfg.layers, self.cfg.hidden_dim)
        return LSTMState(
            torch.zeros(shape, dtype=like.dtype, device=like.device),
            torch.zeros(shape, dtype=like.dtype, device=like.device),
        )

    def forward(
        self, obs: torch.Tensor, state: LSTMState, episode_start: torch.Tensor
    ) -> tuple[Categorical, torch.Tensor, LSTMState]:
        """Run sequences that may only start a new episode at their first step.

        Args:
            obs: ``[batch, time, sensors]``.
            state: State before the first step, ``[batch, layers, hidden]`` each.
            episode_start: ``[batch]``, 1 where the first step begins an episode.
        """
        keep = (1.0 - episode_start.to(obs.dtype)).view(-1, 1, 1)
        h = (state.h * keep).transpose(0, 1).contiguous()
        c = (state.c * keep).transpose(0, 1).contiguous()
        out, (h, c) = self.lstm(self.encoder(obs), (h, c))
        new_state = LSTMState(h.transpose(0, 1), c.transpose(0, 1))
        return Categorical(logits=self.actor(out)), self.critic(out).squeeze(-1), new_state

    def step(
        self, obs: torch.Tensor, state: LSTMState, episode_start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, LSTMState]:
        """Act on ``[batch, sensors]``; everything returned is free of gradients."""
        with torch.no_grad():
            dist, value, state = self(obs.unsqueeze(1), state, episode_start)
            level = dist.sample()
            return level[:, 0], dist.log_prob(level)[:, 0], value[:, 0], state

    def evaluate_actions(
        self,
        obs: torch.Tensor,
        levels: torch.Tensor,
        state: LSTMState,
        episode_start: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values, log-probabilities and entropies, ``[batch, time]`` each."""
        dist, value, _ = self(obs, state, episode_start)
        return value, dist.log_prob(levels), dist.entropy()
