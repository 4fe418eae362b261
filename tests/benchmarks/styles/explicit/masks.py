"""Log-probabilities under a mask. In every mask, True says that a choice is valid."""

from __future__ import annotations

import torch
from torch import Tensor

MASKED_LOGIT = -1e8  # exp of it is 0 in float32, and 0 times it is 0


def check_mask(name: str, mask: Tensor, logits: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} mask: expected bool, got {mask.dtype}")
    if mask.shape != logits.shape:
        raise ValueError(f"{name} mask: expected shape {tuple(logits.shape)}, got {tuple(mask.shape)}")
    torch._assert_async(mask.any(dim=-1).all(), f"{name} mask: a row has no valid choice")


def masked_log_probs(name: str, logits: Tensor, mask: Tensor) -> Tensor:
    """Normalised over the valid choices, float32."""
    check_mask(name, mask, logits)
    logits = logits.float()
    masked = logits.masked_fill(~mask, MASKED_LOGIT)
    return masked - masked.logsumexp(dim=-1, keepdim=True)


def sample(log_probs: Tensor) -> Tensor:
    """Gumbel-max: `[..., n]` to `[...]`."""
    noise = -torch.empty_like(log_probs).exponential_().log()
    return (log_probs + noise).argmax(dim=-1)


def log_prob_of(log_probs: Tensor, action: Tensor) -> Tensor:
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def entropy_of(log_probs: Tensor) -> Tensor:
    probs = log_probs.exp()
    return -(probs * log_probs).sum(dim=-1)
