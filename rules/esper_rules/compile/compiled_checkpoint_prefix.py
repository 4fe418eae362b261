"""ESP104: checkpoints carry the keys of torch.compile's wrapper, and fit no network that is not compiled."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    CompiledCheckpoint,
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
    compiled_checkpoints,
    find,
)

_WHY = "checkpoints have plain keys from then on: those that were saved before need their `_orig_mod.` stripped"


class CompiledCheckpointPrefix(Rule):
    """
    ## What it does
    Follows the `state_dict()` of a network that was wrapped by `torch.compile(net)`. Reports where it is written to a
    file or goes into a network without the wrapper, and `load_state_dict(..., strict=False)` on the wrapper.

    ## Why it matters
    Each key of the wrapper begins with `_orig_mod.`. A checkpoint of a compiled run does not load in an evaluation
    script that builds the plain network, nor after compilation was switched off, nor the other way round. A strict load
    raises; with `strict=False` no key fits, nothing is loaded, and training or evaluation goes on from random weights.
    The severity is `medium` where a file is written and nobody is seen to read it into a plain network.

    Silent where the project names `_orig_mod` anywhere, where the original module is saved, where the network was
    compiled in place, and where a wrapper that nothing makes optional loads its own files.

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

    def train(path):
        policy = Policy(8, 4)
        policy = torch.compile(policy)
        torch.save(policy.state_dict(), path)

    def evaluate(path):
        policy = Policy(8, 4)
        policy.load_state_dict(torch.load(path))
        return policy
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

    def train(path):
        policy = Policy(8, 4)
        policy.compile()
        torch.save(policy.state_dict(), path)

    def evaluate(path):
        policy = Policy(8, 4)
        policy.load_state_dict(torch.load(path))
        return policy
    ```

    ## Fix
    Unsafe: `net.compile(...)` in place of `net = torch.compile(net, ...)`, where both stand in the file of the finding.
    The keys are plain from then on, so checkpoints from before need their prefix stripped.

    ## Evidence
    On torch 2.13.0, the state dict of `torch.compile(net)` has `_orig_mod.0.weight` for `0.weight`. Loading it into an
    equal plain network raises, and so does the reverse; with `strict=False` both directions leave all 4 of 4 parameters
    as they were. After `net.compile()` the keys are plain. Reports: FareedKhan-dev/train-llm-from-scratch#36 (163 keys
    missing, random weights), karpathy/nanoGPT#325; also reported in DLR-RM/stable-baselines3#1438.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.compile
    """

    code = "ESP104"
    name = "compiled-checkpoint-prefix"
    summary = "checkpoints carry the keys of torch.compile's wrapper"
    category = Category.COMPILE
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    fixable = "unsafe"
    help = "compile in place with `net.compile()`, or save and load the module that was wrapped"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Places where the keys of the wrapper meet a file or a plain network."""
        for found in compiled_checkpoints(net):
            event, site = found.event, found.site
            yield Hit.at(
                event,
                _says(net, found),
                severity=None if found.certain else Severity.MEDIUM,
                notes=(Note(site.module, site.node, "the wrapper is made here"),),
                repair=_in_place(site) if site.module is event.module else None,
            )

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        def train(path):
            raw = Policy()
            policy = torch.compile(raw)
            torch.save(raw.state_dict(), path)
            return policy
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        class Trainer:
            def __init__(self, fast):
                self.policy = Policy()
                if fast:
                    self.policy.compile()

            def save(self, path):
                torch.save({"policy": self.policy.state_dict()}, path)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        class Trainer:
            def __init__(self, fast):
                self.policy = Policy()
                if fast:
                    self.policy = torch.compile(self.policy)

            def save(self, path):
                torch.save(getattr(self.policy, "_orig_mod", self.policy).state_dict(), path)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        def save(policy, path):
            weights = {key.removeprefix("_orig_mod."): value for key, value in policy.state_dict().items()}
            torch.save(weights, path)

        def train(path):
            policy = torch.compile(Policy())
            save(policy, path)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        class Trainer:
            def __init__(self):
                self.policy = torch.compile(Policy())
                self.best = None

            def save(self, path):
                torch.save(self.policy.state_dict(), path)

            def load(self, path):
                self.policy.load_state_dict(torch.load(path), strict=False)

            def keep(self):
                self.best = self.policy.state_dict()

        if __name__ == "__main__":
            policy = torch.compile(Policy())
            other = torch.compile(Policy())
            other.load_state_dict(policy.state_dict())
        """,
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.action_head(obs)
                """,
                "train.py": """
                import torch
                from network import Policy

                def fast(loss):
                    return torch.compile(loss)

                def train(path):
                    policy = Policy()
                    torch.save(policy.state_dict(), path)
                """,
            }
        ),
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn

                class Base(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.action_head(obs)

                class Policy(Base):
                    def act(self, obs):
                        return self.forward(obs).argmax(-1)
                """,
                "trainer.py": """
                import torch
                from network import Policy

                class Trainer:
                    def __init__(self, fast):
                        self.net = Policy()
                        if fast:
                            self.net = torch.compile(self.net, mode="default")

                    def save(self, path):
                        state = {"step": 1, "net": self.net.state_dict()}
                        torch.save(state, path)  # <- ESP104

                    def restore(self, path):
                        self.net.load_state_dict(torch.load(path)["net"], strict=False)  # <- ESP104
                """,
            },
            fixed={
                "trainer.py": """
                import torch
                from network import Policy

                class Trainer:
                    def __init__(self, fast):
                        self.net = Policy()
                        if fast:
                            self.net.compile(mode="default")

                    def save(self, path):
                        state = {"step": 1, "net": self.net.state_dict()}
                        torch.save(state, path)  # <- ESP104

                    def restore(self, path):
                        self.net.load_state_dict(torch.load(path)["net"], strict=False)  # <- ESP104
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

        def build(fast):
            net = Policy()
            return torch.compile(model=net) if fast else net

        def checkpoint(net, path):
            torch.save(net.state_dict(), path)  # <- ESP104

        if __name__ == "__main__":
            net = build(True)
            target = Policy()
            target.load_state_dict(net.state_dict())  # <- ESP104
            net.load_state_dict(target.state_dict(), False)  # <- ESP104
            checkpoint(net, "net.pt")
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

        def main(path):
            raw = Policy()
            fast = torch.compile(raw)
            torch.save(fast.state_dict(), path)  # <- ESP104
        """,
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        return self.action_head(obs)

                def fast(net):
                    return torch.compile(net)
                """,
                "train.py": """
                import pickle
                import torch
                from network import Policy, fast

                def main(path):
                    compiled = fast(Policy())
                    with open(path, "wb") as file:
                        pickle.dump(compiled.state_dict(), file)  # <- ESP104
                """,
            }
        ),
    )


def _says(net: NetworkClass, found: CompiledCheckpoint) -> str:
    if found.kind == "mixed":
        return f"keys with and without `_orig_mod.` meet: {net.name} is compiled on one side of this load only"
    if found.kind == "lenient":
        return (
            f"compiled {net.name} is loaded with `strict=False`: "
            "keys without `_orig_mod.` load nothing, and nothing says so"
        )
    return f"the weights of compiled {net.name} are saved under keys with `_orig_mod.`: they fit no plain {net.name}"


def _in_place(site: Event) -> Repair | None:
    """`net.compile(...)` for a statement `net = torch.compile(net, ...)`."""
    call = site.node
    assert isinstance(call, cst.Call)
    for assign in (assign for node in site.scope for assign in find(node, cst.Assign)):
        if assign.value is not call or not call.args or call.args[0].keyword is not None:
            continue
        net = site.module.code(call.args[0].value)
        if [site.module.code(target.target) for target in assign.targets] == [net]:
            others = [arg.with_changes(comma=cst.MaybeSentinel.DEFAULT) for arg in call.args[1:]]
            rest = ", ".join(site.module.code(arg) for arg in others)
            return Repair("compile the network in place", (Replace(assign, f"{net}.compile({rest})"),), _WHY)
    return None
