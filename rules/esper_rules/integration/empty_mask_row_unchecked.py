"""ESP510: a row of a mask without a valid action goes unnoticed."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    masked_logits,
    row_checks,
    somebody_cares,
)


class EmptyMaskRowUnchecked(Rule):
    """
    ## What it does
    Reports networks that mask logits with a finite constant where no row without a valid action would be noticed.
    `medium` where the check is written and not in force: its flag is False by default or by a literal, or its
    exception is caught and ignored. `low` where neither the network nor the code that calls it seems to ask, or to keep
    one action always valid. Masks with -inf are left alone: torch refuses such rows, or gives NaN, which is noticed.

    ## Why it matters
    A finite constant makes such a row uniform over actions that are all forbidden. Nothing raises: an action is drawn,
    its log-prob and entropy look healthy, and the environment does with it whatever it does. A mask that is built for
    the wrong environment, one step late, or in the wrong order of heads shows itself first in such rows, so that the
    check is the cheapest test of the whole way that masks take.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions, validate=False):
            super().__init__()
            self.validate = validate
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            if self.validate and not action_mask.any(dim=-1).all():
                raise ValueError("expected a valid action in every row")
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask, -1e4)).sample()
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            torch._assert_async(action_mask.any(dim=-1).all(), "expected a valid action in every row")
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask, -1e4)).sample()
    ```

    ## Evidence
    On torch 2.13.0, `Categorical(logits=torch.zeros(1, 4).masked_fill(~mask, c))` for a row that is all False gives
    probabilities of 0.25 each for c = -1e4, -1e9 and finfo.min, an entropy of log 4 for the first and, by rounding, of
    0 for the others; for -inf it raises, and gives NaN with `validate_args=False`. `torch._assert_async` costs two
    reductions and lets nobody wait on a GPU.
    In Farama-Foundation/MicroRTS-Py#8 an environment hands out masks that are all 0 from time to time.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP510"
    name = "empty-mask-row-unchecked"
    summary = "a mask without a valid action goes unnoticed"
    category = Category.INTEGRATION
    severity = Severity.LOW
    confidence = Confidence.MEDIUM
    probe = "empty-mask-row"
    help = "refuse such rows where masks come in: `torch._assert_async(mask.any(dim=-1).all(), ...)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """The first masking step of a network whose rows nobody asks about, or the question that is switched off."""
        steps = [step for step in masked_logits(net) if step.constant is not None]
        if not steps or not net.is_policy or any(step.constant == float("-inf") for step in steps):
            return
        checks = row_checks(net)
        if any(not check.off for check in checks):
            return
        step = steps[0].event
        if checks:
            check = checks[0]
            yield Hit(
                check.node,
                f"a check of masks is not in force: {check.off}",
                module=check.event.module,
                symbol=check.event.function.qualified,
                severity=Severity.MEDIUM,
                notes=(Note(step.module, step.node, "a row without a valid action is uniform from here on"),),
            )
        elif not somebody_cares(net):
            yield Hit.at(step, "a row without a valid action becomes uniform over what is forbidden, unnoticed")

    VALID = (
        # the network asks, in one of many ways
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        def expect(condition):
            torch._assert_async(condition.all())

        class Any(nn.Module):
            def __init__(self, n, validate=True):
                super().__init__()
                self.validate = validate
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                if self.validate:
                    expect(mask.any(dim=-1))
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()

        class All(Any):
            def act(self, x, mask):
                assert not torch.all(~mask, dim=-1).any()
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()

        class Sum(Any):
            def act(self, x, mask):
                if (mask.sum(-1) == 0).any() or mask.sum(-1).lt(1).any():
                    raise ValueError(mask)
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()

        class Handled(Any):
            def act(self, x, mask):
                try:
                    expect(mask.any(dim=-1))
                except (RuntimeError, ValueError):
                    mask = torch.ones_like(mask)
                try:
                    self.head.bias.fill_(0)
                except RuntimeError:
                    pass
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
        """,
        # -inf, which torch refuses; a constant that is not known; no policy
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, constant):
                super().__init__()
                self.constant = constant
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                return Categorical(logits=self.head(x).masked_fill(~mask, -torch.inf)).sample()

        class Other(Policy):
            def act(self, x, mask):
                return Categorical(logits=self.head(x).masked_fill(~mask, self.constant)).sample()
        """,
        # the flag chooses a distribution, and is no check
        """
        from torch import nn
        from torch.distributions import Beta, Categorical

        class Policy(nn.Module):
            def __init__(self, n, use_categorical=False):
                super().__init__()
                self.use_categorical = use_categorical
                self.head, self.alpha = nn.Linear(4, n), nn.Linear(4, n)

            def act(self, x, mask):
                if self.use_categorical:
                    mask[mask.sum(-1) < 3, 0] = True
                    return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
                return Beta(self.alpha(x).exp(), 1).sample()

            def get_action(self, x, mask):
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
        """,
        # those around it do, or switch the check on
        Case(
            {
                "network.py": """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
            """,
                "env.py": """
            from network import Policy

            def step(policy: Policy, obs, mask):
                mask[:, 0] = True  # to pass is always allowed
                return policy.act(obs, mask)
            """,
            }
        ),
        Case(
            {
                "network.py": """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n, validate=False):
                    super().__init__()
                    self.validate = validate
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    if self.validate:
                        assert mask.any(-1).all()
                    return Categorical(logits=self.head(x).masked_fill(~mask, -1e4)).sample()
            """,
                "train.py": """
            from network import Policy

            policy = Policy(3, validate=True)
            """,
            }
        ),
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = torch.where(mask, self.head(x), -1e9)  # <- ESP510
                return Categorical(logits=logits).sample()

            def evaluate(self, x, mask, action):
                dist = Categorical(logits=torch.where(mask, self.head(x), -1e9))
                return dist.log_prob(action), dist.entropy() / mask.sum(-1).log()
        """,
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask, validate):
                if validate:
                    torch._assert_async(mask.any(dim=-1).all())  # <- ESP510
                self.log_probs = torch.log_softmax(logits.masked_fill(~mask, -1e30), dim=-1)

            def sample(self):
                return torch.multinomial(self.log_probs.exp(), 1)

        class Policy(nn.Module):
            def __init__(self, n, validate: bool = False):
                super().__init__()
                self.validate = validate
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                return Masked(self.head(x), mask, validate=self.validate).sample()
        """,
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask, check=True):
                if check:  # <- ESP510
                    assert torch.any(mask, dim=-1).all()
                self.log_probs = torch.log_softmax(logits.masked_fill(~mask, -1e30), dim=-1)

            def sample(self):
                return torch.multinomial(self.log_probs.exp(), 1)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask, hidden=None):
                return Masked(self.head(x), mask, check=False).sample()
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        DEBUG = False

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def _check(self, mask):
                torch._assert_async(mask.any(dim=-1).all())  # <- ESP510

            def act(self, x, mask):
                if DEBUG:
                    print(x.max(), torch.max(x))
                try:
                    self._check(mask)
                except Exception:
                    print("no valid action")
                return Categorical(logits=self.head(x) + (1 - mask) * -1e9).sample()
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                try:
                    assert mask.any(dim=-1).all()  # <- ESP510
                except:
                    pass
                return Categorical(logits=self.head(x).masked_fill(~mask, -1e9)).sample()
        """,
    )
