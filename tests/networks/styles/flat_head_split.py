"""Multi-discrete policy with one flat head: logits are laid side by side and split later."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class DroneConfig:
    obs_dim: int = 20
    # throttle, yaw, pitch, payload
    nvec: tuple[int, ...] = (5, 9, 7, 2)
    width: int = 64


class MultiCategorical:
    """Independent categoricals over the parts of a flat ``[..., sum(nvec)]`` logit tensor."""

    def __init__(self, flat_logits: torch.Tensor, nvec: tuple[int, ...]) -> None:
        self.parts = [
            Categorical(logits=part) for part in torch.split(flat_logits, list(nvec), dim=-1)
        ]

    def sample(self) -> torch.Tensor:
        """``[..., len(nvec)]``, in the order of ``nvec``."""
        return torch.stack([part.sample() for part in self.parts], dim=-1)

    def mode(self) -> torch.Tensor:
        return torch.stack([part.logits.argmax(dim=-1) for part in self.parts], dim=-1)

    def log_prob(self, choice: torch.Tensor) -> torch.Tensor:
        columns = choice.unbind(dim=-1)
        terms = [part.log_prob(column) for part, column in zip(self.parts, columns, strict=True)]
        return torch.stack(terms).sum(dim=0)

    def entropy(self) -> torch.Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(dim=0)


class DronePolicy(nn.Module):
    def __init__(self, cfg: DroneConfig) -> None:
        super().__init__()
        self.nvec = cfg.nvec
        self.backbone = nn.Sequential(
            nn.Linear(cfg.obs_dim, cfg.width),
            nn.ELU(),
            nn.Linear(cfg.width, cfg.width),
            nn.ELU(),
        )
        self.action_head = nn.Linear(cfg.width, sum(cfg.nvec))
        self.value_head = nn.Linear(cfg.width, 1)
        nn.init.orthogonal_(self.action_head.weight, 0.01)
        nn.init.zeros_(self.action_head.bias)
        nn.init.orthogonal_(self.value_head.weight, 1.0)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self, obs: torch.Tensor, action_masks: torch.Tensor | None = None
    ) -> tuple[MultiCategorical, torch.Tensor]:
        """Distribution and value; ``action_masks`` is flat like the head, True = allowed."""
        features = self.backbone(obs)
        logits = self.action_head(features)
        if action_masks is not None:
            if action_masks.shape != logits.shape:
                raise ValueError(
                    f"action_masks {tuple(action_masks.shape)} do not match the flat head "
                    f"{tuple(logits.shape)}"
                )
            for allowed in torch.split(action_masks, list(self.nvec), dim=-1):
                torch._assert_async(allowed.any(dim=-1).all(), "a part without an allowed action")
            logits = torch.where(action_masks, logits, torch.finfo(logits.dtype).min)
        return MultiCategorical(logits, self.nvec), self.value_head(features).squeeze(-1)

    def get_action(
        self,
        obs: torch.Tensor,
        action_masks: torch.Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Actions ``[batch, len(nvec)]``, joint log-probability and value, all without a graph."""
        with torch.no_grad():
            dist, value = self(obs, action_masks)
            actions = dist.mode() if deterministic else dist.sample()
            return actions, dist.log_prob(actions), value

    def evaluate_actions(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        action_masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        expected = (obs.shape[0], len(self.nvec))
        if actions.shape != expected:
            raise ValueError(f"actions: expected {expected}, got {tuple(actions.shape)}")
        dist, value = self(obs, action_masks)
        return dist.log_prob(actions), dist.entropy(), value
