"""Card game policy that receives its action mask as floats, 1.0 where a card may be played.

The vector environment stacks observation and mask into one float32 array, so the mask arrives
in that type and is compared with a threshold where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributions import Categorical

# exp(-1e4) is zero in float32 and in both half types, and the number itself fits into float16.
UNPLAYABLE = -1e4


@dataclass(frozen=True)
class TrickConfig:
    table_features: int = 40
    deck_size: int = 32
    width: int = 96


def split_observation(stacked: np.ndarray, cfg: TrickConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the float32 array of the environment apart into features and mask."""
    tensor = torch.from_numpy(stacked.astype(np.float32))
    return tensor[:, : cfg.table_features], tensor[:, cfg.table_features :]


def playable_logits(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Close the cards whose mask is 0.0; refuse a mask that does not match the logits."""
    if mask.shape != logits.shape:
        raise ValueError(f"mask {tuple(mask.shape)} does not match logits {tuple(logits.shape)}")
    playable = mask >= 0.5
    torch._assert_async(playable.any(dim=-1).all(), "a hand without a playable card")
    return logits.masked_fill(mask < 0.5, UNPLAYABLE)


class TrickPolicy(nn.Module):
    def __init__(self, cfg: TrickConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(cfg.table_features, cfg.width)
        self.fc2 = nn.Linear(cfg.width, cfg.width)
        self.card_head = nn.Linear(cfg.width, cfg.deck_size)
        self.value_head = nn.Linear(cfg.width, 1)
        for layer, gain in (
            (self.fc1, np.sqrt(2)),
            (self.fc2, np.sqrt(2)),
            (self.card_head, 0.01),
            (self.value_head, 1.0),
        ):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked logits ``[batch, deck_size]`` and values ``[batch]``."""
        x = F.relu(self.fc2(F.relu(self.fc1(x))))
        return playable_logits(self.card_head(x), mask), self.value_head(x).squeeze(-1)

    @torch.no_grad()
    def choose_action(
        self, x: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sampled card, its log-probability (not differentiable) and the value of the table."""
        logits, value = self(x, mask)
        dist = Categorical(logits=logits)
        card = dist.sample()
        return card, dist.log_prob(card), value

    def evaluate(
        self, x: torch.Tensor, mask: torch.Tensor, cards: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, values and entropies of the cards that were played."""
        logits, value = self(x, mask)
        dist = Categorical(logits=logits)
        return dist.log_prob(cards), value, dist.entropy()
