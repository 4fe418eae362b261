"""ESP401: something is computed in the constructor, kept on self, and never read."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    dead_attributes,
    without_attribute,
)


class DeadAttribute(Rule):
    """
    ## What it does
    Reports an attribute of a network that is computed and stored but read nowhere in the project: not in the class, its
    subclasses, its callers or its tests, not through `getattr` and not by name in a string. Echoed configuration
    (`self.num_actions = num_actions`), layers, parameters and buffers are left alone.

    ## Why it matters
    The memory is small; the meaning is not. A computed value that nobody reads is mostly half of a feature: entropy
    bounds computed per head while the entropies are never normalised by them. Readers believe that it is in force.

    ## Example
    ```python
    import math
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.max_entropy = math.log(num_actions)

        def forward(self, obs):
            return self.action_head(obs)
    ```

    ## Use instead
    ```python
    import math
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.max_entropy = math.log(num_actions)

        def forward(self, obs):
            return self.action_head(obs)

        def normalised(self, entropy):
            return entropy / self.max_entropy
    ```

    ## Fix
    Safe: the assignment goes. Unsafe where its value calls something that may do more than compute, or the project
    looks at all attributes of an object at once (`vars`, `__dict__`). The project is all that is looked at: other
    projects that read the attribute are not known.

    ## Evidence
    The founding audit's network (tachyon-beep/esper-lite 1bfd94a9) computes the maximum entropy of each of its heads
    and reads none of them.

    ## References
    - https://docs.astral.sh/ruff/rules/unused-variable/ (the same idea for local names)
    """

    code = "ESP401"
    name = "dead-attribute"
    summary = "an attribute is computed and never read"
    category = Category.MEMORY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    fixable = "safe"
    help = "delete it, or finish the feature it was meant for"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Attributes that no project code reads."""
        for name, event in dead_attributes(net).items():
            yield Hit.at(
                event,
                f"`self.{name}` is computed and never read",
                repair=without_attribute(net, name, event),
            )

    VALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.n = n
                self.head = nn.Linear(4, n)
                self.limit = n * 2
                self.table = {"a": n}

            def forward(self, x):
                return self.head(x)[: self.limit]

        def show(policy):
            return getattr(policy, "table")
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.limit = n * 2

            def forward(self, x):
                return self.head(x)

        class Clipped(Policy):
            def forward(self, x):
                return self.head(x).clamp(max=self.limit)
        """,
    )
    INVALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.head = nn.Linear(4, 2)
                self.limits = {  # <- ESP401
                    name: size * 2 for name, size in sizes.items()
                }

            def forward(self, x):
                return self.head(x)
        """,
        Case(
            """
            import math
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n, sizes):
                    super().__init__()
                    self.head = nn.Linear(4, n)
                    # why not
                    self.limit: float = math.log(n) * 2  # a note  # <- ESP401
                    self.table = torch.zeros(n, 2 * n)  # <- ESP401
                    self.first, self.second = 1, n * 2  # <- ESP401
                    self.one = self.two = n * 2  # <- ESP401
                    if n > 2:
                        self.half = n / 2  # <- ESP401
                    self.total = sum(sizes) + 1  # <- ESP401
                    self.area = n * n; self.side = n * 4  # <- ESP401  # <- ESP401
                    self.kept = n * 3  # noqa: B018  # <- ESP401

                def forward(self, x):
                    return self.head(x)
            """,
            fixed="""
            import math
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n, sizes):
                    super().__init__()
                    self.head = nn.Linear(4, n)
                    # why not
                    self.first, self.second = 1, n * 2  # <- ESP401
                    self.one = self.two = n * 2  # <- ESP401
                    if n > 2:
                        pass  # <- ESP401
                    self.area = n * n; self.side = n * 4  # <- ESP401  # <- ESP401
                    self.kept = n * 3  # noqa: B018  # <- ESP401

                def forward(self, x):
                    return self.head(x)
            """,
        ),
    )
