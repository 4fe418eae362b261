"""ESP101: the network compiles itself, and takes the choice of mode and checkpoint keys from its owner."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import Case, Category, Confidence, Hit, ModuleModel, NetworkClass, Praise, Rule, Severity
from esper_audit.semantics.torch_facts import COMPILE


class CompileInsideNetwork(Rule):
    """
    ## What it does
    Reports `torch.compile` inside a network class: a submodule that is replaced by its compiled wrapper, or a method
    that is compiled by decorator or by assignment.

    ## Why it matters
    A submodule stored as `torch.compile(...)` renames its parameters: each of its keys gains `_orig_mod.`, and a
    checkpoint saved with compilation on does not load with compilation off. With `strict=False` nothing of the
    submodule is loaded, and training goes on from its random weights. Mode, backend and dynamic shapes are also fixed
    for every user of the class, tests and exports included.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = torch.compile(nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh()))
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs):
            return self.action_head(self.trunk(obs))
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh())
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs):
            return self.action_head(self.trunk(obs))

    # the owner decides: policy.compile(), or torch.compile(policy.evaluate_actions)
    ```

    ## Evidence
    On torch 2.13.0, `torch.compile(module).state_dict()` has keys with the prefix `_orig_mod.`; `module.compile()`
    leaves the keys alone. Broken checkpoints of this kind: DLR-RM/stable-baselines3#1438 and #2137,
    karpathy/nanoGPT#325.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    code = "ESP101"
    name = "compile-inside-network"
    summary = "the network compiles itself"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    help = "leave compilation to the owner of the network: `net.compile()` keeps the checkpoint keys"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Compile calls and decorators in the class's own methods."""
        if not net.compiles_itself:
            return
        for function in net.model.own_methods.values():
            for decorator, name in zip(function.node.decorators, function.decorators, strict=True):
                if name in COMPILE:
                    yield Hit(decorator, f"`{function.name}` is compiled by its own class", symbol=function.qualified)
        for frame in net.all_frames:
            for event in frame.events:
                if event.kind == "call" and event.name in COMPILE and event.function.owner is net.model:
                    wrapped = event.args[0].kind in ("layer", "instance") if event.args else False
                    yield Hit(
                        event.node,
                        "a submodule is replaced by its compiled wrapper: its checkpoint keys gain `_orig_mod.`"
                        if wrapped
                        else "the network compiles a part of itself",
                        severity=Severity.MEDIUM if wrapped else None,
                        symbol=event.function.qualified,
                    )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Compilation that is left to the owner."""
        if any(True for _ in self.check_network(net, module)):
            return
        for caller in net.compilers():
            for event in caller.frame.events:
                if event.kind == "call" and event.name in COMPILE and event.args and net.builds(event.args[0]):
                    yield Praise(
                        net.model.node.name,
                        f"compilation is left to the owner of the network, {event.module.path.name}, "
                        "so mode and checkpoint keys stay free",
                    )
                    return

    VALID = (
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def forward(self, x):
                    return self.head(x)

            policy = torch.compile(Policy(3))
        """,
            praised=True,
        ),
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.head = nn.Linear(4, n)

                    def forward(self, x):
                        return self.head(x)
                """,
                "train.py": """
                import torch
                from network import Policy

                def fast(loss):
                    return torch.compile(loss)

                def train(device):
                    policy = Policy(3).to(device)
                    torch.set_float32_matmul_precision("high")
                    return torch.compile(policy)
                """,
            },
            praised=True,
        ),
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            @torch.compile  # <- ESP101
            def forward(self, x):
                return self.head(x)
        """,
        """
        from torch import compile as jit, nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.forward = jit(self.forward)  # <- ESP101

            def forward(self, x):
                return self.head(x)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            @torch.no_grad()
            @torch.compile(dynamic=True)  # <- ESP101
            def act(self, x):
                return self.head(x).argmax(-1)
        """,
    )
