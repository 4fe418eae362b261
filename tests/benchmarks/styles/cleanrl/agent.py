"""PPO agent for MultiDiscrete actions with masks and an LSTM, steps before environments.

T steps of B environments come flat, `[T * B, ...]`, the steps outside. One method acts and evaluates: it samples where
no action is passed.
"""

import math

import torch
import torch.nn as nn
from torch.distributions.categorical import Categorical

MASKED = -1e8  # takes the place of forbidden logits, in float32


def layer_init(layer, std=math.sqrt(2), bias_const=0.0):
    torch.nn.init.orthogonal_(layer.weight, std)
    torch.nn.init.constant_(layer.bias, bias_const)
    return layer


def lstm_init(lstm):
    for name, param in lstm.named_parameters():
        if "weight" in name:
            for gate in param.data.chunk(4):
                nn.init.orthogonal_(gate)
        else:
            nn.init.constant_(param, 0.0)
            if "bias_ih" in name:
                n = param.shape[0]
                param.data[n // 4 : n // 2].fill_(1.0)
    return lstm


class Agent(nn.Module):
    def __init__(self, obs_dim=12, nvec=(5, 4, 3), hidden_size=64):
        super().__init__()
        self.obs_dim = obs_dim
        self.nvec = list(nvec)
        self.network = nn.Sequential(
            layer_init(nn.Linear(obs_dim, 64)),
            nn.ReLU(),
        )
        self.lstm = lstm_init(nn.LSTM(64, hidden_size))
        self.norm = nn.LayerNorm(hidden_size)
        self.actor = layer_init(nn.Linear(hidden_size, sum(self.nvec)), std=0.01)
        self.critic = layer_init(nn.Linear(hidden_size, 1), std=1.0)

    def get_initial_state(self, num_envs):
        weight = self.lstm.weight_hh_l0
        shape = (self.lstm.num_layers, num_envs, self.lstm.hidden_size)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def get_states(self, x, lstm_state, done):
        """Features `[T * B, H]`, and the state after the last step; `done` marks the first steps of episodes."""
        num_envs = lstm_state[0].shape[1]
        hidden = self.network(x)
        hidden = hidden.reshape(-1, num_envs, self.lstm.input_size)
        keep = (1.0 - done.to(hidden.dtype)).reshape(-1, 1, num_envs, 1)
        h, c = lstm_state
        outputs = []
        for t in range(hidden.shape[0]):
            state = (h * keep[t], c * keep[t])
            output, (h, c) = self.lstm(hidden[t : t + 1], state)
            outputs.append(output)
        new_hidden = torch.cat(outputs, dim=0).flatten(0, 1)
        new_hidden = self.norm(new_hidden)
        return new_hidden, (h, c)

    def get_dists(self, hidden, masks):
        """One distribution per component; `masks` `[T * B, sum(nvec)]` is True where a choice is valid."""
        logits = self.actor(hidden)
        if masks is None:
            masks = torch.ones_like(logits, dtype=torch.bool)
        if masks.shape != logits.shape:
            raise ValueError(f"masks: expected shape {tuple(logits.shape)}, got {tuple(masks.shape)}")
        split_logits = torch.split(logits.float(), self.nvec, dim=-1)
        split_masks = torch.split(masks.bool(), self.nvec, dim=-1)
        dists = []
        for part, mask in zip(split_logits, split_masks):
            torch._assert_async(mask.any(dim=-1).all(), "a row of the masks has no valid choice")
            part = torch.where(mask, part, MASKED)
            dists.append(Categorical(logits=part))
        return dists

    def get_value(self, x, lstm_state, done):
        hidden, _ = self.get_states(x, lstm_state, done)
        return self.critic(hidden).squeeze(-1)

    @torch.no_grad()
    def get_greedy_action(self, x, lstm_state, done, masks=None):
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        dists = self.get_dists(hidden, masks)
        action = torch.stack([dist.probs.argmax(dim=-1) for dist in dists], dim=-1)
        return action, lstm_state

    def get_action_and_value(self, x, lstm_state, done, action=None, masks=None):
        """Action `[T * B, components]`, joint log-prob, joint entropy and value `[T * B]`, and the state."""
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        dists = self.get_dists(hidden, masks)
        if action is None:
            action = torch.stack([dist.sample() for dist in dists], dim=-1)
        logprob = torch.stack([dist.log_prob(a) for a, dist in zip(action.unbind(-1), dists)], dim=-1)
        entropy = torch.stack([dist.entropy() for dist in dists], dim=-1)
        value = self.critic(hidden).squeeze(-1)
        return action, logprob.sum(-1), entropy.sum(-1), value, lstm_state
