"""Policy whose last layers are to begin small."""

import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 6) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy_head = nn.Linear(64, num_actions)
        self.value_head = nn.Linear(64, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain=2**0.5)
                nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.value_head.weight, gain=0.01)
        nn.init.orthogonal_(self.value_head.weight, gain=1.0)

    @torch.no_grad()
    def act(self, obs: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(features).squeeze(-1)

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor):
        features = self.trunk(obs)
        dist = Categorical(logits=self.policy_head(features))
        return dist.log_prob(actions), self.value_head(features).squeeze(-1), dist.entropy()
