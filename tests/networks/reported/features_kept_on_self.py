"""Policy that remembers its last features for whoever wants to look at them."""

import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 4) -> None:
        super().__init__()
        self.public = nn.Linear(obs_dim, 16)
        self.private = nn.Linear(obs_dim, 16)
        self.policy_head = nn.Linear(32, num_actions)
        self.value_head = nn.Linear(32, 1)

    def forward(self, obs: torch.Tensor):
        self.inference_state = torch.cat([torch.tanh(self.public(obs)), torch.tanh(self.private(obs))], dim=-1)
        return self.policy_head(self.inference_state), self.value_head(self.inference_state).squeeze(-1)

    @torch.no_grad()
    def act(self, obs: torch.Tensor):
        logits, value = self(obs)
        dist = Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action), value

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor):
        logits, value = self(obs)
        dist = Categorical(logits=logits)
        return dist.log_prob(actions), value, dist.entropy()
