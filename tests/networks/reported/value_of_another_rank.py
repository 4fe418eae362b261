"""Policy, and the loss of its critic over a rollout that keeps values as ``[batch, 1]``."""

import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(obs_dim, 32), nn.Tanh())
        self.policy_head = nn.Linear(32, num_actions)
        self.value_head = nn.Linear(32, 1)

    @torch.no_grad()
    def act(self, obs: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(features)

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features))
        return dist.log_prob(actions), self.value_head(features).squeeze(-1), dist.entropy()


def critic_loss(policy: Policy, obs: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """``returns`` is ``[batch, 1]``, as the values were when they were collected."""
    _, values, _ = policy.evaluate_actions(obs, actions)
    return ((returns - values) ** 2).mean()
