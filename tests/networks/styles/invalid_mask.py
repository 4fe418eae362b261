"""Container crane whose simulator reports the moves that are *not* possible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Categorical


@dataclass
class CraneConfig:
    yard_features: int = 30
    stacks: int = 7
    hidden: int = 64
    # A finite logit leaves no NaN behind in the entropy, and -1e4 can be stored in float16.
    blocked_logit: float = -1e4


class CranePolicy(nn.Module):
    """Chooses the stack to put the next container on.

    ``invalid`` is the simulator's convention throughout: True marks a stack that is full or
    out of reach.
    """

    def __init__(self, config: CraneConfig) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Sequential(
            nn.Linear(config.yard_features, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )
        self.policy = nn.Linear(config.hidden, config.stacks)
        self.value = nn.Linear(config.hidden, 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
                nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.policy.weight, 0.01)
        nn.init.zeros_(self.policy.bias)
        nn.init.orthogonal_(self.value.weight, 1.0)
        nn.init.zeros_(self.value.bias)

    def _validate(self, obs: torch.Tensor, invalid: torch.Tensor) -> None:
        expected = (obs.shape[0], self.config.stacks)
        if invalid.shape != expected or invalid.dtype != torch.bool:
            raise ValueError(
                f"invalid: expected bool {expected}, got {invalid.dtype} {tuple(invalid.shape)}"
            )
        torch._assert_async((~invalid).any(dim=-1).all(), "every stack is blocked")

    def get_dist(self, obs: torch.Tensor, invalid: torch.Tensor) -> Categorical:
        """Distribution over the stacks for ``obs`` ``[batch, yard_features]``."""
        self._validate(obs, invalid)
        logits = self.policy(self.body(obs))
        return Categorical(logits=logits.masked_fill(invalid, self.config.blocked_logit))

    def get_value(self, obs: torch.Tensor) -> torch.Tensor:
        return self.value(self.body(obs)).squeeze(-1)

    def forward(self, obs: torch.Tensor, invalid: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        self._validate(obs, invalid)
        features = self.body(obs)
        logits = self.policy(features).masked_fill(invalid, self.config.blocked_logit)
        return Categorical(logits=logits), self.value(features).squeeze(-1)

    @torch.no_grad()
    def select_action(
        self, obs: torch.Tensor, invalid: torch.Tensor, greedy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A stack per crane and its log-probability; detached, for the rollout only."""
        dist = self.get_dist(obs, invalid)
        stack = dist.logits.argmax(dim=-1) if greedy else dist.sample()
        return stack, dist.log_prob(stack)

    def evaluate_actions(
        self, obs: torch.Tensor, invalid: torch.Tensor, stacks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dist, value = self(obs, invalid)
        return value, dist.log_prob(stacks), dist.entropy()
