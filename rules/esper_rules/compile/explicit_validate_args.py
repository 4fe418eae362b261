"""ESP106: a distribution in a compiled method is told to validate its arguments, which cuts the graph."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Replace,
    Rule,
    Severity,
    Validation,
    late_validation,
    validated_distributions,
)

_WHY = "invalid parameters, NaN among them, no longer raise there: check for them outside of the compiled method"


class ExplicitValidateArgs(Rule):
    """
    ## What it does
    Reports distributions made with `validate_args=True` in methods that `torch.compile` covers, and
    `set_default_validate_args(True)` after the network was compiled.

    ## Why it matters
    Validation asks Python whether all elements of a tensor obey a constraint. Dynamo does not trace that: the graph
    ends at each distribution, `fullgraph=True` raises, and on a GPU each answer waits for the device. Left to its
    default the distribution is traced in one piece, since `torch.compile` switches the default off for the process.

    Silent where nothing compiles the method: there the argument says what is the default anyway. A setter before the
    first `torch.compile` has no effect, and is no break either.

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
            dist = Categorical(logits=self.action_head(obs), validate_args=True)
            return dist.log_prob(actions)

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
            dist = Categorical(logits=self.action_head(obs), validate_args=False)
            return dist.log_prob(actions)

    policy = torch.compile(Policy(8, 4))
    # the trainer refuses a loss that is not finite
    ```

    ## Fix
    Unsafe: `validate_args=False` where the method itself says `True`. Invalid parameters no longer raise there.

    ## Evidence
    On torch 2.13.0, `Categorical(logits=..., validate_args=True).log_prob(a)` under `torch.compile` gives 0 graphs, and
    2 graphs with an operation before it; `fullgraph=True` raises "Attempted to call function marked as skipped".
    Without the argument it is 1 graph. `set_default_validate_args(True)` after `torch.compile` was called gives 0
    graphs; before it, `torch.compile` sets the flag back to False and NaN logits are accepted. Reports:
    ray-project/ray#50440, pytorch/pytorch#185438; also reported in pytorch/pytorch#145618.

    ## References
    - https://docs.pytorch.org/docs/stable/distributions.html
    """

    code = "ESP106"
    name = "explicit-validate-args"
    summary = "a distribution in a compiled method validates its arguments"
    category = Category.COMPILE
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "graph-breaks"
    fixable = "unsafe"
    help = "leave `validate_args` out or say False, and check logits or the loss for NaN outside of the compiled method"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Distributions that validate under compilation, and setters that make all of them do so."""
        for found in validated_distributions(net):
            yield Hit(
                found.call.node,
                f"a distribution validates its arguments, and `{found.method}` is compiled: the graph ends there",
                module=found.call.module,
                symbol=found.call.function.qualified,
                notes=_notes(found),
                repair=_off(found.event) if found.call is found.event else None,
            )
        for event in late_validation(net):
            yield Hit.at(
                event,
                f"distributions validate by default again, although {net.name} is compiled: each ends its graph",
            )

    VALID = (
        # The default, a debug flag, code that is kept out of the graph, and a method that is not compiled.
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        torch.distributions.Distribution.set_default_validate_args(True)

        class Policy(nn.Module):
            def __init__(self, debug=False):
                super().__init__()
                self.debug = debug
                self.action_head = nn.Linear(8, 4)

            @torch.compiler.disable
            def checked(self, logits):
                return Categorical(logits=logits, validate_args=True)

            def forward(self, obs, actions):
                logits = self.action_head(obs)
                if self.debug:
                    Categorical(logits=logits, validate_args=True)
                if not self.debug:
                    Categorical(None, logits, None)
                if not torch.compiler.is_compiling():
                    Categorical(logits=logits, validate_args=True)
                self.checked(logits)
                return Categorical(logits=logits, validate_args=False).log_prob(actions)

            def act(self, obs):
                if obs.dim() == 2:
                    return Categorical(logits=self.action_head(obs), validate_args=True).sample()
                return Categorical(logits=self.action_head(obs), validate_args=self.debug).sample()

        policy = torch.compile(Policy())
        torch.distributions.Distribution.set_default_validate_args(False)
        """,
        # Nothing is compiled.
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def act(self, obs):
                return Categorical(logits=self.action_head(obs), validate_args=True).sample()

        def compile(policy):
            torch.distributions.Categorical.set_default_validate_args(True)
            return policy
        """,
    )
    INVALID = (
        Case(
            {
                "dists.py": """
                from torch.distributions import Categorical

                class Masked(Categorical):
                    def __init__(self, logits, mask, validate_args=True):
                        logits = logits.masked_fill(~mask, -1e4)
                        super().__init__(logits=logits, validate_args=validate_args)
                """,
                "network.py": """
                from dists import Masked
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def _dist(self, obs, mask):
                        return Masked(self.action_head(obs), mask)  # <- ESP106

                    def act(self, obs, mask):
                        if mask.dim() == 2:
                            mask = mask.bool()
                        return self._dist(obs, mask).sample()
                """,
                "train.py": """
                import torch
                from network import Policy
                from torch.distributions import Distribution

                def main():
                    policy = Policy()
                    policy.act = torch.compile(policy.act)
                    Distribution.set_default_validate_args(True)  # <- ESP106
                    return policy
                """,
            }
        ),
        Case(
            """
            import torch
            from torch import nn
            from torch.distributions import Categorical, Independent, Normal

            VALIDATE = True

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.mean_head = nn.Linear(8, 4)
                    self.action_head = nn.Linear(8, 4)

                @torch.compile
                def evaluate_actions(self, obs, actions):
                    kind = Categorical(logits=self.action_head(obs), validate_args=VALIDATE)  # <- ESP106
                    size = Normal(self.mean_head(obs), 1.0, True)  # <- ESP106
                    both = Independent(size, 1, validate_args=True)
                    return kind.log_prob(actions), both.log_prob(actions)
            """,
            fixed="""
            import torch
            from torch import nn
            from torch.distributions import Categorical, Independent, Normal

            VALIDATE = True

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.mean_head = nn.Linear(8, 4)
                    self.action_head = nn.Linear(8, 4)

                @torch.compile
                def evaluate_actions(self, obs, actions):
                    kind = Categorical(logits=self.action_head(obs), validate_args=VALIDATE)  # <- ESP106
                    size = Normal(self.mean_head(obs), 1.0, False)  # <- ESP106
                    both = Independent(size, 1, validate_args=True)
                    return kind.log_prob(actions), both.log_prob(actions)
            """,
        ),
    )


def _notes(found: Validation) -> tuple[Note, ...]:
    compiled = Note(found.site[0], found.site[1], "it is compiled here")
    if found.call is found.event:
        return (compiled,)
    return (compiled, Note(found.event.module, found.event.node, "the distribution is made here"))


def _off(event: Event) -> Repair | None:
    """False for the literal True of a distribution's `validate_args`, which is the third argument otherwise."""
    assert isinstance(event.node, cst.Call)
    for position, arg in enumerate(event.node.args):
        validates = arg.keyword.value == "validate_args" if arg.keyword is not None else position == 2
        if validates and isinstance(arg.value, cst.Name) and arg.value.value == "True":
            return Repair("do not validate there", (Replace(arg.value, "False"),), _WHY)
    return None
