"""PPO (Schulman et al. 2017, arXiv:1707.06347) for the network: collect, update, repeat.

Before the first optimiser step of an update the network still is the one that acted, so the ratio of the first
minibatch is 1. `update` measures how far from 1 it is: the cheapest test there is of masks, resets, hidden states and
axis order all at once. On a CPU without oneDNN it is 1 to the last bit; oneDNN runs an LSTM by other kernels when there
is a gradient to compute, and makes it 1 within some 1e-6.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from esper_reference.network import FactoredActorCritic
from esper_reference.rollout import Batch, Observed, RolloutBuffer

P = ParamSpec("P")
R = TypeVar("R")


class Environments(Protocol):
    """N environments that start a new episode by themselves as soon as one has ended."""

    head_sizes: Mapping[str, int]
    observation_dim: int
    count: int

    def reset(self) -> Observed:
        """Start N new episodes."""

    def step(self, actions: Mapping[str, Tensor]) -> tuple[Observed, Tensor]:
        """Take `{head: [N]}`; return what comes next, and the reward `[N]` of this step."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run of PPO depends on; the defaults learn the tasks of `tasks.py` on a CPU."""

    updates: int = 100
    steps: int = 32  # per environment and rollout
    window: int = 16  # steps per training sequence
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 2e-3  # of Adam; falls to 0 over the run
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    max_gradient_norm: float = 0.5


class Progress(NamedTuple):
    """What one update tells."""

    steps: int  # of all environments together, since the beginning
    mean_return: float  # of the episodes that ended in this rollout; NaN if none did
    first_ratio_error: float  # largest |ratio - 1| of the first minibatch, before any optimiser step
    approximate_kl: float  # of the last minibatch: mean of (ratio - 1) - log ratio (Schulman's k3), in nats
    normalised_entropy: float  # of the last minibatch


class Collector:
    """Runs the policy in the environments, and keeps what lasts from one rollout to the next."""

    def __init__(self, network: FactoredActorCritic, environments: Environments) -> None:
        """Start all episodes, with the hidden state of a first step."""
        self.network = network
        self.environments = environments
        self.observed = environments.reset()
        self.hidden = network.initial_hidden(environments.count)
        self.running_return = torch.zeros_like(self.observed.observation[:, 0])  # [N], of the episodes under way

    @torch.no_grad()
    def fill(self, buffer: RolloutBuffer, *, gamma: float, gae_lambda: float) -> list[float]:
        """Fill `buffer` from its beginning; the returns of the episodes that ended, undiscounted."""
        buffer.filled = 0
        returns: list[float] = []
        while buffer.filled < buffer.steps:
            now, before = self.observed, self.hidden
            decision = self.network.get_action(now.observation, now.masks, before, now.episode_start)
            self.observed, reward = self.environments.step(decision.actions)
            self.hidden = decision.hidden
            buffer.add(now, before, decision, reward)
            self.running_return += reward
            returns += self.running_return[self.observed.episode_start].tolist()
            self.running_return = self.running_return.masked_fill(self.observed.episode_start, 0.0)
        last = self.observed
        # Only its value is wanted: the state that this step would lead to is thrown away.
        _, last_value, _ = self.network(last.observation.unsqueeze(1), self.hidden, last.episode_start.unsqueeze(1))
        buffer.finish(last_value[:, 0], last.episode_start, gamma=gamma, gae_lambda=gae_lambda)
        return returns


def loss_of(network: FactoredActorCritic, batch: Batch, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one minibatch, a scalar; the ratios `[W, L]` and normalised entropies `[W, L]` it was made of."""
    now = network.evaluate_actions(batch.observations, batch.masks, batch.actions, batch.hidden, batch.episode_starts)
    ratio = (now.log_prob - batch.log_prob).exp()  # [W, L], one per action, whatever the number of heads
    clipped = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip)
    policy_loss = -torch.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()
    value_loss = 0.5 * (now.value - batch.returns).square().mean()
    loss = policy_loss + settings.value_weight * value_loss - settings.entropy_weight * now.entropy.mean()
    return loss, ratio, now.normalised_entropy


def update(
    network: FactoredActorCritic, optimiser: torch.optim.Optimizer, buffer: RolloutBuffer, settings: Settings
) -> tuple[float, float, float]:
    """Several epochs over one rollout.

    Returns:
        Largest |ratio - 1| of the first minibatch; approximate KL in nats and normalised entropy of the last one.

    """
    first_ratio_error: Tensor | None = None
    for _ in range(settings.epochs):
        for batch in buffer.minibatches(settings.minibatches):
            loss, ratio, entropy = loss_of(network, batch, settings)
            if first_ratio_error is None:
                first_ratio_error = (ratio.detach() - 1.0).abs().max()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
            optimiser.step()
    assert first_ratio_error is not None
    last_ratio = ratio.detach()
    kl = ((last_ratio - 1.0) - last_ratio.log()).mean()
    return float(first_ratio_error), float(kl), float(entropy.detach().mean())


def train(network: FactoredActorCritic, environments: Environments, settings: Settings) -> Iterator[Progress]:
    """Train `network` in place; one `Progress` after each update."""
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)
    buffer = RolloutBuffer(network, environments=environments.count, steps=settings.steps, window=settings.window)
    collector = Collector(network, environments)
    for done in range(settings.updates):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1.0 - done / settings.updates)
        returns = collector.fill(buffer, gamma=settings.gamma, gae_lambda=settings.gae_lambda)
        first_ratio_error, kl, entropy = update(network, optimiser, buffer, settings)
        mean_return = sum(returns) / len(returns) if returns else float("nan")
        steps = (done + 1) * settings.steps * environments.count
        yield Progress(steps, mean_return, first_ratio_error, kl, entropy)


def compile_methods(network: FactoredActorCritic) -> None:
    """Compile what training calls: `get_action` and `evaluate_actions`, not only `forward`, and in place.

    `torch.compile(network)` covers `forward` alone: it hands every other method through from the original, and both
    would run as if nothing had been compiled (pytorch/pytorch#141616). Replacing the methods of this one network leaves
    its state_dict without the `_orig_mod.` that a wrapper adds.

    The limit of torch 2.13: Dynamo refuses `nn.LSTM` unless `torch._dynamo.config.allow_rnn` says otherwise, and of the
    methods next to nothing is compiled. With the flag each is one graph without a break, of which the LSTM is unrolled:
    one graph per length of the sequence, and long to compile. `docs/reference.md` says what that costs and buys.
    """
    for name in ("get_action", "evaluate_actions"):
        setattr(network, name, _compiled(getattr(network, name)))


def allow_lstm() -> AbstractContextManager[None]:
    """Let Dynamo trace `nn.LSTM`, within this context only."""
    context: AbstractContextManager[None] = torch._dynamo.config.patch(allow_rnn=True)  # noqa: SLF001 - the only switch
    return context


def _compiled(method: Callable[P, R]) -> Callable[P, R]:
    traced = torch.compile(method, fullgraph=True)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with allow_lstm():  # Dynamo traces when called, not when torch.compile is
            return traced(*args, **kwargs)

    return call
