"""Two small tasks that need memory and masks, whose best return is known to be 1.

In both, a cue is shown at the first step only. Some steps later, their number drawn anew in each episode, the
environment asks, and the right answer earns 1. Until then every step has a mask of its own, drawn at random and not
part of the observation; whatever it forbids ends the episode with 0. A legal step always exists and the right answer is
always legal, so an agent that remembers and heeds masks can reach 1 in every episode. One without memory has to guess
at the end, one without masks does not get that far.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from esper_reference.distributions import MaskedCategorical
from esper_reference.network import FactoredActorCritic, Hidden, Output
from esper_reference.rollout import Observed

BEST_RETURN = 1.0


class CueTask(ABC):
    """N environments that show a cue, wait, and ask; each draws from one generator of its own seed.

    Args:
        count: N.
        seed: Of all that is drawn here.

    """

    head_sizes: Mapping[str, int]
    cues: int
    delay = (4, 10)  # fewest and most steps between the cue and the question
    extra_dim = 0  # numbers that an observation has besides cue and question

    def __init__(self, count: int, seed: int) -> None:
        """Draw nothing yet: `reset` does."""
        self.count = count
        self.observation_dim = self.cues + 1 + self.extra_dim
        self.random = torch.Generator().manual_seed(seed)
        self.cue = torch.zeros(count, dtype=torch.int64)
        self.remaining = torch.zeros(count, dtype=torch.int64)  # steps until the question; 0 is the question itself
        self.masks: dict[str, Tensor] = {}

    @abstractmethod
    def question_masks(self) -> dict[str, Tensor]:
        """What is legal at the question, `{head: [N, n_k]}` bool."""

    @abstractmethod
    def is_right(self, actions: Mapping[str, Tensor]) -> Tensor:
        """Whether `{head: [N]}` answers the cues, `[N]` bool."""

    def extra(self) -> Tensor:
        """The rest of the observation at the question, `[N, extra_dim]`; elsewhere it is 0."""
        return torch.zeros(self.count, 0)

    def reset(self) -> Observed:
        """Start N new episodes."""
        return self._observe(torch.ones(self.count, dtype=torch.bool))

    def step(self, actions: Mapping[str, Tensor]) -> tuple[Observed, Tensor]:
        """Take `{head: [N]}`; return what comes next, and the reward `[N]` of this step."""
        legal = torch.stack(
            [self.masks[head].gather(1, action.unsqueeze(1)).squeeze(1) for head, action in actions.items()]
        ).all(dim=0)
        asked = self.remaining == 0
        reward = (asked & legal & self.is_right(actions)).float()
        self.remaining -= 1
        return self._observe(asked | ~legal), reward

    def _observe(self, starts: Tensor) -> Observed:
        """Begin an episode where `starts` `[N]` says so, draw all masks, and show what there is to see."""
        fewest, most = self.delay
        self.cue = torch.where(starts, self._draw(self.cues), self.cue)
        self.remaining = torch.where(starts, fewest + self._draw(most - fewest + 1), self.remaining)
        asked = (self.remaining == 0).unsqueeze(1)  # [N, 1]
        question = self.question_masks()
        self.masks = {
            head: torch.where(asked, question[head], self._random_mask(size)) for head, size in self.head_sizes.items()
        }
        shown = torch.nn.functional.one_hot(self.cue, self.cues) * starts.unsqueeze(1)
        observation = torch.cat([shown.float(), asked.float(), self.extra() * asked], dim=1)
        return Observed(observation, dict(self.masks), starts)

    def _draw(self, below: int) -> Tensor:
        """`[N]` integers from 0 to `below` - 1."""
        return torch.randint(below, (self.count,), generator=self.random)

    def _random_mask(self, size: int) -> Tensor:
        """`[N, size]` bool: each entry open with probability 1/2, and one of them for certain."""
        mask = torch.rand(self.count, size, generator=self.random) < 0.5
        return mask.scatter(1, self._draw(size).unsqueeze(1), value=True)


class RecallTask(CueTask):
    """Name the cue. At the question it is open beside two others: guessing earns 1/3."""

    head_sizes: Mapping[str, int] = {"answer": 6}
    cues = 6

    def question_masks(self) -> dict[str, Tensor]:
        """The cue and two others, whichever."""
        others = torch.rand(self.count, self.cues, generator=self.random).scatter(1, self.cue.unsqueeze(1), -1.0)
        largest = others.topk(2, dim=1).indices
        mask = torch.zeros(self.count, self.cues, dtype=torch.bool)
        return {"answer": mask.scatter(1, torch.cat([self.cue.unsqueeze(1), largest], dim=1), value=True)}

    def is_right(self, actions: Mapping[str, Tensor]) -> Tensor:
        """The answer is the cue."""
        return actions["answer"] == self.cue


class FactoredTask(CueTask):
    """Pick a tool and the slot that goes with it: slot = cue + 2 * tool (mod 5). Guessing earns 2/5.

    The heads depend on each other: which slot is right depends on the tool. They are sampled independently, so the
    policy has to settle on one of the two tools that are open, and on the slot of that one. Which tools are open is
    seen at the question, which slots are is not. A wrong one is closed, and whoever would have picked just that is led
    to the next in line: this is how guessing can reach 2/5 instead of 1/5.
    """

    head_sizes: Mapping[str, int] = {"tool": 3, "slot": 5}
    cues = 5
    extra_dim = 3

    def __init__(self, count: int, seed: int) -> None:
        """See `CueTask`."""
        super().__init__(count, seed)
        self.closed_tool = torch.zeros(count, dtype=torch.int64)

    def question_masks(self) -> dict[str, Tensor]:
        """Two tools of three, and all slots but one that is wrong for both."""
        self.closed_tool = self._draw(3)
        tools = torch.ones(self.count, 3, dtype=torch.bool).scatter(1, self.closed_tool.unsqueeze(1), value=False)
        # The slot of the closed tool is wrong for the other two: 2 is invertible modulo 5.
        closed_slot = (self.cue + 2 * self.closed_tool) % 5
        slots = torch.ones(self.count, 5, dtype=torch.bool).scatter(1, closed_slot.unsqueeze(1), value=False)
        return {"tool": tools, "slot": slots}

    def is_right(self, actions: Mapping[str, Tensor]) -> Tensor:
        """The slot belongs to the tool; that the tool is open is for the mask to see to."""
        return actions["slot"] == (self.cue + 2 * actions["tool"]) % 5

    def extra(self) -> Tensor:
        """Which tools are open, `[N, 3]`."""
        return torch.ones(self.count, 3).scatter(1, self.closed_tool.unsqueeze(1), 0.0)


TASKS: dict[str, type[CueTask]] = {"recall": RecallTask, "factored": FactoredTask}


class WithoutMemory(FactoredActorCritic):
    """Control: every step starts an episode, so that nothing is remembered."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        """As the network, from a zero state at every step."""
        del episode_starts
        always = torch.ones(observations.shape[:2], dtype=torch.bool, device=observations.device)
        return super().forward(observations, hidden, always)


class WithoutMasks(FactoredActorCritic):
    """Control: every action counts as valid, in acting and in learning."""

    def distributions(self, logits: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, MaskedCategorical]:
        """As the network, under masks that forbid nothing."""
        return super().distributions(logits, {head: torch.ones_like(mask) for head, mask in masks.items()})


AGENTS: dict[str, type[FactoredActorCritic]] = {
    "reference": FactoredActorCritic,
    "without-memory": WithoutMemory,
    "without-masks": WithoutMasks,
}
