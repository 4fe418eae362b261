"""Recurrent wrapper around a policy that has initialised itself."""

import torch
from torch import nn
from torch.distributions import Categorical


def layer_init(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


class Policy(nn.Module):
    def __init__(self, obs_dim: int = 5, num_actions: int = 6, size: int = 32) -> None:
        super().__init__()
        self.encoder = layer_init(nn.Linear(obs_dim, size), 2**0.5)
        self.lstm = nn.LSTM(size, size)
        self.policy_head = layer_init(nn.Linear(size, num_actions), 0.01)
        self.value_head = layer_init(nn.Linear(size, 1), 1.0)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.constant_(parameter, 0)
            elif parameter.ndim >= 2:
                nn.init.orthogonal_(parameter, 1.0)

    def forward(self, obs: torch.Tensor, hidden=None):
        """``obs`` is ``[steps, num_envs, obs_dim]``."""
        core, hidden = self.lstm(torch.tanh(self.encoder(obs)), hidden)
        return self.policy_head(core), self.value_head(core).squeeze(-1), hidden

    @torch.no_grad()
    def act(self, obs: torch.Tensor, hidden=None):
        """One step: ``obs`` is ``[num_envs, obs_dim]``."""
        logits, value, hidden = self.forward(obs.unsqueeze(0), hidden)
        dist = Categorical(logits=logits[0])
        action = dist.sample()
        return action, dist.log_prob(action), value[0], hidden
