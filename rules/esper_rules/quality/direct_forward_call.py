"""ESP604: a network's `forward` is called by name, past the hooks and what `net.compile()` compiled."""

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
    Repair,
    Replace,
    Rule,
    Severity,
    direct_forward_calls,
    forward_calls_on_parts,
)

_WHY = "hooks of the module run then, and a forward that was compiled in place is used"


class DirectForwardCall(Rule):
    """
    ## What it does
    Reports `net.forward(x)` outside of the network's own class, where `net` is known to be a network of the project.

    ## Why it matters
    `net(x)` runs the hooks that are registered on the module and uses what `net.compile()` compiled; `net.forward(x)`
    does neither. Pruning, spectral norm, feature extraction and profilers rest on hooks and silently do nothing then.
    The severity is `low` where the network is seen to have hooks or to be compiled in place, else `info`: today the two
    calls do the same.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs)

    def act(obs):
        policy = Policy(8, 4)
        policy.compile()
        return policy.forward(obs).argmax(-1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs)

    def act(obs):
        policy = Policy(8, 4)
        policy.compile()
        return policy(obs).argmax(-1)
    ```

    ## Fix
    Unsafe: `net(...)` in place of `net.forward(...)`. Hooks of the module run then.

    ## Evidence
    On torch 2.13.0, a forward hook ran 0 times for `net.forward(x)` and once for `net(x)`; `spectral_norm` left the
    weight as it was; after `net.compile()` the first compiled 0 graphs. The wrappers are no part of this:
    `torch.compile(net).forward(x)` is compiled, and `DistributedDataParallel(net).forward(x)` averages gradients.
    Reported in pytorch/pytorch#141616 (not read here).

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.forward
    """

    code = "ESP604"
    name = "direct-forward-call"
    summary = "forward is called by name, past hooks and compilation"
    category = Category.QUALITY
    severity = Severity.INFO
    confidence = Confidence.HIGH
    fixable = "unsafe"
    help = "call the network itself: `net(x)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls of the network's forward by its name."""
        calls, reason = direct_forward_calls(net)
        for event in calls:
            yield _hit(event, net.name, reason)
        for event in forward_calls_on_parts(net):
            yield _hit(event, event.callee.owner.name, "")

    VALID = (
        # Inside the class, through super, on a wrapper, and on what may be anything.
        """
        import torch
        from torch import nn

        class Base(nn.Module):
            def forward(self, obs):
                return self.action_head(obs)

        class Policy(Base):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return super().forward(obs) + Base.forward(self, obs)

            def act(self, obs):
                return self.forward(obs).argmax(-1)

        class Other:
            def forward(self, obs):
                return obs

        def train(obs, anything):
            policy = Policy()
            compiled = torch.compile(policy)
            parallel = nn.parallel.DistributedDataParallel(policy)
            Other().forward(obs)
            return compiled.forward(obs) + parallel.forward(obs) + policy(obs) + anything.forward(obs)
        """,
        # A call that somebody means: the hook itself calls forward.
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def __call__(self, obs):
                return self.forward(obs)

            def forward(self, obs):
                return self.action_head(obs)

        def act(obs):
            return Policy().forward(obs)
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn

                class Encoder(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.layer = nn.Linear(8, 8)

                    def forward(self, obs):
                        return self.layer(obs)

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.encoder = Encoder()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.action_head(self.encoder.forward(obs))  # <- ESP604
                """,
                "agent.py": """
                from network import Policy

                class Agent:
                    def __init__(self):
                        self.policy = Policy()
                        self.policy.register_forward_hook(print)

                    def act(self, obs):
                        return self.policy.forward(obs).argmax(-1)  # <- ESP604
                """,
            },
            fixed={
                "network.py": """
                from torch import nn

                class Encoder(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.layer = nn.Linear(8, 8)

                    def forward(self, obs):
                        return self.layer(obs)

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.encoder = Encoder()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.action_head(self.encoder(obs))  # <- ESP604
                """,
                "agent.py": """
                from network import Policy

                class Agent:
                    def __init__(self):
                        self.policy = Policy()
                        self.policy.register_forward_hook(print)

                    def act(self, obs):
                        return self.policy(obs).argmax(-1)  # <- ESP604
                """,
            },
        ),
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        def run(net, obs):
            return net.forward(obs)  # <- ESP604

        if __name__ == "__main__":
            policy = Policy()
            alias = policy
            alias.forward(torch.zeros(1, 8))  # <- ESP604
            step = policy.forward
            step(torch.zeros(1, 8))  # <- ESP604
            run(policy, torch.zeros(1, 8))
        """,
    )


def _hit(event: Event, name: str, reason: str) -> Hit:
    return Hit.at(
        event,
        f"`forward` of {name} is called by name" + (f": that passes by {reason}" if reason else ""),
        severity=Severity.LOW if reason else None,
        repair=_called(event),
    )


def _called(event: Event) -> Repair | None:
    """`net(...)` for a call `net.forward(...)`."""
    assert isinstance(event.node, cst.Call)
    func = event.node.func
    if not isinstance(func, cst.Attribute):
        return None
    return Repair("call the network itself", (Replace(func, event.module.code(func.value)),), _WHY)
