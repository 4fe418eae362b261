"""ESP490: praise for heads that are narrower than the core they read."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import Case, Category, ModuleModel, NetworkClass, Praise, Rule, Severity, find


class NarrowHeads(Rule):
    """
    ## What it does
    Only praises: several heads with a hidden layer of half the core's width.

    ## Why it matters
    The hidden layer holds most of a head's parameters and the activations that the head keeps for the backward pass.
    With many heads they add up.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.move_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
            self.tool_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, width):
            super().__init__()
            half = width // 2
            self.move_head = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, 4))
            self.tool_head = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, 3))
    ```

    ## Evidence
    Arithmetic: a head of width w on a core of width w costs w * w weights, of width w / 2 half of that.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Linear.html
    """

    code = "ESP490"
    name = "narrow-heads"
    summary = "praise only: heads of half the core's width"
    category = Category.MEMORY
    severity = Severity.INFO
    help = ""

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Two or more heads whose first layer halves the width."""
        init = net.model.own_methods.get("__init__")
        if init is None:
            return
        halves = {
            target.target.value: assign
            for assign in find(init.node, cst.Assign)
            for target in assign.targets
            if isinstance(target.target, cst.Name) and _halved(assign.value)
        }
        narrow = [
            head
            for head in net.policy_heads
            if (inner := _inner_width(net, head.name)) and (inner in halves or inner.endswith("// 2"))
        ]
        if len(narrow) >= 2:
            where = next(iter(halves.values()), init.node.name)
            yield Praise(where, f"the {len(narrow)} heads are half as wide as what they read", symbol=init.qualified)

    VALID = (
        Case(
            """
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, width):
                    super().__init__()
                    self.move_head = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 4))
                    self.tool_head = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 3))
        """,
            praised=True,
        ),
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.move_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
                self.tool_head = nn.Linear(width, 3)

        class Greedy(Policy):
            def act(self, obs):
                return self.move_head(obs).argmax(-1), self.tool_head(obs).argmax(-1)
        """,
    )


def _halved(node: cst.BaseExpression) -> bool:
    return (
        isinstance(node, cst.BinaryOperation)
        and isinstance(node.operator, cst.FloorDivide)
        and isinstance(node.right, cst.Integer)
        and node.right.value == "2"
    )


def _inner_width(net: NetworkClass, name: str) -> str:
    """The output size of a head's first Linear, as written, when another one follows."""
    layers = [
        value
        for value in net.layers[name].elements()
        if value.kind == "layer" and isinstance(value.ref, tuple) and value.ref[0] == "torch.nn.Linear"
    ]
    return net.size_of(layers[0]) if len(layers) >= 2 else ""
