"""ESP204: a tensor on self is neither a parameter nor a buffer, and stays on the CPU."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Replace,
    Rule,
    Severity,
    dotted,
    left_behind,
)

_WHY = "the buffer is cast with the network, too: in half precision, what it meets is no longer promoted to float32"


class TensorAttributeNotBuffer(Rule):
    """
    ## What it does
    Reports a tensor that the constructor makes with a factory of torch and keeps as a plain attribute, where `forward`,
    `act`, `evaluate` or a value method brings it together with inputs or outputs of layers: tables, scales, masks.

    ## Why it matters
    `.to(...)`, `.cuda()` and the like reach parameters and buffers only. The attribute stays where it was made, and the
    first call on a GPU raises; tests on the CPU never see it. As a buffer it goes along.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.obs_scale = torch.full((obs_dim,), 0.1)
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs * self.obs_scale)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.register_buffer("obs_scale", torch.full((obs_dim,), 0.1), persistent=False)
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs * self.obs_scale)
    ```

    ## Fix
    Safe: for booleans and integers, `self.register_buffer("name", ..., persistent=False)` in place of the assignment.
    It is not persistent, so that checkpoints stay as they are; drop the word where the tensor should be saved. Unsafe
    for other tensors, since `.half()` and `.double()` cast buffers: what they meet is not promoted any more.

    ## Evidence
    On torch 2.13.0, a network with `self.scale = torch.tensor([...])` raises "Tensor on device cpu is not on the
    expected device meta" after `.to("meta")`, and its `state_dict()` lacks `scale`; with a buffer it runs. Reports:
    pytorch/audio#457 (a phase table), unit8co/darts#3052 (an attention mask), bayesiains/nflows#48 (a temperature).

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_buffer
    """

    code = "ESP204"
    name = "tensor-attribute-not-buffer"
    summary = "a tensor on self is no buffer and stays on the CPU"
    category = Category.DEVICE
    severity = Severity.HIGH
    probe = "device-moves"
    fixable = "safe"
    help = "keep it with `register_buffer(name, tensor, persistent=False)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Attributes that hold tensors of factories and meet the network."""
        for left in left_behind(net):
            kept, meeting = left.kept, left.meeting
            if kept is not None:
                yield Hit.at(
                    kept,
                    f"`self.{kept.name}` is a tensor, but no buffer: it stays on the CPU when the network moves",
                    notes=(Note(meeting.module, meeting.node, "it meets tensors of the network here"),),
                    repair=_as_buffer(kept),
                )

    VALID = (
        # a method that takes its input to the CPU works nowhere else
        """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.shift = torch.zeros(4)

            def forward(self, x):
                out = x.to("cpu") if x.is_cuda else x
                return self.layer(out) + self.shift
        """,
        # registered, a parameter, or moved where it is used
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n, device):
                super().__init__()
                self.fc = nn.Linear(4, n)
                self.register_buffer("scale", torch.ones(4))
                self.log_std = nn.Parameter(torch.zeros(n))
                self.table = torch.arange(n)
                self.eye = torch.eye(4)
                self.placed = torch.ones(4, device=device)
                self.moved = torch.ones(4).to(device)

            def forward(self, obs):
                x = self.fc(obs * self.scale * self.placed * self.moved) + self.log_std
                return x + self.table.to(x.device) + obs @ self.eye.to(obs)
        """,
        # numbers of no dimension, tables for Python, shapes, indices, data of unknown shape
        """
        import numpy as np
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n, low, high):
                super().__init__()
                self.fc = nn.Linear(4, n)
                self.gain = torch.tensor(0.5)
                self.one = torch.ones(())
                self.sizes = torch.tensor([2, 3])
                self.order = torch.arange(n)
                self.offsets = torch.arange(n)
                self.space = torch.tensor((high - low) / 2)
                self.numpy = np.ones(4)

            def forward(self, obs):
                x = self.fc(obs) * self.gain + self.one + self.offsets[0]
                x = x[:, self.order]
                y = x.detach().cpu() * self.offsets + x.to("cpu").argmax(-1) * self.offsets
                return y, x.split(self.sizes.tolist(), -1) + x.new_zeros(len(self.sizes)) + self.space
        """,
        # moved by somebody: an override, a method, code outside
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.scale = torch.ones(4)
                self.fc = nn.Linear(4, n)

            def to(self, *args):
                self.scale = self.scale.to(*args)
                return super().to(*args)

            def forward(self, obs):
                return self.fc(obs * self.scale)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.scale = torch.ones(4)
                self.fc = nn.Linear(4, n)

            def place(self, device):
                self.scale = self.scale.to(device)

            def forward(self, obs):
                return self.fc(obs * self.scale)
        """,
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.scale = torch.ones(4)
                        self.fc = nn.Linear(4, n)

                    def forward(self, obs):
                        return self.fc(obs * self.scale)
                """,
                "train.py": """
                from network import Policy

                policy = Policy(3).cuda()
                policy.scale = policy.scale.cuda()
                """,
            }
        ),
        # the whole program lives on one device
        """
        import torch
        from torch import nn

        torch.set_default_device("cuda")

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.scale = torch.ones(4)
                self.fc = nn.Linear(4, n)

            def forward(self, obs):
                return self.fc(obs * self.scale)
        """,
        # no network: an agent may live on the CPU
        """
        import torch
        from torch import nn

        class Agent:
            def __init__(self, n):
                self.scale = torch.ones(4)
                self.fc = nn.Linear(4, n)

            def forward(self, obs):
                return self.fc(obs * self.scale)
        """,
        # what a method makes for itself is another rule's
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def forward(self, obs):
                return self.fc(obs * torch.ones(4))
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)
                causal = torch.tril(torch.ones(4, 4)).bool()
                self.causal = causal.view(1, 4, 4)  # <- ESP204
                self.temperatures = torch.linspace(0.1, 2.0, n)  # <- ESP204
                self.low = torch.FloatTensor([-1.0, -2.0])[None]  # <- ESP204
                self.build(n)

            def build(self, n):
                self.bonus = torch.zeros(n) + 0.5  # <- ESP204

            def logits(self, obs):
                return self.action_head(obs) / self.temperatures

            def act(self, obs, mask):
                scores = obs.masked_fill(self.causal == 0, -1e4)
                return Categorical(logits=self.logits(scores)).sample() + self.low * obs

            def get_value(self, obs):
                logits = self.action_head(obs)
                return torch.where(logits > 0, logits, self.bonus)
        """,
        Case(
            {
                "base.py": """
                import torch
                from torch import nn

                class Base(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.net = nn.Linear(4, n)
                        self.support = torch.arange(n).float()  # <- ESP204
                """,
                "network.py": """
                import torch
                from base import Base

                class QNet(Base):
                    def forward(self, x):
                        return (self.net(x) * self.support).sum(-1)
                """,
            }
        ),
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.net = nn.Linear(4, n)
                    self.scale = torch.tensor([1.0, 2.0, 3.0, 4.0])  # <- ESP204
                    self.ids = torch.zeros(n, dtype=torch.long)  # <- ESP204
                    self.long = torch.ones(  # <- ESP204
                        n,
                    )
                    self.first = self.second = torch.ones(4)  # <- ESP204
                    if n:
                        self.late = torch.ones(n)  # <- ESP204

                def forward(self, obs: torch.Tensor):
                    x = self.net(obs * self.scale + self.first)
                    return x.gather(-1, self.ids) + self.late + self.long
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.net = nn.Linear(4, n)
                    self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), persistent=False)
                    self.register_buffer("ids", torch.zeros(n, dtype=torch.long), persistent=False)
                    self.long = torch.ones(
                        n,
                    )
                    self.first = self.second = torch.ones(4)
                    if n:
                        self.late = torch.ones(n)

                def forward(self, obs: torch.Tensor):
                    x = self.net(obs * self.scale + self.first)
                    return x.gather(-1, self.ids) + self.late + self.long
            """,
        ),
    )


def _as_buffer(kept: Event) -> Repair | None:
    """`register_buffer` in place of a plain assignment that stands in the constructor behind `super().__init__()`."""
    statement, function, module = kept.node, kept.function, kept.module
    if function.name != "__init__" or not isinstance(statement, cst.Assign) or len(statement.targets) > 1:
        return None
    ready = False
    for line in function.node.body.body:
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if small is statement:
                text = f'{dotted(statement.targets[0].target).partition(".")[0]}.register_buffer("{kept.name}", '
                text += f"{module.code(statement.value)}, persistent=False)"
                ready = ready and "\n" not in cst.Module([]).code_for_node(statement)
                why = "" if kept.value.dtype in ("bool", "int64", "int32", "uint8") else _WHY
                return Repair("register it as a buffer", (Replace(statement, text),), why) if ready else None
            ready = ready or (isinstance(small, cst.Expr) and "__init__" in module.code(small))
    return None
