"""A categorical distribution over the valid actions of one head, and what each choice in it costs.

The choices, each tested in `tests/reference/test_distributions.py`:

- *A finite constant takes the place of invalid logits.* With -inf, `p * log_p` is 0 * -inf, NaN. With -1e30 it is 0, in
  value and in gradient, and every formula below can be the one of the textbooks. Cost: one copy of the logits.
- *float32 at least.* -1e30 does not fit float16, and a log-prob in bfloat16 is wrong in the third digit, which is more
  than a PPO ratio forgives. Cost: one conversion of half-precision logits; float32 and float64 stay as they are.
- *The probability of an invalid action is exactly 0*, since exp(-1e30 - anything a float32 logit should be) is, and so
  is the gradient of its logit, since `masked_fill` passes none. -1e4 would leak once the valid logits are below -9900.
- *A row without a valid action is refused.* Any finite constant would make it uniform over what is forbidden, without a
  word. Cost of all value checks: two reductions over [..., n] and no wait for the device.
- *Sampling is a race* of exponential clocks (the Gumbel-max trick, Maddison et al. 2014, arXiv:1411.0030, written
  without logarithms). `torch.multinomial` checks its input first, on CUDA by waiting for it. Cost: n random numbers.
- *No `torch.distributions`.* Its validation is switched off for the whole process by the first call of torch.compile,
  and what is not checked then gives NaN without an exception. Here the switch is `validate`, and nobody else turns it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from esper_reference.checks import expect, expect_all

MASKED_LOGIT = -1e30  # far below every logit, and far enough from the end of float32 (-3.4e38) to be subtracted from


class MaskedCategorical:
    """Categorical distribution whose invalid actions have probability 0.

    Construction normalises over the valid actions: one masked copy of the logits, one log-softmax, one exponential.

    Args:
        logits: Unnormalised log-probabilities, `[..., n]`, of any floating dtype.
        mask: `[..., n]` bool, True where the action is valid; as many dimensions as `logits`, never broadcast.
        validate: Check values, too: finite logits, a valid action in every row, no invalid action in `log_prob`.
        name: What messages call it.

    Attributes:
        log_probs: `[..., n]`, float32 or float64: normalised over the valid actions, about -1e30 for the others.
        probs: `[..., n]`, exactly 0 for invalid actions.

    Raises:
        ValueError: a mask of another shape than the logits.
        TypeError: a mask that is not bool. Nothing is converted: `~` turns a uint8 mask of ones into 254.
        RuntimeError: a row without a valid action, or a logit that is not finite.

    """

    def __init__(self, logits: Tensor, mask: Tensor, *, validate: bool = True, name: str = "action") -> None:
        expect(f"{name} mask", mask, tuple(logits.shape), torch.bool)
        if validate:
            expect_all(logits.isfinite(), f"{name} logits: expected finite numbers, got NaN or infinity")
            expect_all(mask.any(dim=-1), f"{name} mask: expected a valid action in every row, got a row without one")
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        self.name = name
        self.validate = validate
        self.mask = mask
        self.log_probs = torch.log_softmax(wide.masked_fill(~mask, MASKED_LOGIT), dim=-1)
        self.probs = self.log_probs.exp()

    def sample(self) -> Tensor:
        """One action per row, `[...]` int64: clock i rings after Exponential(p_i), and the first to ring wins.

        `exponential_` never returns 0 (its documentation says so), so an invalid action has speed 0 / x = 0 and loses
        to every action with a probability.
        """
        return (self.probs / torch.empty_like(self.probs).exponential_()).argmax(dim=-1)

    def mode(self) -> Tensor:
        """The most probable action of each row, `[...]` int64; the first one of several."""
        return self.log_probs.argmax(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of `action`, `[...]`, for `action` `[...]` int64.

        Raises:
            ValueError: actions of another shape, `[..., 1]` above all, which would broadcast to `[..., ...]`.
            TypeError: actions that are not int64. A float32 action loses its index above 2**24.
            RuntimeError: an action that the mask forbids, or that does not exist.

        """
        expect(f"{self.name} action", action, tuple(self.mask.shape[:-1]), torch.int64)
        index = action.unsqueeze(-1)
        if self.validate:
            expect_all(
                (index >= 0) & (index < self.mask.shape[-1]),
                f"{self.name} action: expected 0 to {self.mask.shape[-1] - 1}, got another number",
            )
            expect_all(
                self.mask.gather(-1, index), f"{self.name} action: expected a valid one, got one the mask forbids"
            )
        return self.log_probs.gather(-1, index).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, `[...]`: between 0 and the logarithm of the number of valid actions."""
        return -(self.probs * self.log_probs).sum(dim=-1)

    def max_entropy(self) -> Tensor:
        """Entropy of the uniform distribution over the valid actions, log(n_valid) in nats, `[...]`; no gradient."""
        return self.mask.sum(dim=-1).to(self.log_probs.dtype).log()

    def normalised_entropy(self) -> Tensor:
        """Entropy as a share of what the mask allows, `[...]`: 1 is uniform, and rows of all sizes weigh the same."""
        return share(self.entropy(), self.max_entropy())


def share(entropy: Tensor, max_entropy: Tensor) -> Tensor:
    """`entropy / max_entropy`, both `[...]` in nats, and 0 with gradient 0 where nothing can be chosen.

    The smallest maximum that is not 0 is log 2, of two valid actions, so a clamp at log 2 changes no other row. The
    usual 1e-8 is rounded to 0 by float16, and 0 / 0 is NaN.
    """
    return entropy / max_entropy.clamp(min=math.log(2.0))
