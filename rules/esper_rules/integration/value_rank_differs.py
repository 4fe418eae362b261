"""ESP515: a value or a log-prob is returned with another rank than what it is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable

from esper_audit.rulekit import (
    HOT_ROLES,
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Returned,
    Rule,
    Severity,
    ends_in_one,
    gap,
    named_axes,
    returned,
)

_FLATTENS = re.compile(rb"val\w*(\([^()\n]*\))?(\[[^\]\n]*\])?\.(flatten|view|reshape|squeeze)\(")
_WORDS = {"value": "the value", "log_prob": "the log-prob", "entropy": "the entropy"}


class ValueRankDiffers(Rule):
    """
    ## What it does
    Reports a method that returns a value, a log-prob or an entropy with a last axis of size 1 that the others it
    returns do not have, or of another rank than a comment or the docstring gives it
    (`low` where the docstring alone speaks against an output that is flattened). A value of `[..., 1]` beside
    log-probs of `[...]` is a convention where all methods keep to it, and is left alone then.

    ## Why it matters
    `[B, 1]` against `[B]` broadcasts to `[B, B]`: a ratio times advantages, or a value less returns, pairs every
    environment with every other. The mean of that is a number like any other, and no shape is wrong in the end.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.actor = nn.Linear(obs_dim, num_actions)
            self.critic = nn.Linear(obs_dim, 1)

        def evaluate_actions(self, obs, actions):
            log_probs = self.actor(obs).log_softmax(-1)
            log_prob = log_probs.gather(-1, actions.unsqueeze(-1))
            return log_prob, self.critic(obs).squeeze(-1)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.actor = nn.Linear(obs_dim, num_actions)
            self.critic = nn.Linear(obs_dim, 1)

        def evaluate_actions(self, obs, actions):
            log_probs = self.actor(obs).log_softmax(-1)
            log_prob = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
            return log_prob, self.critic(obs).squeeze(-1)
    ```

    ## Evidence
    On torch 2.13.0, `torch.zeros(5, 1) - torch.zeros(5)` has the shape `[5, 5]`, and `mse_loss` of the two warns and
    goes on. A critic's loss over all pairs is reported in RLinf/RLinf#1568, ranks of values and log-probs that had to
    be settled by hand in thu-ml/tianshou#155, the same of a log-prob in google-research/batch-ppo#45.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/broadcasting.html
    """

    code = "ESP515"
    name = "value-rank-differs"
    summary = "a value or log-prob has another rank than what it is compared with"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "output-shape"
    help = "drop the last axis where the tensor is made: `squeeze(-1)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Outputs of another rank than those beside them, than stated, or than in another method."""
        found = [(frame, tuple(returned(net, frame))) for frame in net.frames(*HOT_ROLES)]
        reported = set()
        for frame, given in found:
            wrong, severity = _wrong(given), Severity.LOW if _flat_by_docstring(given) else None
            if wrong is None and (wrong := _kept_value(given)) is not None:
                if any(_drops(other) for each, other in found if each is not frame):
                    wrong += ", which another method drops"
                elif _is_flattened(net) or len(given) == 1:
                    continue
                else:
                    wrong, severity = f"{wrong}; no caller is seen that flattens it", Severity.LOW
            event = next((event for event in reversed(frame.events) if event.kind == "return"), None)
            if wrong is not None and event is not None and event.node not in reported:
                reported.add(event.node)
                yield Hit.at(event, f"`{frame.function.name}` returns {wrong}", severity=severity)

    VALID = (
        # all of one rank; a value of [..., 1] that the trainer flattens; means; unknown ranks; a table of log-probs
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.critic, self.mean = nn.Linear(4, n), nn.Linear(4, 1), nn.Linear(4, n)
                self.flat = nn.Linear(4, 1)

            def act(self, obs):
                dist = Categorical(logits=self.actor(obs))
                action = dist.sample()
                return action, dist.log_prob(action), self.critic(obs)

            def evaluate(self, obs, actions):
                dist = Normal(self.mean(obs), 1.0)
                return dist.log_prob(actions).sum(-1), dist.entropy(), self.critic(obs)

            def get_value(self, obs):
                return self.critic(obs)

            def predict(self, obs):
                return self.actor(obs).log_softmax(-1), self.flat(obs)[..., 0], self.flat(obs).squeeze(-1)

        def train(policy: Policy, obs, returns):
            action, log_prob, values = policy.act(obs)
            return (values.view(-1) - returns).pow(2).mean()
        """,
        """
        from typing import NamedTuple

        from torch import Tensor, nn
        from torch.distributions import Categorical

        class Scores(NamedTuple):
            '''What comes out.'''

            log_prob: Tensor  # [batch, time]
            value: Tensor  # [batch, time], or [batch, time, 1]
            entropy: Tensor
            other: Tensor  # whatever

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.critic = nn.Linear(4, n), nn.Linear(4, 1)

            def evaluate(
                self,
                obs,  # [batch, time, dim]
                actions,
            ):
                dist = Categorical(logits=self.actor(obs))
                return Scores(dist.log_prob(actions), self.critic(obs).squeeze(-1), dist.entropy(), obs)

            def get_value(self, obs):
                '''Returns: value (1, 2).'''
                return self.critic(obs).squeeze(-1)
        """,
    )
    INVALID = (
        # the log-prob; the value in one method of two; said to be of another rank
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.critic = nn.Linear(4, n), nn.Linear(4, 1)

            def act(self, obs):
                dist = Categorical(logits=self.actor(obs))
                action = dist.sample()
                return action, dist.log_prob(action), torch.squeeze(self.critic(obs), -1)

            def evaluate(self, obs, actions):
                dist = Categorical(logits=self.actor(obs))
                return {"values": self.critic(obs), "log_probs": dist.log_prob(actions)}  # <- ESP515

            def get_value(self, obs):
                return self.critic(obs)  # <- ESP515

            def get_log_prob(self, obs, actions):
                log_probs = torch.log_softmax(self.actor(obs), dim=-1)
                entropy = -(log_probs.exp() * log_probs).sum(-1)
                log_prob = torch.gather(log_probs, -1, actions[..., None])
                return log_prob, entropy  # <- ESP515
        """,
        # flattened, or not squeezed on the right axis
        """
        from typing import NamedTuple

        from torch import Tensor, nn
        from torch.distributions import Categorical

        class Scores(NamedTuple):
            log_prob: Tensor  # [batch, time]
            value: Tensor  # [batch, time]

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.critic = nn.Linear(4, n), nn.Linear(4, 1)

            def forward(
                self,
                obs,  # [batch, time, dim]
                actions,
            ):
                log_prob = Categorical(logits=self.actor(obs)).log_prob(actions)
                return Scores(log_prob, value=self.critic(obs).squeeze(1))  # <- ESP515

            def evaluate(
                self,
                obs,  # [batch, time, dim]
                actions,
            ):
                log_prob = Categorical(logits=self.actor(obs)).log_prob(actions)
                return log_prob, self.critic(obs).reshape(-1)  # <- ESP515

            def act(
                self,
                obs,  # [batch, dim]
            ):
                '''One step.

                Returns:
                    values: `[batch]`
                '''
                values = self.critic(obs)
                return values, obs  # <- ESP515
        """,
        # inherited, and nobody is seen to flatten it
        Case(
            {
                "base.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Scoring(nn.Module):
                    def _dist(self, obs):
                        return Categorical(logits=self.actor(obs))

                    def evaluate(self, obs, actions):
                        log_prob = self._dist(obs).log_prob(actions)
                        return log_prob, self.critic(obs)  # <- ESP515
                """,
                "network.py": """
                from base import Scoring
                from torch import nn

                class Policy(Scoring):
                    def __init__(self, n):
                        super().__init__()
                        self.actor = nn.Linear(4, n)
                        self.critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
                """,
            }
        ),
    )


def _wrong(given: tuple[Returned, ...]) -> str | None:
    """What is wrong with the outputs of one method, taken by themselves."""
    for output in given:
        axes, stated = output.axes, output.stated
        if stated is not None and axes is not None and _belies(axes, stated):
            return f"{_WORDS[output.role]} as {named_axes(axes)}, which is said to be {named_axes(stated)}"
    return _kept_axis(given, "log_prob") or _flat(given)


def _flat_by_docstring(given: tuple[Returned, ...]) -> bool:
    """Whether only prose speaks against an output that was flattened: it may mean what the caller makes of it."""
    wrong = [each for each in given if each.stated is not None and each.axes and _belies(each.axes, each.stated)]
    return bool(wrong) and all(each.in_prose and any("." in axis for axis in each.axes or ()) for each in wrong)


def _belies(axes: tuple[str, ...], stated: tuple[str, ...]) -> bool:
    return not (axes and axes[0].startswith("*")) and len(axes) != len(stated)


def _kept_axis(given: tuple[Returned, ...], role: str) -> str | None:
    """An output that ends in an axis of size 1, beside others that do not."""
    for output in given:
        for other in given if output.role == role and ends_in_one(output.axes) else ():
            if other.role != role and not ends_in_one(other.axes) and gap(output.axes, other.axes) == 1:
                return f"{_WORDS[role]} with a last axis of size 1, and {_WORDS[other.role]} without it"
    return None


def _flat(given: tuple[Returned, ...]) -> str | None:
    """A value that is flattened beside log-probs that are not."""
    for value in given:
        for other in given if value.role == "value" and value.axes is not None and len(value.axes) == 1 else ():
            if other.role == "log_prob" and other.axes == ("B", "T"):
                return f"the value flattened, and {_WORDS[other.role]} as {named_axes(other.axes)}"
    return None


def _kept_value(given: tuple[Returned, ...]) -> str | None:
    """A value that keeps its last axis: beside others, or alone."""
    if len(given) == 1 and given[0].role == "value" and ends_in_one(given[0].axes):
        return "the value with a last axis of size 1"
    return _kept_axis(given, "value")


def _drops(given: tuple[Returned, ...]) -> bool:
    """Whether a method returns values of the rank of its log-probs."""
    values = [output for output in given if output.role == "value" and not ends_in_one(output.axes)]
    others = [output for output in given if output.role == "log_prob"]
    return any(gap(value.axes, other.axes) == 0 for value in values for other in others)


def _is_flattened(net: NetworkClass) -> bool:
    """Whether code that has to do with the network changes the shape of something that is called a value."""
    return any(net.project.says(path, _FLATTENS) for path in net.caller_files)
