"""ESP508: invalid actions are masked with a constant that valid logits reach."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    MaskMark,
    MaskStep,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    masked_logits,
    other_constant,
)

_STRONG = -1e3  # no trained head gives logits down there, and exp of the difference is 0 in every dtype
_FAR = -50.0  # beyond it only logits that have run away meet the constant


class WeakMaskConstant(Rule):
    """
    ## What it does
    Reports policy logits whose invalid actions are replaced by, or shifted by, a constant between -1000 and 0, and
    linear outputs whose invalid actions are replaced by 0 or by a small positive number such as `1e-9`, which is a
    `-1e9` without its sign more often than not. Probabilities, where 0 is right, are left alone, and so is an addition
    of less than 10, which may be a prior, unless the mask is inverted for it, `(1 - mask) * -5`: then it is meant to
    forbid.

    ## Why it matters
    A masked action has the probability exp(constant - logsumexp). With -5 that is half a percent of all samples for
    logits of a fresh head, and far more once the valid logits have moved below the constant, which nothing forbids:
    softmax does not see a shift that all logits share. Then argmax, too, takes invalid actions. They are rare at first,
    get no gradient that would end them, and look like a fault of the environment. Constants of -50 and below are
    `medium`: only logits that have run away meet them.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask, -10.0)).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask, -1e4)).sample()
    ```

    ## Fix
    Unsafe: `-1e4` in place of the constant, where that stands in the masking step itself.

    ## Evidence
    On torch 2.13.0, over 10000 rows of 8 logits, half of them invalid: with logits of standard deviation 1 the mass on
    invalid actions is 0.6 % for -5 and 4e-5 for -10; with standard deviation 30 it is 3.0 % for -10 and 1.2 % for -20,
    and argmax takes an invalid action in 2.6 % and 1.0 % of the rows; for -100 it is 1e-19, for -1000 it is 0. Invalid
    actions that come through a mask a few times in 350 thousand steps, for a reason that was not found:
    Stable-Baselines-Team/stable-baselines3-contrib#200.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP508"
    name = "weak-mask-constant"
    summary = "the mask constant is one that valid logits reach"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "mask-semantics"
    fixable = "unsafe"
    help = "mask with -1e4: float16 holds it, and no logit comes near it"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Masking steps whose constant is too near to valid logits."""
        weak = [step for step in masked_logits(net) if _is_weak(step)]
        masked_again = _masked_again(net) if weak else frozenset()
        for step in weak:
            if step.event.node in masked_again:
                continue
            event, constant = step.event, step.constant
            verb = "shifted by" if step.additive else "set to"
            yield Hit.at(
                event,
                f"invalid actions are {verb} {constant:g}: they keep a probability, and valid logits can fall below",
                severity=Severity.MEDIUM if isinstance(constant, float) and constant <= _FAR else None,
                confidence=Confidence.MEDIUM if step.additive else None,
                repair=other_constant(event, constant, "masked actions lose the probability that they had"),
            )

    VALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e3)).sample()

            def sample(self, x, mask):
                return Categorical(logits=torch.where(mask, self.head(x), -torch.inf)).sample()

            def get_action(self, x, mask):
                return Categorical(self.head(x).softmax(-1).masked_fill(~mask, 0.0)).sample()

            def predict(self, x, mask):
                probs = self.head(x).softmax(-1)
                probs[~mask] = 1e-9
                return Categorical(probs=probs).sample()

            def choose_action(self, x, mask):
                logits = self.head(x).masked_fill(~mask, 0.0)
                return Categorical(logits=logits.masked_fill(~mask, -1e9)).sample()

            def step(self, x, mask):
                logits = self.head(x).masked_fill(~mask, 0.0).masked_fill(~mask, torch.finfo(x.dtype).min)
                return Categorical(logits=logits).sample()

            def select_action(self, x, mask, constant):
                return Categorical(logits=self.head(x).masked_fill(~mask, constant)).sample()

            def evaluate(self, x, mask, action):
                return Categorical(logits=self.head(x).masked_fill(~mask, 1e9)).log_prob(action)
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 4)
                self.head = nn.Linear(4, n)

            def act(self, x, prior_mask):
                # a prior: such actions are discouraged, not forbidden
                return Categorical(logits=self.head(x) - 2.0 * prior_mask + (1 - prior_mask) * 0.5).sample()

            def sample(self, x, mask):
                features = self.body(x).relu().masked_fill(~mask, 0.0)
                return Categorical(logits=self.head(features)).sample()

            def evaluate(self, q, k, attn_mask):
                return (q @ k).masked_fill(attn_mask, -10.0).softmax(-1)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        MASKED = -20.0

        def hide(logits, mask, fill=-50):
            return logits.masked_fill(~mask, fill)  # <- ESP508

        class Base(nn.Module):
            WEAK = -100

            def __init__(self, n):
                super().__init__()
                self.actor = nn.Linear(4, n)

            def dist(self, x, mask):
                logits = self.actor(x)
                logits[~mask] = self.WEAK  # <- ESP508
                return Categorical(logits=logits)

        class Policy(Base):
            def act(self, x, mask):
                return self.dist(x, mask).sample()

            def sample(self, x, mask):
                return Categorical(logits=hide(self.actor(x), mask)).sample()

            def get_action(self, x, mask):
                logits = torch.where(mask, self.actor(x), torch.full_like(x, MASKED))  # <- ESP508
                return Categorical(logits=logits).sample()

            def predict(self, x, mask):
                return Categorical(logits=self.actor(x) + (1 - mask) * -10.0).sample()  # <- ESP508

            def step(self, x, mask):
                return Categorical(logits=self.actor(x) - (1 - mask) * 30).sample()  # <- ESP508

            def choose_action(self, x, mask):
                return Categorical(logits=self.actor(x).masked_fill(~mask, 1e-9)).sample()  # <- ESP508

            def select_action(self, x, mask):
                logits = self.actor(x) + (1 - mask.float()) * -5.0  # <- ESP508
                other = self.actor(x) - 5 * (1 - mask)  # <- ESP508
                return Categorical(logits=logits).sample(), Categorical(logits=other).sample()

            def explore(self, x, mask):
                return Categorical(logits=self.actor(x) + (mask - 1) * 8.0).sample()  # <- ESP508

            def evaluate(self, x, mask, action):
                logits = self.actor(x).masked_fill(mask == 0, 0)  # <- ESP508
                return torch.log_softmax(logits, -1).gather(-1, action)
        """,
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    return Categorical(logits=self.head(x).masked_fill(~mask, -5.0)).sample()  # <- ESP508
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
            """,
        ),
    )


def _is_weak(step: MaskStep) -> bool:
    """Whether logits, not probabilities, get a constant that does not end them."""
    target = step.event.target
    if not isinstance(step.constant, float) or target.tags & {"p", "squashed", "p_times_mask"}:
        return False
    if step.constant < 0:
        return step.constant > _STRONG
    return "affine" in target.tags and step.constant < 1 and not step.additive


def _masked_again(net: NetworkClass) -> frozenset[cst.CSTNode]:
    """Steps after which the same mask is applied with a constant that does end the logits."""
    return frozenset(
        mark.node
        for _, event, _ in net.events("dist")
        for mark in event.target.masked
        if any(
            _ends(later) and later.order > mark.order and later.origins == mark.origins for later in event.target.masked
        )
    )


def _ends(mark: MaskMark) -> bool:
    return mark.constant == "finfo.min" or (isinstance(mark.constant, float) and mark.constant <= _STRONG)
