"""ESP305: layers in a plain list, tuple or dict are never trained, moved or saved."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Hit,
    Insert,
    ModuleModel,
    NetworkClass,
    Note,
    PlainContainer,
    Repair,
    Rule,
    Severity,
    literal_string,
    plain_containers,
)

_WHY = "the layers are trained and saved from now on, so checkpoints written before lack their keys"


class SubmoduleInPlainContainer(Rule):
    """
    ## What it does
    Reports a list, tuple or dict on self that holds layers or parameters which the constructor made and which
    `forward`, `act`, `evaluate` or a value method uses, while no attribute or `nn.Module` holds them, too.

    ## Why it matters
    Torch registers modules that are attributes. What a plain container holds is missing from `parameters()`: the
    optimiser never changes it, though gradients flow through it and the loss may fall by what the other layers learn.
    It is missing from `state_dict()`, too, and stays behind when the network is moved or cast.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, action_dims):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_heads = [nn.Linear(64, n) for n in action_dims]

        def forward(self, obs):
            features = torch.tanh(self.trunk(obs))
            return [head(features) for head in self.action_heads]
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, action_dims):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_heads = nn.ModuleList([nn.Linear(64, n) for n in action_dims])

        def forward(self, obs):
            features = torch.tanh(self.trunk(obs))
            return [head(features) for head in self.action_heads]
    ```

    ## Fix
    Unsafe: `nn.ModuleList(...)` or `nn.ParameterList(...)` around a list, `nn.ModuleDict(...)` around a dict whose keys
    are written out. The layers are trained and saved from then on, so a checkpoint from before lacks their keys.

    ## Evidence
    On torch 2.13.0, of a network with a trunk and two heads in a list, `parameters()` holds 40 of 94 numbers and
    `state_dict()` two of six entries; a step of SGD leaves both heads as they were, and after `.double()` or
    `.to("meta")` the next call raises. With `nn.ModuleList` all of that is right. Reports: pytorch/pytorch#715,
    pytorch/pytorch#59925, ikostrikov/pytorch-meta-optimizer#11 (LSTM cells that no optimiser saw).

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleList.html
    """

    code = "ESP305"
    name = "submodule-in-plain-container"
    summary = "layers in a plain list or dict are not registered"
    category = Category.GRADIENT
    severity = Severity.CRITICAL
    probe = "device-moves"
    fixable = "unsafe"
    help = "use `nn.ModuleList` or `nn.ModuleDict`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Containers of unregistered modules."""
        for container in plain_containers(net):
            event, added = container.event, container.added
            what = "parameters" if container.parts == "parameters" else "layers"
            yield Hit.at(
                event,
                f"`self.{container.name}` is a plain {event.value.kind}: the {what} in it are not trained, moved or "
                f"saved, but `{container.user.name}` uses them",
                notes=(Note(added.module, added.node, "one is added here"),) if added is not None else (),
                repair=_registering(container),
            )

    VALID = (
        # a loop hands each layer to what Sequential takes as well
        """
        import torch
        from torch import nn

        class Encoder(nn.Module):
            def __init__(self, sizes, strides):
                super().__init__()
                layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
                sequence = list()
                for layer, stride in zip(layers, strides):
                    sequence.append(layer)
                    sequence.append(nn.ReLU())
                self.body = nn.Sequential(*sequence)
                self.layers = layers

            def forward(self, x):
                for layer in self.layers:
                    x = layer(x)
                return x
        """,
        # registered a second time: as attributes, inside a module of torch, by name
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Linear(8, n)
                self.critic = nn.Linear(8, 1)
                self.heads = {"actor": self.actor, "critic": self.critic}
                self.layers = [nn.Linear(8, 8), nn.ReLU()]
                self.body = nn.Sequential(*self.layers)
                blocks = []
                for _ in range(n):
                    blocks.append(nn.Linear(8, 8))
                self.blocks = blocks
                self.registered = nn.ModuleList(blocks)

            def forward(self, x):
                for layer in self.layers + self.blocks:
                    x = layer(x)
                return {name: head(self.body(x)) for name, head in self.heads.items()}
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.heads = []
                for i in range(n):
                    head = nn.Linear(8, 4)
                    self.heads.append(head)
                    self.add_module(f"head{i}", head)

            def forward(self, x):
                return [head(x) for head in self.heads]
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.layers = [nn.Linear(8, 8)]
                self.layers.append(nn.Linear(8, n))
                self.layers = nn.ModuleList(self.layers)
                self.more = []
                self.more.append(nn.Linear(n, n))
                self.stack = nn.Sequential(*self.more)

            def forward(self, x):
                for layer in self.layers:
                    x = layer(x)
                return self.more[0](x)
        """,
        # no modules with parameters, or not made here, or factories
        """
        from functools import partial
        from torch import nn

        class Gate(nn.Module):
            def forward(self, x):
                return x * x.sigmoid()

        class Policy(nn.Module):
            def __init__(self, shared, n):
                super().__init__()
                self.activations = [nn.ReLU(), nn.Sequential(nn.Tanh(), nn.Identity()), Gate()]
                self.makers = {"linear": partial(nn.Linear, 8), "class": nn.Linear}
                self.shared = [shared, shared]
                self.losses = (nn.MSELoss(), nn.L1Loss())
                self.head = self.makers["linear"](n)

            def forward(self, x):
                for f in self.activations:
                    x = f(x)
                return self.shared[0](x) + self.losses[0](x, x) + self.makers["class"](x)
        """,
        # one head hidden on purpose: not to be trained, made by a caller, registered under another name
        """
        import copy
        import torch
        from torch import nn

        def make_head(n):
            return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, n))

        class Policy(nn.Module):
            def __init__(self, critic, n):
                super().__init__()
                self.target_value_head = [nn.Linear(8, 1)]
                self.critic = [critic]
                head = nn.Linear(8, 1)
                self.value_head = (head,)
                self.registered = head
                self.policy_layers = [make_head(n), make_head(n)]
                self.body = nn.ModuleList(self.policy_layers)
                self.scale = nn.Parameter(torch.ones(8))
                self.scales = [self.scale]
                self.shifts = [nn.Parameter(torch.ones(8)), self.scale]
                self.unused = [nn.Parameter(torch.ones(8))]
                self.memory = []

            def forward(self, x):
                x = x * self.scales[0] + self.shifts[1] + len(self.unused) + sum(self.memory)
                return self.policy_layers[0](x), self.value_head[0](x), self.critic[0](x), self.target_value_head[0](x)

        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.scales = [nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))]
                for i, scale in enumerate(self.scales):
                    self.register_parameter(f"scale{i}", scale)

            def forward(self, x):
                return x * self.scales[0]
        """,
        # hidden on purpose, or looked after
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.teacher = [nn.Linear(8, 8)]
                self.frozen = (nn.Linear(8, 8),)
                self.unused = [nn.Linear(8, 8), nn.Linear(8, 8)]

            def forward(self, x):
                return self.teacher[0](x) + self.frozen[0](x) + len(self.unused)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.nets = [nn.Linear(8, 8), nn.Linear(8, 8)]

            def forward(self, x):
                return self.nets[0](x)

            def to(self, device):
                self.nets = [net.to(device) for net in self.nets]
                return super().to(device)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.nets = [nn.Linear(8, 8), nn.Linear(8, 8)]

            def forward(self, x):
                return self.nets[0](x)

            def weights(self):
                return [weight for net in self.nets for weight in net.parameters()]
        """,
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.nets = [nn.Linear(8, 8), nn.Linear(8, 8)]

                    def forward(self, x):
                        return self.nets[0](x)
                """,
                "train.py": """
                from network import Policy
                from torch.optim import Adam

                policy = Policy()
                adam = Adam([weight for net in policy.nets for weight in net.parameters()])
                """,
            }
        ),
        # handed to a network of the project, which may register it
        """
        from torch import nn

        class Stack(nn.Module):
            def __init__(self, layers):
                super().__init__()
                self.layers = nn.ModuleList(layers)

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                layers = [nn.Linear(8, 8), nn.Linear(8, 8)]
                self.layers = layers
                self.stack = Stack(layers)
                self.late = None

            def forward(self, x):
                return self.layers[0](x)

        class Mixin(nn.Module):
            def forward(self, x):
                return x
        """,
    )
    INVALID = (
        # one head in a tuple, where the helper that makes it makes registered ones, too; parameters
        """
        import torch
        from torch import nn

        def make_head(size, actions):
            return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, actions))

        def last(head):
            return head[-1]

        class Policy(nn.Module):
            def __init__(self, sizes, hidden: int):
                super().__init__()
                self.heads = nn.ModuleDict({name: make_head(hidden, size) for name, size in sizes.items()})
                self.value_head = (make_head(hidden, 1),)  # <- ESP305
                nn.init.orthogonal_(last(self.value_head[0]).weight)
                self.scales = [nn.Parameter(torch.ones(hidden))]  # <- ESP305
                self.offsets = {"first": nn.Parameter(torch.zeros(hidden))}  # <- ESP305
                self.log_stds = []  # <- ESP305
                for size in sizes.values():
                    self.log_stds.append(nn.Parameter(torch.zeros(size)))
                self.shifts = [nn.Parameter(torch.zeros(hidden)) for _ in sizes]  # <- ESP305
                self.gains = {name: nn.Parameter(torch.zeros(hidden)) for name in sizes}  # <- ESP305

            def forward(self, x):
                x = x * self.scales[0] + self.offsets["first"] + self.log_stds[0] + self.shifts[0] + self.gains["a"]
                return {name: head(x) for name, head in self.heads.items()}, self.value_head[0](x)
        """,
        """
        from torch import nn

        class ActorCritic(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.critic = [nn.Linear(8, 1)]  # <- ESP305
                self.action_net = (nn.Linear(8, n),)  # <- ESP305

            def get_value(self, x):
                return self.critic[0](self.body(x))

            def act(self, x):
                return self.action_net[0](self.body(x)).argmax(-1)
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.scales = [nn.Parameter(torch.ones(8))]  # <- ESP305
                    self.named = {"a": nn.Parameter(torch.ones(8))}  # <- ESP305

                def forward(self, x):
                    return x * self.scales[0] * self.named["a"]
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.scales = nn.ParameterList([nn.Parameter(torch.ones(8))])
                    self.named = {"a": nn.Parameter(torch.ones(8))}  # <- ESP305

                def forward(self, x):
                    return x * self.scales[0] * self.named["a"]
            """,
        ),
        """
        from torch import nn

        def make_head(size, actions):
            return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, actions))

        class Policy(nn.Module):
            def __init__(self, head_sizes, hidden_dim: int = 8):
                super().__init__()
                self.heads = {name: make_head(hidden_dim, size) for name, size in head_sizes.items()}  # <- ESP305
                self.value_head = make_head(hidden_dim, 1)

            def forward(self, core):
                return {name: head(core) for name, head in self.heads.items()}, self.value_head(core)
        """,
        """
        from torch import nn

        class Head(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.out = nn.Linear(8, n)

            def forward(self, x):
                return self.out(x)

        class Policy(nn.Module):
            def __init__(self, dims):
                super().__init__()
                self.trunk = nn.Linear(8, 8)
                self.heads = {name: Head(n) for name, n in dims.items()}  # <- ESP305
                self.layers = []  # <- ESP305
                for _ in range(3):
                    self.layers.append(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
                self.critics = {}  # <- ESP305
                self.critics["first"] = nn.Linear(8, 1)
                norms = []
                for _ in range(2):
                    norms.append(nn.LayerNorm(8))
                self.norms = tuple(norms)  # <- ESP305

            def features(self, x):
                for layer, norm in zip(self.layers, self.norms):
                    x = norm(layer(x))
                return x

            def act(self, x, mask=None):
                x = self.features(self.trunk(x))
                return {name: head(x).argmax(-1) for name, head in self.heads.items()}

            def get_value(self, x):
                return self.critics["first"](self.features(x))
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                def make_head(n):
                    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, n))

                class Base(nn.Module):
                    def __init__(self, dims):
                        super().__init__()
                        self.build(dims)

                    def build(self, dims):
                        self.heads = [make_head(n) for n in dims]  # <- ESP305
                """,
                "network.py": """
                import torch
                from base import Base

                class Policy(Base):
                    def evaluate_actions(self, x, actions):
                        return torch.cat([head(x) for head in self.heads])
                """,
            }
        ),
        Case(
            """
            import torch
            import torch.nn as tnn
            from torch.nn import Linear

            class Policy(torch.nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.layers = [Linear(4, 8), torch.nn.Tanh(), Linear(8, 8)]  # <- ESP305
                    self.heads = {"actor": Linear(8, n), "critic": Linear(8, 1)}  # <- ESP305
                    self.odd = {0: Linear(8, n), 1: Linear(8, 1)}  # <- ESP305
                    self.mixed = [Linear(8, n), torch.tanh]  # <- ESP305

                def forward(self, x):
                    for layer in self.layers:
                        x = layer(x)
                    return self.heads["actor"](x), self.heads["critic"](x), self.odd[0](x), self.mixed[0](x)
            """,
            fixed="""
            import torch
            import torch.nn as tnn
            from torch.nn import Linear

            class Policy(torch.nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.layers = torch.nn.ModuleList([Linear(4, 8), torch.nn.Tanh(), Linear(8, 8)])
                    self.heads = torch.nn.ModuleDict({"actor": Linear(8, n), "critic": Linear(8, 1)})
                    self.odd = {0: Linear(8, n), 1: Linear(8, 1)}
                    self.mixed = [Linear(8, n), torch.tanh]

                def forward(self, x):
                    for layer in self.layers:
                        x = layer(x)
                    return self.heads["actor"](x), self.heads["critic"](x), self.odd[0](x), self.mixed[0](x)
            """,
        ),
    )


def _registering(container: PlainContainer) -> Repair | None:
    """ModuleList, ModuleDict or ParameterList around the display, where all that it holds are modules or parameters."""
    statement, module = container.event.node, container.event.module
    value = statement.value if isinstance(statement, (cst.Assign, cst.AnnAssign)) else None
    kind = ""
    if isinstance(value, (cst.List, cst.ListComp)):
        kind = "ParameterList" if container.parts == "parameters" else "ModuleList"
    elif (
        container.parts == "modules"
        and isinstance(value, cst.Dict)
        and value.elements
        and all(_is_plain_key(each) for each in value.elements)
    ):
        kind = "ModuleDict"
    names = [name for name in (f"nn.{kind}", f"torch.nn.{kind}") if module.qualify(name) == f"torch.nn.{kind}"]
    if value is None or not kind or not names or not container.parts:
        return None
    changes = (Insert(value, f"{names[0]}(", before=True), Insert(value, ")"))
    return Repair(f"use `{names[0]}`", changes, _WHY)


def _is_plain_key(element: cst.BaseDictElement) -> bool:
    if not isinstance(element, cst.DictElement) or not isinstance(element.key, cst.SimpleString):
        return False
    return "." not in (literal_string(element.key) or ".")
