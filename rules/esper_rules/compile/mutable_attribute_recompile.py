"""ESP111: a hot method counts on self."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    counters,
)


class MutableAttributeRecompile(Rule):
    """
    ## What it does
    Reports whole numbers on self that a hot method (forward, act, evaluate, value) moves on at each call, in an
    attribute or in a dict, and lists on self that grow by a number or a flag at each call.

    ## Why it matters
    `torch.compile` takes an int of a module, and the length of a list, for a constant: each call finds another one and
    compiles anew, until the limit of 8 is reached and the method stays eager for good. Without compilation it still is
    state that belongs to nobody: checkpoints do not hold it, and evaluating a batch counts as acting does.

    Medium where `torch.compile` is seen to cover the method, low elsewhere. Silent for tensors and buffers, and for
    floats, which are compiled once.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.steps = 0

        def forward(self, obs):
            self.steps += 1
            return self.action_head(obs) / (1 + self.steps)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self, obs):
            self.steps += 1
            return self.action_head(obs) / (1 + self.steps)
    ```

    ## Evidence
    On torch 2.13.0, 10 calls compile `self.calls += 1` 8 times, whether the count is used or not, and then "hit
    config.recompile_limit"; so do `self.calls["forward"] += 1` and `self.calls.append(1)`. A buffer compiles once, a
    float that shrinks (`self.eps *= 0.99`) twice. Reported in pytorch/pytorch#128319 and pytorch/torchtitan#2823.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_buffer
    """

    code = "ESP111"
    name = "mutable-attribute-recompile"
    summary = "a hot method counts on self"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "recompiles"
    help = "count in a buffer (`register_buffer`), or where the method is called"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Counters; those of compiled methods weigh more."""
        for found in counters(net):
            grows = "a list on self grows" if found.what == "list" else "a number on self moves on"
            if found.site is None:
                yield Hit.at(found.event, f"{grows} at each call: under torch.compile, each call would compile anew")
            else:
                yield Hit.at(
                    found.event,
                    f"{grows} at each call of what is compiled: each call compiles anew, up to the limit",
                    severity=Severity.MEDIUM,
                    notes=(Note(*found.site, "it is compiled here"),),
                )

    VALID = (
        # Tensors, floats, what is set and not counted, what grows by tensors, and counts where nothing is hot.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
                self.mean = torch.zeros(4)
                self.eps = 1.0
                self.rate = 0.5
                self.seen = 0
                self.size = 0
                self.last = []
                self.facts = {"size": 0}
                self.episodes = 0
                self.sums = {}

            def forward(self, obs):
                self.steps += 1
                self.mean += obs.mean(0)
                self.eps *= 0.99
                self.rate += 0.25
                self.rate = self.rate + 0.25
                self.seen = 1
                self.size = self.size * 2
                self.size = 8 + 1
                self.last.append(obs)
                self.last.extend([1])
                self.facts["size"] = 3
                self.sums["obs"] = self.sums["obs"] + obs
                total = 0
                total += 1
                count = total + 1
                self.seen, self.size = 1, 2
                return self.action_head(obs)

            def end_episode(self):
                self.episodes += 1
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Counting(nn.Module):
            calls = 0

            def count(self):
                self.calls += 1  # <- ESP111

        class Policy(Counting):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                self.steps = 0
                self.left = 100
                self.counts = {"forward": 0, "act": 0}
                self.history = []
                self.seen = {}

            def forward(self, obs):
                self.count()
                self.steps = self.steps + 1  # <- ESP111
                self.left -= obs.shape[0]  # <- ESP111
                self.counts["forward"] += 1  # <- ESP111
                self.history.append(1)  # <- ESP111
                return self.action_head(obs)

            def act(self, obs):
                self.counts["act"] = self.counts.get("act", 0) + 1  # <- ESP111
                self.seen[len(obs)] = self.seen.get(len(obs), 0) + 1  # <- ESP111
                return self.action_head(obs)

        class Compiled(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                self.steps = 0

            @torch.compile
            def get_value(self, obs):
                self.steps = 1 + self.steps  # <- ESP111
                return self.action_head(obs)
        """,
    )
