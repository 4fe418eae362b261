"""ESP514: an output goes through `squeeze()` without a dimension, so that its rank depends on the batch."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    HOT_ROLES,
    Case,
    Category,
    Confidence,
    Frame,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
    Step,
    Val,
    find,
    head_size,
    tensor_role,
)

_OUTPUTS = ("value", "logits", "log_prob", "entropy")
_WHY = "axes of size 1 other than the last stay now: callers that counted on losing them get another rank"


class BareSqueeze(Rule):
    """
    ## What it does
    Reports `squeeze()` without a dimension on the output of a layer that a method returns. Silent where the method
    gives its input the axis of size 1 itself (`unsqueeze(0)`, `[None]`), under a test of the rank, where the rank is
    settled again (`view`, `reshape`, `flatten`) and where the tensor has one axis only.

    ## Why it matters
    It takes every axis of size 1: a value of `[B, 1]` becomes `[B]` as meant, and `[]` for B == 1; `[B, T, 1]` becomes
    `[B]` for T == 1 and `[T]` for B == 1. One environment, the last minibatch of an epoch, or one step while acting
    then gives another rank than the rest, which is stacked, broadcast against returns, or indexed on the wrong axis.

    ## Example
    ```python
    from torch import nn

    class Critic(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.value_head = nn.Linear(obs_dim, 1)

        def forward(self, obs):
            return self.value_head(obs).squeeze()
    ```

    ## Use instead
    ```python
    from torch import nn

    class Critic(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.value_head = nn.Linear(obs_dim, 1)

        def forward(self, obs):
            return self.value_head(obs).squeeze(-1)
    ```

    ## Fix
    Unsafe: `squeeze(-1)`, where it is applied to a layer whose output has a last axis of size 1. Callers that counted
    on losing other axes get another rank.

    ## Evidence
    On torch 2.13.0, `nn.Linear(4, 1)(x).squeeze()` has the shape `[5, 3]` for x of `[5, 3, 4]`, `[5]` for `[5, 1, 4]`,
    and `[]` for `[1, 4]`. thu-ml/tianshou#155 had to settle ranks of values and log-probs by hand. A shape that fails
    with one environment is reported in Stable-Baselines-Team/stable-baselines3-contrib#305.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.squeeze.html, whose warning speaks of a batch of size 1
    """

    code = "ESP514"
    name = "bare-squeeze"
    summary = "an output is squeezed without a dimension"
    category = Category.INTEGRATION
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "output-shape"
    fixable = "unsafe"
    help = "name the axis: `squeeze(-1)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Bare squeezes whose outcome a method returns."""
        if not net.mentions(b"squeeze()", b"torch.squeeze("):
            return
        for frame in net.frames(*HOT_ROLES):
            for leaf in _given_back(frame):
                for step in leaf.steps:
                    if step.kind == "squeeze" and not _lifts(step.function) and not _lifts(frame.function):
                        yield from self._hits(net, frame, step)

    def _hits(self, net: NetworkClass, frame: Frame, step: Step) -> Iterable[Hit]:
        function: Function = step.function
        events = [event for event, _ in frame.walk() if event.kind == "call"]
        event = next(event for event in events if event.node is step.node)
        squeezed = event.target if event.name == ".squeeze" else event.args[0]
        if squeezed.rank is not None and squeezed.rank < 2:
            return
        sizes = {head_size(net, each.node) for each in squeezed.steps if each.kind == "head"}
        direct = any(other.node is _subject(step.node) and other.callee == "layer" for other in events)
        yield Hit(
            step.node,
            f"`{frame.function.name}` returns what `squeeze()` leaves: its rank depends on the sizes of the batch",
            module=function.module,
            symbol=function.qualified,
            severity=Severity.HIGH if squeezed.rank is not None and squeezed.rank > 2 else None,
            repair=_named_axis(function, step.node) if direct and sizes == {"1"} else None,
        )

    VALID = (
        # a factor of full rank settles that of the product
        """
        from torch import nn

        class Mixer(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.features = nn.Linear(4, n)
                self.gate = nn.Linear(4, 1)

            def forward(self, x):
                return self.features(x) * self.gate(x).squeeze().unsqueeze(-1)
        """,
        # an axis is named; the rank is settled anew, or tested; one axis only; nothing is returned of it
        """
        import torch
        from torch import nn

        class Critic(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.v = nn.Linear(n, 1)

            def forward(self, x):
                return self.v(x).squeeze(-1), torch.squeeze(self.v(x), dim=1)

            def get_value(self, x):
                return self.v(x).squeeze().view(-1), self.v(x).squeeze().reshape_as(x), self.v(x).squeeze().flatten()

            def value(self, x):
                value = self.v(x)
                if value.dim() == 2:
                    value = value.squeeze()
                return value

            def predict_values(self, x):
                state = x  # [D]
                return self.v(state).squeeze(), self.v(x).squeeze().mean()

            def evaluate(self, x):
                shown = self.v(x).squeeze()
                print(shown)
                return self.v(x)
        """,
        # the axis is one that the method itself has added
        """
        import torch
        from torch import nn

        class Actor(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.v = nn.Linear(n, 3)

            def _out(self, x):
                return self.v(x).squeeze()

            def act(self, x):
                return self._out(x.unsqueeze(0))

            def predict(self, x):
                return self._out(torch.unsqueeze(x, dim=0))

            def get_value(self, x):
                return self.v(x[None]).squeeze()

            def value(self, x):
                return self.v(x[None, :]).squeeze()
        """,
        # parameters and data are no outputs
        """
        import torch
        from torch import nn

        class Scale(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1, n))

            def forward(self, x):
                return x.squeeze(), self.scale.squeeze()
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Critic(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, n))
                self.v = nn.Linear(n, 1)

            def _value(self, x):
                value = self.v(self.body(x))
                return value.squeeze()  # <- ESP514

            def forward(self, x):
                logits = torch.squeeze(self.body(x))  # <- ESP514
                return {"logits": logits, "value": self._value(x)}

            def evaluate(self, x, actions):
                rows = x.unsqueeze(-1)
                return torch.tanh(self.body(rows[:, 1:]).squeeze())  # <- ESP514
        """,
        # a log-prob of logits from one of several layers, summed over them
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: nn.Linear(4, size) for name, size in sizes.items()})

            def evaluate(self, obs, actions):
                log_probs = []
                for name, head in self.heads.items():
                    rows = head(obs).log_softmax(-1)
                    log_probs.append(rows.gather(-1, actions[name].unsqueeze(-1)).squeeze())  # <- ESP514
                return torch.stack(log_probs).sum(dim=0)
        """,
        # handed back inside an object
        """
        from torch import nn

        class Output(dict):
            def __init__(self, values, log_probs):
                super().__init__(values=values)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.v = nn.Linear(n, 1)

            def forward(self, x):
                values = self.v(x).squeeze()  # <- ESP514
                return Output(log_probs=None, values=values)
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Valued(nn.Module):
                    def get_value(self, x):
                        return self.critic(x).squeeze()  # <- ESP514
                """,
                "network.py": """
                from base import Valued
                from torch import nn

                class Policy(Valued):
                    def __init__(self, n):
                        super().__init__()
                        self.critic = nn.Linear(n, 4)
                """,
            }
        ),
        Case(
            """
            import torch
            from torch import nn

            class Critic(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.v = nn.Linear(n, 1)
                    self.q = nn.Sequential(nn.Linear(n, 8), nn.ReLU(), nn.Linear(8, out_features=1))

                def forward(self, obs):
                    x = obs  # [batch, time, features]
                    return self.v(x).squeeze(), torch.squeeze(self.q(obs))  # <- ESP514  # <- ESP514
            """,
            fixed="""
            import torch
            from torch import nn

            class Critic(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.v = nn.Linear(n, 1)
                    self.q = nn.Sequential(nn.Linear(n, 8), nn.ReLU(), nn.Linear(8, out_features=1))

                def forward(self, obs):
                    x = obs  # [batch, time, features]
                    return self.v(x).squeeze(-1), torch.squeeze(self.q(obs), -1)  # <- ESP514  # <- ESP514
            """,
        ),
    )


def _given_back(frame: Frame) -> Iterable[Val]:
    """The tensors that a method returns, and those that it hands to an object under the name of an output."""
    yield from frame.result.flat()
    for event, _ in frame.walk():
        if event.kind == "call" and event.value.kind == "instance":
            yield from (value for name, value in event.kwargs.items() if tensor_role(name) in _OUTPUTS)


def _lifts(function: Function) -> bool:
    """Whether a method gives a tensor a leading axis of size 1: then that one is what it takes away."""
    for call in find(function.node, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "unsqueeze":
            axes = [arg.value.value for arg in call.args if isinstance(arg.value, cst.Integer)]
            if "0" in axes:
                return True
    for subscript in find(function.node, cst.Subscript):
        first = subscript.slice[0].slice
        if isinstance(first, cst.Index) and isinstance(first.value, cst.Name) and first.value.value == "None":
            return True
    return False


def _subject(node: cst.CSTNode) -> cst.CSTNode | None:
    """What a call squeezes: its argument, or what its method belongs to."""
    assert isinstance(node, cst.Call)
    if node.args:
        return node.args[0].value
    return node.func.value if isinstance(node.func, cst.Attribute) else None


def _named_axis(function: Function, node: cst.CSTNode) -> Repair:
    assert isinstance(node, cst.Call)
    old = function.module.code(node)
    given = f"{old[:-1].rstrip().rstrip(',')}, -1)" if node.args else f"{old[:-2]}(-1)"
    return Repair("squeeze the last axis only", (Replace(node, given),), _WHY)
