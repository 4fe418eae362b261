"""Policy over a set of moves, some of which are forbidden in each state."""

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
    def act(self, obs: torch.Tensor, action_mask: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features).masked_fill(~action_mask, -1e4))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(features).squeeze(-1)

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor, action_mask: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features))
        return dist.log_prob(actions), self.value_head(features).squeeze(-1), dist.entropy()
