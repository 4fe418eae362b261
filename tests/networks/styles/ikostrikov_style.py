"""Actor-critic in the ``act(inputs, rnn_hxs, masks)`` manner.

``masks`` has nothing to do with actions: it is 0 at the first step of an episode and 1 everywhere
else, and multiplies the recurrent state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn


@dataclass
class NetConfig:
    num_inputs: int = 16
    num_outputs: int = 6
    hidden_size: int = 48
    recurrent: bool = True


def init(module: nn.Module, gain: float = 1.0) -> nn.Module:
    nn.init.orthogonal_(module.weight.data, gain=gain)
    nn.init.constant_(module.bias.data, 0)
    return module


class NNBase(nn.Module):
    """Recurrent core shared by the bases; the state is a single ``[num_envs, hidden]``."""

    def __init__(self, recurrent: bool, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self._hidden_size = hidden_size
        self._recurrent = recurrent
        if recurrent:
            self.gru = nn.GRU(input_size, hidden_size)
            for name, param in self.gru.named_parameters():
                if "bias" in name:
                    nn.init.constant_(param, 0)
                else:
                    with torch.no_grad():
                        for gate in param.chunk(3):
                            nn.init.orthogonal_(gate)

    @property
    def is_recurrent(self) -> bool:
        return self._recurrent

    @property
    def recurrent_hidden_state_size(self) -> int:
        return self._hidden_size if self._recurrent else 1

    def _forward_gru(
        self, x: torch.Tensor, hxs: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` is ``[time * num_envs, features]``; one step if it has as many rows as ``hxs``."""
        num_envs = hxs.size(0)
        steps = x.size(0) // num_envs
        x = x.view(steps, num_envs, -1)
        masks = masks.view(steps, num_envs, 1)
        hxs = hxs.unsqueeze(0)
        outputs = []
        for t in range(steps):
            out, hxs = self.gru(x[t : t + 1], hxs * masks[t])
            outputs.append(out)
        return torch.cat(outputs, dim=0).flatten(0, 1), hxs.squeeze(0)


class MLPBase(NNBase):
    def __init__(self, config: NetConfig) -> None:
        size = config.hidden_size
        super().__init__(config.recurrent, size, size)
        self.features = nn.Sequential(init(nn.Linear(config.num_inputs, size), 2**0.5), nn.Tanh())
        self.actor = nn.Sequential(init(nn.Linear(size, size), 2**0.5), nn.Tanh())
        self.critic = nn.Sequential(init(nn.Linear(size, size), 2**0.5), nn.Tanh())
        self.critic_linear = init(nn.Linear(size, 1))

    def forward(
        self, inputs: torch.Tensor, rnn_hxs: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.features(inputs)
        if self.is_recurrent:
            x, rnn_hxs = self._forward_gru(x, rnn_hxs, masks)
        return self.critic_linear(self.critic(x)).squeeze(-1), self.actor(x), rnn_hxs


class Policy(nn.Module):
    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.base = MLPBase(config)
        self.dist = init(nn.Linear(config.hidden_size, config.num_outputs), gain=0.01)

    @property
    def recurrent_hidden_state_size(self) -> int:
        return self.base.recurrent_hidden_state_size

    def forward(self, inputs, rnn_hxs, masks):
        raise NotImplementedError("use act, get_value or evaluate_actions")

    @torch.no_grad()
    def act(self, inputs, rnn_hxs, masks, deterministic=False):
        """Value, action, its log-probability and the next state, none of them differentiable."""
        value, actor_features, rnn_hxs = self.base(inputs, rnn_hxs, masks)
        dist = torch.distributions.Categorical(logits=self.dist(actor_features))
        action = dist.probs.argmax(dim=-1) if deterministic else dist.sample()
        return value, action, dist.log_prob(action), rnn_hxs

    @torch.no_grad()
    def get_value(self, inputs, rnn_hxs, masks):
        """Value to bootstrap the returns of a rollout from."""
        value, _, _ = self.base(inputs, rnn_hxs, masks)
        return value

    def evaluate_actions(self, inputs, rnn_hxs, masks, action):
        value, actor_features, rnn_hxs = self.base(inputs, rnn_hxs, masks)
        dist = torch.distributions.Categorical(logits=self.dist(actor_features))
        return value, dist.log_prob(action), dist.entropy().mean(), rnn_hxs
