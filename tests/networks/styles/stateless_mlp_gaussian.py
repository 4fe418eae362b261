"""Gaussian policy for continuous control: no memory, no mask, separate actor and critic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Independent, Normal

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


@dataclass(frozen=True)
class ArmConfig:
    obs_dim: int = 17
    action_dim: int = 6
    hidden: Sequence[int] = (64, 64)
    initial_std: float = 0.6


def mlp(sizes: Sequence[int], output_gain: float) -> nn.Sequential:
    """Tanh network whose last layer is linear and initialised with a gain of its own."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = index == len(sizes) - 2
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, output_gain if last else math.sqrt(2))
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if not last:
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


class GaussianPolicy(nn.Module):
    def __init__(self, cfg: ArmConfig) -> None:
        super().__init__()
        self.mean = mlp([cfg.obs_dim, *cfg.hidden, cfg.action_dim], output_gain=0.01)
        self.value = mlp([cfg.obs_dim, *cfg.hidden, 1], output_gain=1.0)
        self.log_std = nn.Parameter(torch.full((cfg.action_dim,), math.log(cfg.initial_std)))

    def pi(self, obs: torch.Tensor) -> Independent:
        """Diagonal Gaussian; the clamp keeps an update from blowing up its scale."""
        mean = self.mean(obs)
        std = self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp().expand_as(mean)
        return Independent(Normal(mean, std), 1)

    def forward(self, obs: torch.Tensor) -> tuple[Independent, torch.Tensor]:
        return self.pi(obs), self.value(obs).squeeze(-1)

    @torch.no_grad()
    def step(
        self, obs: torch.Tensor, deterministic: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Action ``[batch, action_dim]``, value and log-probability ``[batch]``, detached."""
        dist, value = self(obs)
        action = dist.mean if deterministic else dist.sample()
        return action, value, dist.log_prob(action)

    def evaluate_actions(
        self, obs: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dist, value = self(obs)
        return dist.log_prob(actions), value, dist.entropy()
