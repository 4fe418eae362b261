"""ESP205: a hot method makes a tensor on the CPU and brings it together with tensors of the network."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import Case, Category, Hit, ModuleModel, NetworkClass, Note, Rule, Severity, left_behind


class TensorMadeOnCpu(Rule):
    """
    ## What it does
    Reports `torch.arange`, `torch.ones`, `torch.eye`, `torch.tensor([...])` and the like without a device, in or below
    `forward`, `act`, `evaluate` and value methods, where the tensor meets inputs, parameters or outputs of layers.

    ## Why it matters
    A factory without `device` makes its tensor on the CPU. On the CPU all goes well; as soon as the network is moved,
    the operation refuses operands on two devices. Numbers without a dimension and indices in brackets are allowed to
    stay there, and are not reported; hidden states are ESP202's. It is `low` for a network in a test file.

    ## Example
    ```python
    import torch
    from torch import nn

    class QuantileNet(nn.Module):
        def __init__(self, obs_dim, num_quantiles):
            super().__init__()
            self.num_quantiles = num_quantiles
            self.value_head = nn.Linear(obs_dim, num_quantiles)

        def forward(self, obs):
            weights = torch.linspace(0.0, 1.0, self.num_quantiles)
            return (self.value_head(obs) * weights).sum(-1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class QuantileNet(nn.Module):
        def __init__(self, obs_dim, num_quantiles):
            super().__init__()
            self.num_quantiles = num_quantiles
            self.value_head = nn.Linear(obs_dim, num_quantiles)

        def forward(self, obs):
            weights = torch.linspace(0.0, 1.0, self.num_quantiles, device=obs.device)
            return (self.value_head(obs) * weights).sum(-1)
    ```

    ## Evidence
    On torch 2.13.0 with the network on `meta`: a sum with `torch.arange(4)`, a product with `torch.ones(2)[:, None]`,
    `torch.cat` and `torch.where` with a tensor of zeros, `gather` and `index_select` raise; a sum with
    `torch.tensor(1.0)` and `x[torch.arange(2)]` do not. Reports: ray-project/ray#7980 (the range of a sequence mask),
    kornia/kornia#130, bayesiains/nflows#8.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/cuda.html#best-practices
    """

    code = "ESP205"
    name = "tensor-made-on-cpu"
    summary = "a hot method makes a tensor on the CPU and uses it with the network's"
    category = Category.DEVICE
    severity = Severity.HIGH
    probe = "device-moves"
    help = "pass `device=x.device`, or make it once as a buffer"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Factory calls that leave the device open and meet the network."""
        for left in left_behind(net):
            made, meeting = left.made, left.meeting
            if left.kept is None:
                yield Hit(
                    made.node,
                    f"`{made.function}` without `device` makes a tensor on the CPU that meets tensors of the network",
                    module=made.module,
                    severity=Severity.LOW if net.is_test_code else None,
                    notes=(Note(meeting.module, meeting.node, "it meets them here"),),
                )

    VALID = (
        # places in a list that are filled before they are read; and a script that sets the default for all
        """
        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(4, 4)

            def forward(self, x):
                states = [torch.empty(0)] * 5
                states[0] = x
                for t in range(4):
                    states[t + 1] = self.head(states[t])
                return states
        """,
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Net(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.head = nn.Linear(4, 4)

                    def forward(self, x):
                        return self.head(x) @ torch.eye(4)

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.net = Net()
                """,
                "train.py": """
                import torch
                from network import Policy

                torch.set_default_tensor_type("torch.cuda.FloatTensor")
                policy = Policy()
                """,
            }
        ),
        # given a device, or moved
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def forward(self, obs, device=None):
                x = self.fc(obs)
                x = x + torch.ones(4, device=x.device) + torch.arange(4).to(x) + torch.eye(4).type_as(x)
                x = x * torch.ones_like(x) * x.new_ones(4) * torch.zeros(4).to(obs.device) * torch.ones(4).cuda()
                bias = torch.zeros(4)
                if obs.is_cuda:
                    bias = bias.to(x.device)
                with torch.device("cuda"):
                    late = torch.ones(4)
                return x + bias + late
        """,
        # only for type checkers; what is written to has a device
        """
        import typing
        from typing import TYPE_CHECKING

        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)
                self.register_buffer("steps", torch.arange(n))

            def forward(self, obs):
                steps = self.steps
                if TYPE_CHECKING:
                    steps = torch.arange(4)
                if not typing.TYPE_CHECKING:
                    return self.fc(obs) + steps
                return self.fc(obs) + torch.ones(4) + torch.arange(4, out=obs.new())
        """,
        # a call that lacks an argument of the override, or has one too many, raises and gives nothing
        """
        import torch
        from torch import nn

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def bonus(self, obs):
                return obs

            def forward(self, obs):
                return self.fc(obs) + self.bonus(obs) + self.fixed(obs, 3)

            @staticmethod
            def fixed(obs):
                return torch.ones(4)

        class Counting(Base):
            def bonus(self, obs, space):
                return torch.zeros(space)
        """,
        # no dimension, indices, shapes, Python's side
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def act(self, obs, t):
                x = self.fc(obs) * torch.tensor(0.5) + torch.ones(()) + torch.arange(4)[t] + torch.ones(2)[0]
                rows = x[torch.arange(x.shape[0]), t]
                sizes = torch.tensor([1, 2])
                steps = torch.ones(4) * 2 + torch.arange(4)
                return x.split(sizes.tolist()), rows, steps, x.reshape(len(sizes), -1), torch.ones(3).sum() * x
        """,
        # data of the caller, who moves it; results that have left the device
        """
        import numpy as np
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def act(self, obs, count):
                obs = torch.FloatTensor(obs)
                other = torch.tensor([obs, count])
                x = self.fc(obs) + self.fc(torch.as_tensor(np.ones(4)))
                return x.detach().cpu() + torch.arange(4), other * x

            def helper(self, x):
                return self.fc(x) + torch.ones(4)
        """,
        """
        import torch
        from torch import nn

        class Core(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)
                self.table = torch.ones(4)

            def forward(self, x, h=None):
                if h is None:
                    h = torch.zeros(1, x.size(1), 8)
                return self.gru(x * self.table, h)
        """,
        """
        import torch
        from torch import nn

        torch.set_default_tensor_type(torch.cuda.FloatTensor)

        class Policy(nn.Module):
            def forward(self, x):
                return x + torch.ones(4)
        """,
    )
    INVALID = (
        # calls that fit, or may
        """
        import functools

        import torch
        from torch import nn

        def swapped(function):
            return functools.wraps(function)(lambda x, *rest: function(x))

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.fc = nn.Linear(4, n)

            def two(self, obs, *rest, scale=1.0, **more):
                return torch.ones(4)  # <- ESP205

            @swapped
            def one(self, obs):
                return torch.ones(4)  # <- ESP205

            def rows(self, obs, n):
                return torch.arange(4)  # <- ESP205

            def forward(self, obs, sizes):
                x = self.fc(obs) + self.two(obs, 1, 2, other=3) + Policy.two(self, obs)
                return x + self.one(obs, 1) + self.rows(obs, *sizes)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.n = n
                self.embed = nn.Embedding(n, 8)
                self.log_std = nn.Parameter(torch.zeros(n))
                self.head = nn.Linear(8, n)

            def forward(self, x):
                ids = torch.arange(self.n)  # <- ESP205
                e = self.embed(ids)
                return self.head(x + 1.0) + torch.tensor([1.0, 2.0]) + e  # <- ESP205

            def act(self, obs, mask):
                logits = self.head(obs).relu() * 2
                blocked = torch.zeros(1, self.n)  # <- ESP205
                logits = torch.where(mask, logits, blocked)
                return torch.cat([logits, torch.ones(1, 1).expand(4, 1)], -1)  # <- ESP205

            def evaluate_actions(self, obs, actions: torch.Tensor):
                std = self.log_std.exp() + torch.full((self.n,), 1e-3)  # <- ESP205
                keep = torch.arange(self.n)[None] < actions  # <- ESP205
                table = torch.eye(self.n)  # <- ESP205
                return std, keep, table[actions]

            def get_value(self, obs):
                first = self.head(obs).gather(-1, torch.zeros(4, 1).long())  # <- ESP205
                first = first.matmul(torch.eye(4))  # <- ESP205
                return first - torch.LongTensor([1, 2])  # <- ESP205
        """,
        Case(
            {
                "helpers.py": """
                import torch

                def sequence_mask(lengths, size):
                    steps = torch.arange(size)  # <- ESP205
                    return steps[None, :] < lengths[:, None]
                """,
                "network.py": """
                import torch
                from helpers import sequence_mask
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.head = nn.Linear(8, 4)

                    def forward(self, x, lengths: torch.Tensor):
                        return self.head(x) * sequence_mask(lengths, x.shape[1])
                """,
            }
        ),
        """
        import torch as th
        from torch import nn

        class Base(nn.Module):
            def forward(self, obs):
                return self.head(obs) * self.weights()

            def weights(self):
                return th.linspace(0, 1, 4)  # <- ESP205

        class Policy(Base):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(8, 4)
        """,
    )
