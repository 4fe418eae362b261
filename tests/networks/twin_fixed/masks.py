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


class HeadDistribution:
    """Categorical distribution over one head whose logits are masked already.

    Everything is computed in float32 at least, whatever the network runs in: log-probabilities
    in half precision are off by more than a PPO ratio forgives. What PyTorch would validate here
    the network has checked already, without waiting for the device.

    Args:
        logits: Masked logits, ``[..., num_actions]``.
        num_feasible: How many choices are open, ``[...]``; at least one.
    """

    def __init__(self, logits: torch.Tensor, num_feasible: torch.Tensor) -> None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self._categorical = Categorical(logits=logits.to(dtype), validate_args=False)
        self._num_feasible = num_feasible

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
        entropy bonus. A row with a single open choice has nothing to share out: it is
        divided by one, and its entropy of zero stays zero, as does its gradient.
        """
        raw = self._categorical.entropy()
        largest = torch.log(self._num_feasible.to(raw.dtype))
        return raw / torch.where(self._num_feasible > 1, largest, 1.0)
