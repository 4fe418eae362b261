"""ESP112: torch.compile switches off the validation of distributions, and nothing else looks for NaN."""

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
    silenced_validation,
)


class CompileSilencesValidation(Rule):
    """
    ## What it does
    Reports a `torch.compile` of a network whose distributions rest on the default validation, in a project that looks
    for NaN and infinity nowhere.

    ## Why it matters
    The first call of `torch.compile` sets the default of `validate_args` to False, for all distributions of the process
    and before anything is compiled. Logits that became NaN, a negative scale, and actions outside of the support raised
    until then; now they go into log-probs, the loss and the weights without a word.

    Silent where the project says `isfinite`, `isnan`, `nan_to_num`, `detect_anomaly`, `error_if_nonfinite`,
    `validate_args` or `set_default_validate_args` outside of its tests: then somebody has thought of it.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    policy = torch.compile(Policy(8, 4))
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

        def forward(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    policy = torch.compile(Policy(8, 4))

    def update(loss):
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite")
        loss.backward()
    ```

    ## Evidence
    On torch 2.13.0, in a fresh process: `Categorical(logits=nan)`, `Normal(nan, 1)`, `Normal(0, -1)` and the log-prob
    of action 1.5 raise ValueError. After `torch.compile(lambda x: x)`, which compiles nothing yet, or after
    `net.compile()`: a Categorical of NaN is made, its log-probs are NaN and its most probable action is 0, `Normal`
    samples NaN, and action 1.5 scores as action 1. Sampling such a Categorical still raises. NaN logits that validation
    stopped are reported in pytorch/pytorch#87468 and DLR-RM/stable-baselines3#1553.

    ## References
    - https://docs.pytorch.org/docs/stable/distributions.html
    """

    code = "ESP112"
    name = "compile-silences-validation"
    summary = "torch.compile switches off the validation of distributions, and nothing else looks for NaN"
    category = Category.COMPILE
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    help = "refuse a loss that is not finite in the trainer, or NaN logits before the compiled method"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """The compilation that nothing replaces."""
        found = silenced_validation(net)
        if found is not None:
            yield Hit(
                found.site[1],
                "torch.compile switches off the validation of all distributions, and nothing here looks for NaN: "
                "bad logits go on into the loss",
                module=found.site[0],
                symbol=net.name,
                notes=(Note(found.event.module, found.event.node, "this distribution rests on it"),),
            )

    VALID = (
        # Somebody looks; the distribution has its own word; nothing is compiled; no distribution.
        Case(
            {
                "network.py": """
                import torch
                from torch import nn
                from torch.distributions import Normal

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    @torch.compile
                    def forward(self, obs):
                        return Normal(self.action_head(obs), 1.0).sample()
                """,
                "train.py": """
                from network import Policy
                from torch.nn.utils import clip_grad_norm_

                def update(policy):
                    clip_grad_norm_(policy.parameters(), 0.5, error_if_nonfinite=True)
                """,
            }
        ),
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            @torch.compile
            def forward(self, obs):
                return Normal(self.action_head(obs), 1.0, False).sample()

        class Eager(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return Categorical(logits=self.action_head(obs)).sample()

        class Value(nn.Module):
            def __init__(self):
                super().__init__()
                self.value_head = nn.Linear(8, 4)

            @torch.compile
            def forward(self, obs):
                return self.value_head(obs)
        """,
        """
        import torch
        from torch import nn

        class Value(nn.Module):
            def __init__(self):
                super().__init__()
                self.value_head = nn.Linear(8, 4)

            @torch.compile
            def forward(self, obs):
                return self.value_head(obs)
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.dist(obs).probs

                    def evaluate_actions(self, obs, actions):
                        return self.dist(obs).log_prob(actions)

                    def dist(self, obs):
                        return Categorical(logits=self.action_head(obs))
                """,
                "agent.py": """
                import torch
                from network import Policy

                class Agent:
                    def __init__(self):
                        self.policy = Policy()
                        self.policy.compile()  # <- ESP112
                """,
                "test_network.py": """
                import torch
                from network import Policy

                def test_finite():
                    assert torch.isfinite(Policy()(torch.ones(2, 8))).all()
                """,
            }
        ),
        """
        import torch
        from torch import nn
        from torch.distributions import Independent, Normal

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.mean_head = nn.Linear(8, 4)
                self.log_std = nn.Parameter(torch.zeros(4))

            @torch.compile  # <- ESP112
            def evaluate_actions(self, obs, actions):
                dist = Independent(Normal(self.mean_head(obs), self.log_std.exp()), 1)
                return dist.log_prob(actions)
        """,
    )
