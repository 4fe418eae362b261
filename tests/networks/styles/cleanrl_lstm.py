"""LSTM agent in one file, time first, with episode ends in the middle of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
from torch.distributions.categorical import Categorical


@dataclass
class Args:
    num_envs: int = 4
    num_steps: int = 8
    obs_dim: int = 12
    num_actions: int = 5
    hidden_size: int = 32


def layer_init(layer: nn.Linear, std: float = np.sqrt(2), bias_const: float = 0.0) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, bias_const)
    return layer


def lstm_init(lstm: nn.LSTM) -> nn.LSTM:
    for name, param in lstm.named_parameters():
        if "bias" in name:
            nn.init.zeros_(param)
        else:
            with torch.no_grad():
                for gate in param.chunk(4):
                    nn.init.orthogonal_(gate)
    return lstm


class Agent(nn.Module):
    def __init__(self, args: Args):
        super().__init__()
        self.network = nn.Sequential(
            layer_init(nn.Linear(args.obs_dim, args.hidden_size)),
            nn.ReLU(),
        )
        self.lstm = lstm_init(nn.LSTM(args.hidden_size, args.hidden_size))
        self.actor = layer_init(nn.Linear(args.hidden_size, args.num_actions), std=0.01)
        self.critic = layer_init(nn.Linear(args.hidden_size, 1), std=1.0)

    def initial_lstm_state(self, num_envs: int):
        shape = (self.lstm.num_layers, num_envs, self.lstm.hidden_size)
        weight = self.lstm.weight_hh_l0
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def get_states(self, x, lstm_state, done):
        """Features of ``[time * envs, obs_dim]`` observations.

        ``done`` says which steps begin a new episode: the state is cleared before them, which
        may be anywhere in the sequence and makes the loop over time necessary.
        """
        num_envs = lstm_state[0].shape[1]
        features = self.network(x).reshape(-1, num_envs, self.lstm.input_size)
        keep = (1.0 - done.to(features.dtype)).reshape(-1, 1, num_envs, 1)
        outputs = []
        for frame, alive in zip(features, keep, strict=True):
            h, c = lstm_state
            output, lstm_state = self.lstm(frame.unsqueeze(0), (h * alive, c * alive))
            outputs.append(output)
        return torch.cat(outputs).flatten(0, 1), lstm_state

    def get_value(self, x, lstm_state, done):
        hidden, _ = self.get_states(x, lstm_state, done)
        return self.critic(hidden).squeeze(-1)

    def get_action_and_value(self, x, lstm_state, done, action=None):
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        probs = Categorical(logits=self.actor(hidden))
        if action is None:
            action = probs.sample()
        value = self.critic(hidden).squeeze(-1)
        return action, probs.log_prob(action), probs.entropy(), value, lstm_state


def collect(agent: Agent, observations: torch.Tensor, dones: torch.Tensor):
    """Act on ``[time, envs, obs_dim]`` recorded observations, step by step."""
    initial_state = lstm_state = agent.initial_lstm_state(observations.shape[1])
    actions, logprobs = [], []
    for obs, done in zip(observations, dones, strict=True):
        with torch.no_grad():
            action, logprob, _, _, lstm_state = agent.get_action_and_value(obs, lstm_state, done)
        actions.append(action)
        logprobs.append(logprob)
    return torch.stack(actions), torch.stack(logprobs), initial_state
