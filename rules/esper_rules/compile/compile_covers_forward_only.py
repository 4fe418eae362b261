"""ESP103: torch.compile(net) compiles forward alone, and the methods that training calls stay eager."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    VALUE_METHOD,
    Case,
    Category,
    Confidence,
    Event,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    descendants,
    dotted,
    find,
)
from esper_audit.semantics.torch_facts import COMPILE


class CompileCoversForwardOnly(Rule):
    """
    ## What it does
    Finds `net = torch.compile(net)` (or `net.compile()`) in the project and the methods that are then called on the
    result. Methods other than `forward` are handed through from the original module and run eagerly; after
    `net.compile()` only what they call as `self(...)` is compiled.

    ## Why it matters
    Recurrent and factored actor-critics are trained through `get_action` and `evaluate_actions`; `forward` is hardly
    ever called from outside. The compile call then costs start-up time, switches the validation of
    `torch.distributions` off for the whole process, and speeds up nothing.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs)

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.forward(obs)).log_prob(actions)

    class Trainer:
        def __init__(self):
            self.policy = Policy(8, 4)
            self.policy = torch.compile(self.policy)

        def update(self, obs, actions):
            return self.policy.evaluate_actions(obs, actions)
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

        def forward(self, obs):
            return self.action_head(obs)

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.forward(obs)).log_prob(actions)

    class Trainer:
        def __init__(self):
            self.policy = Policy(8, 4)
            self.policy.evaluate_actions = torch.compile(self.policy.evaluate_actions)

        def update(self, obs, actions):
            return self.policy.evaluate_actions(obs, actions)
    ```

    ## Evidence
    On torch 2.13.0, after `get_action` and `evaluate_actions` were called on `torch.compile(net)`, Dynamo had compiled
    0 graphs, also when those methods call `self.forward(...)` or `self(...)`; after `net.compile()` a call of
    `self(...)` was one graph, and `self.forward(...)` none. Reports: pytorch/pytorch#141616, #193354.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    code = "ESP103"
    name = "compile-covers-forward-only"
    summary = "torch.compile covers forward, but training calls other methods"
    category = Category.COMPILE
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "compile-coverage"
    help = (
        "compile what is called: `net.evaluate_actions = torch.compile(net.evaluate_actions)`, "
        "or make the call go through `net(...)`"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Compile sites of the network whose file calls other methods on it."""
        sites: dict[cst.CSTNode, Event] = {}
        calls: dict[str, Event] = {}
        covered: set[str] = set()
        for caller in net.compilers():
            for event, _ in caller.frame.walk():
                if event.kind == "store" and event.name in net.model.methods and net.builds(event.target):
                    covered.add(event.name)
                if event.kind != "call":
                    continue
                if (event.name in COMPILE and event.args and net.builds(event.args[0])) or (
                    event.name == ".compile" and net.builds(event.target)
                ):
                    sites.setdefault(event.node, event)
                elif (
                    isinstance(event.callee, Function)
                    and net.builds(event.target)
                    and self._computes(net, event.callee)
                ):
                    calls.setdefault(event.callee.name, event)
        for site in sites.values():
            in_place = site.name == ".compile"
            eager = {
                name: _place(call)
                for name, call in calls.items()
                if name not in covered
                and (not _calls_itself(call.callee) if in_place else "compiled" in call.target.tags)
            }
            known = bool(eager)
            if not known and not in_place and _takes_its_place(site):
                # Whoever compiles the network often hands it on; then other files, or the method's name, have to tell.
                eager = {name: _place(call) for name, call in calls.items() if name not in covered}
                eager = eager or {
                    name: call
                    for name in self._methods(net)
                    if name not in covered
                    for call in [next(net.calls_by_name(name), None)]
                    if call
                }
            if eager:
                names = ", ".join(f"`{name}`" for name in sorted(eager))
                yield Hit.at(
                    site,
                    f"torch.compile covers `forward` alone, but {names} {'is' if len(eager) == 1 else 'are'} called on "
                    f"{net.name}: nothing of that is compiled",
                    confidence=None if known else Confidence.MEDIUM,
                    notes=tuple(
                        Note(module, node.func, f"`{name}` runs eagerly here")
                        for name, (module, node) in sorted(eager.items())
                    ),
                )

    def _methods(self, net: NetworkClass) -> Iterable[str]:
        """The methods besides forward that training may call."""
        return [
            function.name for function in net.with_role(ACT, EVALUATE, VALUE_METHOD) if self._computes(net, function)
        ]

    def _computes(self, net: NetworkClass, function: Function) -> bool:
        """Whether a method runs a layer: only then is there something to compile."""
        if function.name in ("forward", "__call__", "__init__") or COMPILE.intersection(function.decorators):
            return False
        frame = net.flow.frame(function.name)
        return frame is not None and any(event.kind == "call" and event.callee == "layer" for event, _ in frame.walk())

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

            def initial_state(self, n):
                return torch.zeros(n, 4)

        def train():
            policy = torch.compile(Policy())
            policy.initial_state(3)
            policy.state_dict()
            return policy(torch.zeros(2, 8))
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

            def act(self, obs):
                return self(obs).argmax(-1)

        def train(obs):
            policy = Policy()
            policy.compile()
            return policy.act(obs)
        """,
    )
    INVALID = (
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

                    def act(self, obs):
                        return self.forward(obs).argmax(-1)
            """,
                "trainer.py": """
                import torch
                from network import Policy

                class Trainer:
                    def __init__(self, device, fast):
                        self.net = Policy().to(device)
                        if fast:
                            self.net = torch.compile(self.net, mode="default")  # <- ESP103

                    def step(self, obs):
                        return self.net.act(obs)
            """,
            }
        ),
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return self.action_head(obs).argmax(-1)
            """,
                "main.py": """
                import torch
                import rollout
                from network import Policy

                def main(fast):
                    policy = Policy()
                    policy = torch.compile(policy) if fast else policy  # <- ESP103
                    rollout.collect(policy)
            """,
                "rollout.py": """
                def collect(policy):
                    return policy.act(None)
            """,
            }
        ),
        """
        import torch
        from torch import nn

        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor = nn.Linear(8, 4)

            def get_action_and_value(self, obs):
                return self.actor(obs)

        if __name__ == "__main__":
            agent = torch.compile(Agent())  # <- ESP103
            agent.get_action_and_value(torch.zeros(1, 8))
        """,
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return self.action_head(obs).argmax(-1)
                """,
                "main.py": """
                import torch
                from concurrent.futures import ThreadPoolExecutor
                from network import Policy
                from rollout import collect

                def main(workers):
                    pool = ThreadPoolExecutor(workers)
                    return pool.submit(collect, torch.compile(Policy()))  # <- ESP103
                """,
                "rollout.py": """
                def collect(policy):
                    return policy.act(None)
                """,
            }
        ),
    )


def _place(call: Event) -> tuple[ModuleModel, cst.Call]:
    """Where a call stands."""
    assert isinstance(call.node, cst.Call)
    return call.module, call.node


def _calls_itself(function: Function) -> bool:
    """Whether the method goes through `self(...)`, which an in-place `compile()` does cover."""
    return any(isinstance(node, cst.Call) and dotted(node.func) == "self" for node in descendants(function.node))


def _takes_its_place(site: Event) -> bool:
    """Whether the compiled wrapper is kept under the name of the network, or handed on: `x = torch.compile(x)`."""
    assert isinstance(site.node, cst.Call)
    wrapped = site.module.code(site.node.args[0].value) if site.node.args else ""
    for assign in (assign for node in site.scope for assign in find(node, cst.Assign)):
        if any(node is site.node for node in descendants(assign.value)):
            return site.module.code(assign.targets[0].target) == wrapped
    return True
