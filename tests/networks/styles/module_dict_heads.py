"""Greenhouse controller: one head per actuator in a ``ModuleDict``, sizes from the config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributions import Categorical

TensorDict = dict[str, torch.Tensor]


def default_actuators() -> dict[str, int]:
    return {"vent": 4, "lamp": 3, "valve": 6}


@dataclass
class GreenhouseConfig:
    sensor_dim: int = 14
    width: int = 80
    actuators: dict[str, int] = field(default_factory=default_actuators)
    # Far below every logit of a bounded head, yet finite and inside the range of float16.
    locked_logit: float = -1e4


class GreenhousePolicy(nn.Module):
    """The actuators are set independently: the joint log-probability is the sum of the heads."""

    def __init__(self, config: GreenhouseConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = nn.Sequential(
            nn.Linear(config.sensor_dim, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.width, size) for name, size in config.actuators.items()}
        )
        self.critic = nn.Linear(config.width, 1)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.orthogonal_(self.trunk[0].weight, gain=math.sqrt(2))
        nn.init.zeros_(self.trunk[0].bias)
        for head in self.heads.values():
            nn.init.orthogonal_(head.weight, gain=0.01)
            nn.init.zeros_(head.bias)
        nn.init.orthogonal_(self.critic.weight, gain=1.0)
        nn.init.zeros_(self.critic.bias)

    def _check_masks(self, batch: int, masks: Mapping[str, torch.Tensor]) -> None:
        unknown = set(masks) - set(self.config.actuators)
        if unknown:
            raise ValueError(f"masks for unknown actuators: {sorted(unknown)}")
        for name, mask in masks.items():
            expected = (batch, self.config.actuators[name])
            if mask.shape != expected:
                raise ValueError(f"mask of {name}: expected {expected}, got {tuple(mask.shape)}")
            torch._assert_async(mask.any(dim=-1).all(), f"{name} is locked in every position")

    def forward(
        self, sensors: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[TensorDict, torch.Tensor]:
        """Masked logits per actuator ``[batch, size]`` and the value ``[batch]``."""
        masks = masks or {}
        self._check_masks(sensors.shape[0], masks)
        features = self.trunk(sensors)
        logits = {}
        for name, head in self.heads.items():
            logits[name] = head(features)
            if name in masks:
                logits[name] = logits[name].masked_fill(~masks[name], self.config.locked_logit)
        return logits, self.critic(features).squeeze(-1)

    @torch.no_grad()
    def act(
        self, sensors: torch.Tensor, masks: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[TensorDict, torch.Tensor, torch.Tensor]:
        """Positions per actuator, joint log-probability (no gradient) and value."""
        logits, value = self(sensors, masks)
        dists = {name: Categorical(logits=head_logits) for name, head_logits in logits.items()}
        positions = {name: dist.sample() for name, dist in dists.items()}
        log_prob = torch.stack([dist.log_prob(positions[name]) for name, dist in dists.items()])
        return positions, log_prob.sum(dim=0), value

    def evaluate_actions(
        self,
        sensors: torch.Tensor,
        positions: TensorDict,
        masks: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Joint log-probability, joint entropy and value, ``[batch]`` each."""
        logits, value = self(sensors, masks)
        log_probs, entropies = [], []
        for name, head_logits in logits.items():
            dist = Categorical(logits=head_logits)
            log_probs.append(dist.log_prob(positions[name]))
            entropies.append(dist.entropy())
        return torch.stack(log_probs).sum(dim=0), torch.stack(entropies).sum(dim=0), value
