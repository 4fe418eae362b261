"""Recurrent policy that is told where episodes begin."""

import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 4, size: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Linear(obs_dim, size)
        self.lstm = nn.LSTM(size, size)
        self.policy_head = nn.Linear(size, num_actions)
        self.value_head = nn.Linear(size, 1)

    def initial_state(self, num_envs: int) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.policy_head.weight
        shape = (1, num_envs, self.lstm.hidden_size)
        zeros = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        return zeros, zeros.clone()

    @torch.no_grad()
    def act(self, obs: torch.Tensor, hidden, episode_starts: torch.Tensor):
        """One step: ``obs`` is ``[num_envs, obs_dim]``, ``episode_starts`` is ``[num_envs]``."""
        core, hidden = self.lstm(torch.tanh(self.encoder(obs)).unsqueeze(0), hidden)
        dist = Categorical(logits=self.policy_head(core[0]))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(core[0]).squeeze(-1), hidden

    def evaluate_actions(self, obs: torch.Tensor, actions: torch.Tensor, hidden, episode_starts: torch.Tensor):
        """``obs`` is ``[steps, num_envs, obs_dim]``, ``episode_starts`` is ``[steps, num_envs]``."""
        core, _ = self.lstm(torch.tanh(self.encoder(obs)), hidden)
        dist = Categorical(logits=self.policy_head(core))
        return dist.log_prob(actions), self.value_head(core).squeeze(-1), dist.entropy()
