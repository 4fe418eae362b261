"""The network: trunk, LSTM, LayerNorm, one head per part of an action, and a value head.

    observations [B, T, D] -> trunk [B, T, F] -> LSTM [B, T, H] -> LayerNorm -> head k -> logits [B, T, n_k]
                      hidden 2 x [L, B, H] -> LSTM         LayerNorm -> value head -> value [B, T]

B environments, T steps of each, and always in this order: from the rollout buffer to the loss no axis moves.
An action is one choice per head. The heads are independent given the features, so the joint log-probability is the sum
over the heads, and so is the joint entropy.

Four decisions that reading alone gets wrong, each with the test that shows it in `tests/reference`:

- *The LSTM runs outside autocast.* Under bfloat16 autocast `nn.LSTM` returns h and c in bfloat16: the next forward
  outside autocast cannot take them, and c keeps 8 bits of what it has to remember for a whole episode.
- *`no_grad`, not `inference_mode`, in `get_action`.* An inference tensor that comes back (an action, a hidden state)
  makes the backward pass of the update raise. A plain tensor may be stored, sliced, and fed to every method.
- *Episode starts are an argument without a default*, and reset h and c by `masked_fill`. A product with 0 would keep a
  NaN alive.
- *Masks meet logits once*, in `MaskedCategorical`. `forward` returns logits that know no mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_reference.checks import expect
from esper_reference.distributions import MaskedCategorical, share

Hidden = tuple[Tensor, Tensor]  # (h, c), each [L, B, H], in the dtype and on the device of the parameters


class Output(NamedTuple):
    """What `forward` computes."""

    logits: dict[str, Tensor]  # {head: [B, T, n_k]}, no mask applied
    value: Tensor  # [B, T]
    hidden: Hidden  # after the last step


class Decision(NamedTuple):
    """What `get_action` decides: one step of B environments, nothing of it differentiable."""

    actions: dict[str, Tensor]  # {head: [B]}, int64
    log_prob: Tensor  # [B], joint; the "old" log-prob of the PPO ratio
    value: Tensor  # [B]
    hidden: Hidden


class Evaluation(NamedTuple):
    """What `evaluate_actions` tells about recorded actions, differentiable."""

    log_prob: Tensor  # [B, T], joint: summed over the heads
    value: Tensor  # [B, T]
    entropy: Tensor  # [B, T], joint, in nats
    normalised_entropy: Tensor  # [B, T], as a share of the largest joint entropy that the masks allow
    hidden: Hidden


class FactoredActorCritic(nn.Module):
    """Recurrent actor-critic with one masked categorical head per part of the action.

    Args:
        observation_dim: D, numbers per observation.
        head_sizes: `{head: n_k}`, in the order in which heads are written, sampled and summed. Names without dots.
        trunk_dim: F, width between observation and LSTM.
        hidden_dim: H, width of the LSTM; heads are half as wide.
        layers: L, LSTM layers on top of each other.
        validate: Check values, too: see `MaskedCategorical`. Shapes and dtypes are always checked.

    """

    def __init__(
        self,
        observation_dim: int,
        head_sizes: Mapping[str, int],
        *,
        trunk_dim: int = 64,
        hidden_dim: int = 64,
        layers: int = 1,
        validate: bool = True,
    ) -> None:
        super().__init__()
        self.observation_dim = observation_dim
        self.head_sizes = dict(head_sizes)
        self.validate = validate

        self.trunk = nn.Sequential(nn.Linear(observation_dim, trunk_dim), nn.LayerNorm(trunk_dim), nn.ReLU())
        self.lstm = nn.LSTM(trunk_dim, hidden_dim, num_layers=layers, batch_first=True)
        self.core_norm = nn.LayerNorm(hidden_dim)  # of what the heads read; h and c themselves are untouched by it
        self.heads = nn.ModuleDict({name: make_head(hidden_dim, size) for name, size in self.head_sizes.items()})
        self.value_head = make_head(hidden_dim, 1)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Orthogonal weights with a gain per role, zero biases, a forget gate that starts open.

        Gains: sqrt(2) before ReLU; 0.01 for the last layer of a head, so that the first policy is uniform over the
        valid actions (Andrychowicz et al. 2020, arXiv:2006.05990, found a 100 times smaller last layer to matter); 1
        for the value. `nn.LSTM` stacks its four gates (input, forget, cell, output) in one matrix, and the blocks of an
        orthogonal [4H, H] are not orthogonal, so each gate gets a matrix of its own. It adds two biases: the forget
        gate is opened in one of them, to 1 (Jozefowicz et al. 2015), since 1 in both would be 2.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=math.sqrt(2.0))
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for head in self.heads.values():
            nn.init.orthogonal_(last_layer(head).weight, gain=0.01)
        nn.init.orthogonal_(last_layer(self.value_head).weight, gain=1.0)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)
                if name.startswith("bias_ih"):
                    parameter.chunk(4)[1].fill_(1.0)

    def initial_hidden(self, batch: int) -> Hidden:
        """Hidden state before the first step: h and c, `[L, batch, H]` zeros, two tensors that share nothing.

        `new_zeros` takes dtype and device from a parameter: a bfloat16 model gets a bfloat16 state, which is the only
        one its LSTM accepts.
        """
        weight = next(self.lstm.parameters())
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return weight.new_zeros(shape), weight.new_zeros(shape)

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        """Logits and values of B sequences of T steps. No step of it makes the host wait for the device.

        Args:
            observations: `[B, T, D]`, in the dtype of the parameters.
            hidden: (h, c) before the first step, each `[L, B, H]`, in the dtype of the parameters.
            episode_starts: `[B, T]` bool, True where a step is the first one of its episode: h and c are 0 before it.
                None promises that no episode starts in these T steps, and lets the LSTM run all of them in one call.

        Raises:
            ValueError: a shape that is not the one above. `TypeError`: a dtype that is not.

        """
        dtype = next(self.lstm.parameters()).dtype
        if observations.dim() != 3:
            raise ValueError(
                f"observations: expected shape [B, T, {self.observation_dim}], got {tuple(observations.shape)}"
            )
        batch, time, _ = observations.shape
        expect("observations", observations, (batch, time, self.observation_dim), dtype)
        for name, state in zip(("h", "c"), hidden, strict=True):
            expect(f"hidden {name}", state, (self.lstm.num_layers, batch, self.lstm.hidden_size), dtype)
        if episode_starts is not None:
            expect("episode_starts", episode_starts, (batch, time), torch.bool)

        features = self.trunk(observations)  # [B, T, F]
        core, hidden = self._remember(features, hidden, episode_starts)  # [B, T, H], 2 x [L, B, H]
        core = self.core_norm(core)
        logits = {name: head(core) for name, head in self.heads.items()}  # {head: [B, T, n_k]}
        value = self.value_head(core).squeeze(-1)  # [B, T], the shape of rewards and returns: [B, T, 1] would broadcast
        return Output(logits, value, hidden)

    def _remember(self, features: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> tuple[Tensor, Hidden]:
        """Run the LSTM over `features` `[B, T, F]`, from zeros wherever an episode starts.

        With resets the LSTM is called once per step, T calls where one would do without; the windows that training uses
        are short. Finding the steps at which any environment starts, to run those between them in one call, would be
        faster, and would make the host wait for the device.
        """
        kind = features.device.type  # the meta device has no autocast to leave
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            features = features.to(hidden[0].dtype)  # the trunk may have run in autocast
            if episode_starts is None:
                core, hidden = self.lstm(features, hidden)
                return core, hidden
            h, c = hidden
            steps = []
            for t in range(features.shape[1]):
                start = episode_starts[:, t].view(1, -1, 1)  # [1, B, 1], against [L, B, H]
                state = h.masked_fill(start, 0.0), c.masked_fill(start, 0.0)
                step, (h, c) = self.lstm(features[:, t : t + 1], state)
                steps.append(step)
            return torch.cat(steps, dim=1), (h, c)

    def distributions(self, logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, MaskedCategorical]:
        """One distribution per head, from `logits` `{head: [..., n_k]}` and `masks` of the same shapes, bool.

        Raises:
            ValueError: masks for other heads, or of another shape; the rest as `MaskedCategorical`.

        """
        self._expect_heads("masks", masks)
        return {
            name: MaskedCategorical(logits[name], masks[name], validate=self.validate, name=name)
            for name in self.head_sizes
        }

    @torch.no_grad()
    def get_action(
        self,
        observation: Tensor,
        masks: Mapping[str, Tensor],
        hidden: Hidden,
        episode_start: Tensor | None,
        *,
        deterministic: bool = False,
    ) -> Decision:
        """Decide the next step of B environments, for the rollout.

        No gradient flows through anything returned, the log-probs least of all: they are the constant denominator of
        the PPO ratio, and the numerator comes from `evaluate_actions`. All of it are plain tensors, not inference
        tensors: store them, slice them, feed them back.

        Args:
            observation: `[B, D]`.
            masks: `{head: [B, n_k]}` bool, True where valid.
            hidden: (h, c), each `[L, B, H]`, as the last call returned it.
            episode_start: `[B]` bool, True where this is the first step of an episode.
            deterministic: Take the most probable valid action instead of sampling.

        Raises:
            ValueError, TypeError, RuntimeError: as `forward` and `MaskedCategorical`.

        """
        if observation.dim() != 2:
            raise ValueError(f"observation: expected shape [B, {self.observation_dim}], got {tuple(observation.shape)}")
        if episode_start is not None:
            expect("episode_start", episode_start, (observation.shape[0],), torch.bool)
            episode_start = episode_start.unsqueeze(1)  # [B, 1]
        logits, value, hidden = self(observation.unsqueeze(1), hidden, episode_start)
        # The step axis leaves the logits; nothing is added to the masks.
        heads = self.distributions({name: each[:, 0] for name, each in logits.items()}, masks)
        actions = {name: head.mode() if deterministic else head.sample() for name, head in heads.items()}
        log_prob = torch.stack([head.log_prob(actions[name]) for name, head in heads.items()]).sum(dim=0)
        return Decision(actions, log_prob, value[:, 0], hidden)

    def evaluate_actions(
        self,
        observations: Tensor,
        masks: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        hidden: Hidden,
        episode_starts: Tensor | None,
    ) -> Evaluation:
        """Score recorded actions under the weights of now: the numerator of the PPO ratio.

        With the weights that acted, the ratio is 1: same masks, same resets, same hidden state before the first step.

        Args:
            observations: `[B, T, D]`.
            masks: `{head: [B, T, n_k]}` bool: those the actions were taken under.
            actions: `{head: [B, T]}` int64.
            hidden: (h, c) before the first of the T steps, each `[L, B, H]`; zeros only if that step starts an episode.
            episode_starts: `[B, T]` bool, or None: see `forward`.

        Raises:
            ValueError, TypeError, RuntimeError: as `forward` and `MaskedCategorical`.

        """
        self._expect_heads("actions", actions)
        logits, value, hidden = self(observations, hidden, episode_starts)
        heads = self.distributions(logits, masks)
        log_prob = torch.stack([head.log_prob(actions[name]) for name, head in heads.items()]).sum(dim=0)
        entropy = torch.stack([head.entropy() for head in heads.values()]).sum(dim=0)
        max_entropy = torch.stack([head.max_entropy() for head in heads.values()]).sum(dim=0)
        return Evaluation(log_prob, value, entropy, share(entropy, max_entropy), hidden)

    def _expect_heads(self, what: str, given: Mapping[str, Tensor]) -> None:
        """Refuse a dict that lacks a head, or has one that nobody reads."""
        if given.keys() != self.head_sizes.keys():
            raise ValueError(f"{what}: expected heads {sorted(self.head_sizes)}, got {sorted(given)}")


def make_head(hidden_dim: int, size: int) -> nn.Sequential:
    """Two layers, the first half as wide as the LSTM: H/2 (H + size) weights instead of H (H + size)."""
    return nn.Sequential(nn.Linear(hidden_dim, hidden_dim // 2), nn.ReLU(), nn.Linear(hidden_dim // 2, size))


def last_layer(head: nn.Module) -> nn.Linear:
    """The layer of a head that is initialised by role."""
    layer = list(head.children())[-1]
    assert isinstance(layer, nn.Linear)
    return layer
