"""Action space of the shop floor and the distribution its heads are sampled from.

Every dispatching decision names a machine, a job from the queue, the tool to mount and
the speed mode to run it in. Which choices are open changes from step to step: a machine
may be down, a job may wait for material, a tool may sit in another spindle.
"""

from __future__ import annotations

import torch
from torch.distributions import Categorical

NUM_MACHINES = 6
NUM_JOBS = 12
NUM_TOOLS = 5
NUM_MODES = 3

HEADS = ("machine", "job", "tool", "mode")

_BLOCKED_LOGIT = -1e4


class NoFeasibleChoiceError(ValueError):
    """A decision was asked for although the floor offers no choice at all."""


@torch.compiler.disable
def require_feasible(mask: torch.Tensor) -> None:
    """Raise if a row of ``mask`` offers nothing to choose from.

    A dead row is always a fault of the simulator, so it is worth stopping for.
    """
    dead_rows = ~mask.any(dim=-1)
    if dead_rows.any():
        raise NoFeasibleChoiceError(
            f"{int(dead_rows.sum())} of {dead_rows.numel()} decisions have no feasible choice"
        )


class MaskedCategorical:
    """Categorical distribution restricted to the feasible choices of one head.

    Args:
        logits: Unnormalised scores ``[batch, num_actions]``.
        mask: Feasible choices ``[batch, num_actions]``, True where the choice is open.
    """

    def __init__(self, logits: torch.Tensor, mask: torch.Tensor) -> None:
        require_feasible(mask)
        self.mask = mask
        blocked = torch.tensor(_BLOCKED_LOGIT, dtype=logits.dtype, device=logits.device)
        self._categorical = Categorical(logits=logits.masked_fill(~mask, blocked))

    @property
    def mode(self) -> torch.Tensor:
        """The most likely choice of every row."""
        return self._categorical.logits.argmax(dim=-1)

    def sample(self) -> torch.Tensor:
        """Draw one choice per row."""
        return self._categorical.sample()

    def log_prob(self, choice: torch.Tensor) -> torch.Tensor:
        """Log-probability of ``choice``, one number per row."""
        return self._categorical.log_prob(choice)

    def entropy(self) -> torch.Tensor:
        """Entropy as a share of what the feasible choices allow, between 0 and 1.

        Rows with three open choices and rows with twelve then weigh the same in the
        entropy bonus.
        """
        log_p = self._categorical.logits
        raw = -(log_p.exp() * log_p * self.mask).sum(dim=-1)
        max_entropy = self.mask.sum(dim=-1).clamp(min=1).log()
        return raw / max_entropy.clamp(min=1e-8)
