"""Recurrent policy whose update cuts the flat rollout into sequences."""

import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 4, size: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(obs_dim, size)
        self.gru = nn.GRU(size, size)
        self.policy_head = nn.Linear(size, num_actions)
        self.value_head = nn.Linear(size, 1)

    def initial_state(self, num_envs: int) -> torch.Tensor:
        weight = self.policy_head.weight
        return torch.zeros(1, num_envs, self.gru.hidden_size, dtype=weight.dtype, device=weight.device)

    @torch.no_grad()
    def act(self, obs: torch.Tensor, hidden: torch.Tensor):
        """One step: ``obs`` is ``[num_envs, obs_dim]``."""
        core, hidden = self.gru(torch.tanh(self.encoder(obs)).unsqueeze(0), hidden)
        dist = Categorical(logits=self.policy_head(core[0]))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(core[0]).squeeze(-1), hidden

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor, hidden: torch.Tensor):
        """Sequences one after the other: ``obs`` is ``[num_envs, steps, obs_dim]``."""
        num_envs, steps = obs.shape[:2]
        features = torch.tanh(self.encoder(obs.flatten(0, 1)))
        core, _ = self.gru(features.view(steps, num_envs, -1), hidden)
        core = core.reshape(num_envs, steps, -1)
        dist = Categorical(logits=self.policy_head(core))
        return dist.log_prob(actions), self.value_head(core).squeeze(-1), dist.entropy()
