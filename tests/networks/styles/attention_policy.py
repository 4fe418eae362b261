"""Trading policy that attends over a window of past observations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributions import Categorical


@dataclass(frozen=True)
class WindowConfig:
    obs_dim: int = 10
    num_actions: int = 3
    d_model: int = 32
    num_heads: int = 4
    num_blocks: int = 2
    max_len: int = 32


def causal_mask(length: int, like: torch.Tensor) -> torch.Tensor:
    """``[length, length]`` to be added to attention scores: no step looks into the future."""
    full = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return torch.triu(full, diagonal=1)


def padding_mask(lengths: torch.Tensor, length: int, like: torch.Tensor) -> torch.Tensor:
    """``[batch, length]`` to be added to attention scores: windows are padded at their end."""
    steps = torch.arange(length, device=like.device)
    padded = steps[None, :] >= lengths[:, None]
    scores = torch.zeros(padded.shape, dtype=like.dtype, device=like.device)
    return scores.masked_fill(padded, float("-inf"))


class AttentionPolicy(nn.Module):
    """Pre-norm transformer without dropout: rollout and update have to see the same policy."""

    def __init__(self, cfg: WindowConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Linear(cfg.obs_dim, cfg.d_model)
        self.position = nn.Parameter(torch.zeros(1, cfg.max_len, cfg.d_model))
        block = nn.TransformerEncoderLayer(
            cfg.d_model,
            cfg.num_heads,
            dim_feedforward=4 * cfg.d_model,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(block, cfg.num_blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(cfg.d_model)
        self.policy_head = nn.Linear(cfg.d_model, cfg.num_actions)
        self.value_head = nn.Linear(cfg.d_model, 1)
        nn.init.normal_(self.position, std=0.02)
        nn.init.orthogonal_(self.embed.weight, gain=math.sqrt(2))
        nn.init.orthogonal_(self.policy_head.weight, gain=0.01)
        nn.init.orthogonal_(self.value_head.weight, gain=1.0)
        for layer in (self.embed, self.policy_head, self.value_head):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        window: torch.Tensor,  # [batch, length, obs_dim]
        lengths: torch.Tensor,  # [batch], steps of each window that are real
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[batch, length, num_actions]`` and values ``[batch, length]``."""
        length = window.shape[1]
        if length > self.cfg.max_len:
            raise ValueError(f"window: expected at most {self.cfg.max_len} steps, got {length}")
        x = self.embed(window) + self.position[:, :length]
        x = self.encoder(
            x,
            mask=causal_mask(length, x),
            src_key_padding_mask=padding_mask(lengths, length, x),
            is_causal=True,  # spares the encoder from finding out by comparing on the device
        )
        x = self.norm(x)
        return self.policy_head(x), self.value_head(x).squeeze(-1)

    @torch.no_grad()
    def get_action(
        self, window: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Act at the last real step of each window; ``[batch]`` each, without gradients."""
        logits, values = self(window, lengths)
        rows = torch.arange(window.shape[0], device=window.device)
        last = lengths - 1
        dist = Categorical(logits=logits[rows, last])
        action = dist.sample()
        return action, dist.log_prob(action), values[rows, last]

    def evaluate_actions(
        self, window: torch.Tensor, lengths: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score the actions of whole windows; the caller drops the padded steps."""
        logits, values = self(window, lengths)
        dist = Categorical(logits=logits)
        return dist.log_prob(actions), values, dist.entropy()
