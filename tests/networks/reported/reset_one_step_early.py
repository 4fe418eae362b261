"""Recurrent policy that clears its state where an episode ends."""

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
    def act(self, obs: torch.Tensor, hidden: torch.Tensor, episode_starts: torch.Tensor):
        """One step: ``obs`` is ``[num_envs, obs_dim]``, ``episode_starts`` is ``[num_envs]``."""
        hidden = hidden * (~episode_starts).view(1, -1, 1)
        core, hidden = self.gru(torch.tanh(self.encoder(obs)).unsqueeze(0), hidden)
        dist = Categorical(logits=self.policy_head(core[0]))
        action = dist.sample()
        return action, dist.log_prob(action), self.value_head(core[0]).squeeze(-1), hidden

    def evaluate_actions(
        self, obs: torch.Tensor, actions: torch.Tensor, hidden: torch.Tensor, episode_starts: torch.Tensor
    ):
        """``obs`` is ``[steps, num_envs, obs_dim]``, ``episode_starts`` is ``[steps, num_envs]``."""
        features = torch.tanh(self.encoder(obs))
        cores = []
        for step in range(features.shape[0]):
            ended = episode_starts[min(step + 1, features.shape[0] - 1)]
            hidden = hidden * (~ended).view(1, -1, 1)
            core, hidden = self.gru(features[step : step + 1], hidden)
            cores.append(core)
        core = torch.cat(cores)
        dist = Categorical(logits=self.policy_head(core))
        return dist.log_prob(actions), self.value_head(core).squeeze(-1), dist.entropy()
