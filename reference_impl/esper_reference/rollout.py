"""The rollout buffer: what N environments did in T steps, per environment, and how it is cut into training windows.

Every field is `[N, T, ...]`, the axis order of the network. A window of L steps is then a view: `[N, T]` is read as
`[N, T / L, L]` and the first two axes are merged. Nothing is transposed, so no window can mix two environments: the
classic fault of buffers that store `[T, N]` and feed batch-first networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from esper_reference.checks import expect
from esper_reference.network import Decision, FactoredActorCritic, Hidden


class Observed(NamedTuple):
    """What N environments show before a step."""

    observation: Tensor  # [N, D]
    masks: dict[str, Tensor]  # {head: [N, n_k]} bool
    episode_start: Tensor  # [N] bool


class Batch(NamedTuple):
    """W windows of L steps: the arguments of `evaluate_actions`, and what the loss needs besides."""

    observations: Tensor  # [W, L, D]
    masks: dict[str, Tensor]  # {head: [W, L, n_k]}
    actions: dict[str, Tensor]  # {head: [W, L]}
    hidden: Hidden  # before the first step of each window, 2 x [layers, W, H]
    episode_starts: Tensor  # [W, L]
    log_prob: Tensor  # [W, L], of the policy that acted
    advantages: Tensor  # [W, L]
    returns: Tensor  # [W, L]


class RolloutBuffer:
    """Storage for T steps of N environments, allocated once and copied into.

    Copying is what makes stored tensors safe: whatever the network returned, the buffer holds plain tensors without a
    graph. Bytes per environment and step: 4 D for the observation, 1 per mask entry (bool; float32 would be 4 times
    that), 8 per head for actions, 13 for the rest; the hidden state is kept for one step of each window only.

    Args:
        network: Tells heads and sizes; the fields follow it.
        environments: N.
        steps: T, a multiple of `window`.
        window: L, steps that are trained as one sequence.

    Raises:
        ValueError: `steps` is not a multiple of `window`.

    """

    def __init__(self, network: FactoredActorCritic, *, environments: int, steps: int, window: int) -> None:
        """Allocate all fields on the device and in the dtype of the network's parameters."""
        if window < 1 or steps % window:
            raise ValueError(f"steps: expected a multiple of window = {window}, got {steps}")
        self.network = network
        self.environments = environments
        self.steps = steps
        self.window = window
        self.filled = 0

        like = network.initial_hidden(environments)[0]  # [layers, N, H]
        shape = (environments, steps)
        self.observations = like.new_zeros((*shape, network.observation_dim))
        self.masks = {
            head: torch.zeros((*shape, size), dtype=torch.bool, device=like.device)
            for head, size in network.head_sizes.items()
        }
        self.actions = {head: torch.zeros(shape, dtype=torch.int64, device=like.device) for head in network.head_sizes}
        self.log_prob = torch.zeros(shape, device=like.device)  # float32, as MaskedCategorical returns it
        self.value = like.new_zeros(shape)
        self.reward = like.new_zeros(shape)
        self.episode_starts = torch.zeros(shape, dtype=torch.bool, device=like.device)
        windows = (like.shape[0], environments, steps // window, like.shape[2])  # [layers, N, T / L, H]
        self.hidden = (like.new_zeros(windows), like.new_zeros(windows))

    @torch.no_grad()
    def add(self, observed: Observed, hidden: Hidden, decision: Decision, reward: Tensor) -> None:
        """Store one step: what `get_action` was given, what it decided, and the reward that followed.

        Args:
            observed: Before the step.
            hidden: The state *before* the step, 2 x `[layers, N, H]`: the one that went into `get_action`.
            decision: What `get_action` returned.
            reward: `[N]`, of this step.

        Raises:
            IndexError: the buffer is full.
            ValueError, TypeError: a reward of another shape or dtype; `copy_` refuses or broadcasts the others.

        """
        if self.filled == self.steps:
            raise IndexError(f"expected at most {self.steps} steps, got one more")
        expect("reward", reward, (self.environments,), self.reward.dtype)
        t = self.filled
        if t % self.window == 0:
            for stored, state in zip(self.hidden, hidden, strict=True):
                stored[:, :, t // self.window] = state
        self.observations[:, t] = observed.observation
        self.episode_starts[:, t] = observed.episode_start
        self.log_prob[:, t] = decision.log_prob
        self.value[:, t] = decision.value
        self.reward[:, t] = reward
        for head in self.network.head_sizes:
            self.masks[head][:, t] = observed.masks[head]
            self.actions[head][:, t] = decision.actions[head]
        self.filled += 1

    def finish(self, last_value: Tensor, last_start: Tensor, *, gamma: float, gae_lambda: float) -> None:
        """Compute advantages and returns, both `[N, T]`, once the buffer is full.

        Args:
            last_value: `[N]`, value of the observation after the last step.
            last_start: `[N]` bool, True where that observation starts a new episode.
            gamma: Discount per step.
            gae_lambda: 0 is the one-step advantage, 1 the Monte Carlo one.

        """
        ends = torch.cat([self.episode_starts[:, 1:], last_start.unsqueeze(1)], dim=1)
        advantages = generalised_advantages(
            self.reward, self.value, ends, last_value, gamma=gamma, gae_lambda=gae_lambda
        )
        self.returns = advantages + self.value
        # Over the whole rollout, so that all minibatches share one scale; the population formula, since of a single
        # number the other one is NaN.
        self.advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-5)

    def minibatches(self, count: int) -> Iterator[Batch]:
        """The windows in random order, in `count` parts as equal as possible; whole windows, never single steps."""
        order = torch.randperm(self.environments * (self.steps // self.window), device=self.reward.device)
        for chosen in order.chunk(count):
            yield self.windows(chosen)

    def windows(self, chosen: Tensor) -> Batch:
        """The windows with these numbers, `[W]` int64: window w of environment n has number n * T / L + w."""
        h, c = self.hidden
        return Batch(
            observations=self._cut(self.observations)[chosen],
            masks={head: self._cut(mask)[chosen] for head, mask in self.masks.items()},
            actions={head: self._cut(action)[chosen] for head, action in self.actions.items()},
            hidden=(h.flatten(1, 2)[:, chosen], c.flatten(1, 2)[:, chosen]),
            episode_starts=self._cut(self.episode_starts)[chosen],
            log_prob=self._cut(self.log_prob)[chosen],
            advantages=self._cut(self.advantages)[chosen],
            returns=self._cut(self.returns)[chosen],
        )

    def _cut(self, field: Tensor) -> Tensor:
        """`[N, T, ...]` as `[N * T / L, L, ...]`: a view."""
        return field.view(-1, self.window, *field.shape[2:])


def generalised_advantages(
    rewards: Tensor, values: Tensor, ends: Tensor, last_value: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates, `[N, T]` (Schulman et al. 2015, arXiv:1506.02438, eq. 16).

    An episode that was cut off by a time limit did not end: add `gamma * V(last observation)` to its last reward before
    calling this (Pardo et al. 2018, arXiv:1712.00378).

    Args:
        rewards: `[N, T]`.
        values: `[N, T]`, of the observations the actions were taken in.
        ends: `[N, T]` bool, True where the step ended its episode: nothing that comes later counts.
        last_value: `[N]`, value of the observation after the last step.
        gamma: Discount per step.
        gae_lambda: Weight of the longer estimates.

    """
    alive = (~ends).to(values.dtype)
    next_values = torch.cat([values[:, 1:], last_value.unsqueeze(1)], dim=1)
    deltas = rewards + gamma * alive * next_values - values
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(last_value)
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * gae_lambda * alive[:, t] * running
        advantages[:, t] = running
    return advantages
