"""ESP201: a fresh hidden state is made without dtype, so only float32 networks can use it."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    by_line,
    fresh_hidden_states,
    like_the_weight,
    other_precision,
    pinned_states,
)


class HiddenWithoutDtype(Rule):
    """
    ## What it does
    Reports a factory call (`torch.zeros` and its kin) whose tensor becomes the hidden state of a recurrent network and
    whose dtype is never given, neither in the call nor by a later `.to(...)`, `.type_as(...)` or cast. Also, at `low`,
    a method for initial states that writes float32 down: whoever converts the network has to know of it.

    ## Why it matters
    The state is float32 whatever the parameters are. A network in bfloat16, half or double then fails at its first step
    without a stored state; for a bfloat16 LSTM on the CPU the error can come from oneDNN and name no dtype. Under
    autocast the opposite happens: an LSTM may return h and c in low precision (on the CPU with oneDNN it does in
    bfloat16), and when they are fed to a float32 forward later, that one fails. The finding is `medium` where the class
    speaks of its dtype, or a file that imports it (no test) casts a module or sets another default dtype. Else all is
    float32, and it is `low`, also under autocast: it takes a fresh state in float32 beside float32 parameters, and
    where the state leaves the autocast region is not followed.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, hidden_dim, num_actions):
            super().__init__()
            self.hidden_dim = hidden_dim
            self.lstm = nn.LSTM(obs_dim, hidden_dim, batch_first=True)
            self.action_head = nn.Linear(hidden_dim, num_actions)

        def initial_state(self, batch, device):
            h = torch.zeros(1, batch, self.hidden_dim, device=device)
            return h, h.clone()

        def forward(self, obs, hidden):
            out, hidden = self.lstm(obs, hidden)
            return self.action_head(out), hidden
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, hidden_dim, num_actions):
            super().__init__()
            self.hidden_dim = hidden_dim
            self.lstm = nn.LSTM(obs_dim, hidden_dim, batch_first=True)
            self.action_head = nn.Linear(hidden_dim, num_actions)

        def initial_state(self, batch):
            weight = self.lstm.weight_hh_l0
            h = weight.new_zeros(1, batch, self.hidden_dim)
            return h, h.clone()

        def forward(self, obs, hidden):
            out, hidden = self.lstm(obs, hidden)
            return self.action_head(out), hidden
    ```

    ## Fix
    Safe: `dtype=` of the recurrent layer's weight, `torch.zeros(..., dtype=self.lstm.weight_hh_l0.dtype)`. A float32
    network gets what it had; with any other the state could not be fed to the layer. Offered where the class's own
    constructor makes just one recurrent layer, under all circumstances, and does not ask for the state before. Unsafe
    where an ancestor was not read, or a hidden state goes to NumPy without `.cpu()`.

    ## Evidence
    On torch 2.13.0 (CPU), an `nn.LSTM` in bfloat16, half or double raises for a float32 state; a float32 one under
    bfloat16 autocast does not. Reports of the error: pytorch/pytorch#45048, keras-team/keras#15140,
    pytorch/TensorRT#2666.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.Tensor.new_zeros.html
    """

    code = "ESP201"
    name = "hidden-without-dtype"
    summary = "a fresh hidden state is made without dtype"
    category = Category.DEVICE
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "hidden-dtype"
    fixable = "safe"
    help = "take dtype and device from a parameter: `weight.new_zeros(...)`, or `dtype=weight.dtype`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Factories of hidden states that leave the dtype open."""
        for state, *others in by_line(fresh_hidden_states(net, "dtype")):
            matters = not net.is_test_code and other_precision(net)
            yield Hit(
                state.made.node,
                f"`{state.made.function}` makes the hidden state without `dtype`: "
                f"{state.use} is float32 whatever the parameters are",
                module=state.made.module,
                symbol=state.symbol,
                severity=None if matters else Severity.LOW,
                notes=tuple(Note(each.made.module, each.made.node, "here is another part of it") for each in others),
                repair=like_the_weight(net, (state, *others), "dtype"),
            )
        for event, aspect in pinned_states(net):
            if aspect == "dtype":
                told = f"`{event.function.name}` makes the hidden state in float32, whatever the parameters are"
                yield Hit.at(event, told, severity=Severity.LOW)

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)
                self.h0 = nn.Parameter(torch.zeros(1, 1, 8))

            def init_hidden(self, x):
                return torch.zeros(1, x.shape[1], 8, device=x.device).to(x.dtype)

            def forward(self, x, h=None):
                if h is None:
                    h = torch.zeros_like(self.h0)
                return self.gru(x, h)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def forward(self, x, masks):
                table = torch.zeros(3, 3, device=x.device)
                out, h = self.gru(x)
                return out, table
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def init_hidden(self, batch, device):
                return torch.zeros(1, batch, 8, device=device)

            def forward(self, x, h):
                return self.gru(x, h)

        def train(x):
            net = Policy()
            h = net.init_hidden(4, x.device).to(x.dtype)
            return net(x, h)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, n)

            def initial_hidden(self, batch):
                weight = self.gru.weight_hh_l0
                return weight.new_zeros(1, batch, 8, dtype=torch.float32)  # <- ESP201

            def init_state(self, batch, device):
                return torch.zeros(1, batch, 8, dtype=torch.float32, device=device)  # <- ESP201

            def zero_state(self, batch):
                return self.gru.weight_hh_l0.new_zeros(1, batch, 8).cpu()

            def forward(self, x, h):
                return self.gru(x, h)
        """,
        """
        from torch import nn, zeros

        class Policy(nn.Module):
            def __init__(self, layers):
                super().__init__()
                self.layers = layers
                self.rnn = nn.LSTM(4, 8, layers)

            def forward(self, x, state=None):
                if state is None:
                    shape = [self.layers, x.size(1), 8]
                    state = tuple(zeros(*shape, device=x.device) for _ in range(2))  # <- ESP201
                return self.rnn(x, state)
        """,
        """
        import torch
        from torch import nn

        def blank(batch, size, device):
            return torch.zeros(size=(1, batch, size), device=device)  # <- ESP201

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = nn.GRU(4, 8)

            def _fresh(self, x):
                return blank(x.size(1), 8, x.device)

            def forward(self, x, hxs=None):
                hxs = self._fresh(x) if hxs is None else hxs
                return self.core(x, hxs)
        """,
        """
        import torch as th
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(4, 8)
                self.hidden = None

            def reset(self, n, device):
                self.hidden = (
                    th.randn(*[n, 8], device=device),  # <- ESP201
                    th.zeros((n, 8)).to(device),  # <- ESP201
                )

            def forward(self, x):
                self.hidden = self.cell(x, self.hidden)
                return self.hidden[0]
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.gru = nn.GRU(4, n)

                def init_hidden(self, batch, device):
                    return torch.zeros(  # <- ESP201
                        1, batch, (self.gru.hidden_size), device=device,  # one layer
                    )

                def forward(this, x, h=None):
                    if h is None:
                        h = torch.randn(1, 2, 8, device=x.device)  # <- ESP201
                    return this.gru(x, h)
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.gru = nn.GRU(4, n)

                def init_hidden(self, batch, device):
                    return torch.zeros(  # <- ESP201
                        1, batch, (self.gru.hidden_size), device=device, dtype=self.gru.weight_hh_l0.dtype,  # one layer
                    )

                def forward(this, x, h=None):
                    if h is None:
                        h = torch.randn(1, 2, 8, device=x.device, dtype=this.gru.weight_hh_l0.dtype)  # <- ESP201
                    return this.gru(x, h)
            """,
        ),
        Case(
            """
            import torch
            from torch import nn

            def blank(n):
                return torch.zeros(1, 1, n, device="cuda")  # <- ESP201

            class Early(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.reset("cpu")
                    self.gru = nn.GRU(4, n)

                def reset(self, device):
                    self.hidden = torch.zeros(1, 1, 8, device=device)  # <- ESP201

                def forward(self, x):
                    out, self.hidden = self.gru(x, self.hidden)
                    return out

            class Maybe(nn.Module):
                def __init__(self, n, recurrent):
                    super().__init__()
                    self.n = n
                    if recurrent:
                        self.core = nn.GRU(4, n)

                def init_hidden(self, device):
                    return torch.zeros(1, 1, self.n, device=device)  # <- ESP201

                def forward(self, x, h):
                    return self.core(x, h)

            class Two(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.actor = nn.GRU(4, n)
                    self.critic = nn.GRU(4, n)

                def init_hidden(self, device):
                    return torch.zeros(1, 1, 8, device=device)  # <- ESP201

                def forward(self, x, h):
                    return self.actor(x, h), self.critic(x, blank(8))

            class Sized(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.cell = nn.GRUCell(4, n)

                @staticmethod
                def init_hidden(n, device):
                    return torch.zeros(1, n, device=device)  # <- ESP201

                def forward(self, x, h=None):
                    h = torch.full((1, 8), 0.0, device=x.device) if h is None else h  # <- ESP201
                    return self.cell(x, h)
            """,
            fixed="""
            import torch
            from torch import nn

            def blank(n):
                return torch.zeros(1, 1, n, device="cuda")  # <- ESP201

            class Early(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.reset("cpu")
                    self.gru = nn.GRU(4, n)

                def reset(self, device):
                    self.hidden = torch.zeros(1, 1, 8, device=device)  # <- ESP201

                def forward(self, x):
                    out, self.hidden = self.gru(x, self.hidden)
                    return out

            class Maybe(nn.Module):
                def __init__(self, n, recurrent):
                    super().__init__()
                    self.n = n
                    if recurrent:
                        self.core = nn.GRU(4, n)

                def init_hidden(self, device):
                    return torch.zeros(1, 1, self.n, device=device)  # <- ESP201

                def forward(self, x, h):
                    return self.core(x, h)

            class Two(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.actor = nn.GRU(4, n)
                    self.critic = nn.GRU(4, n)

                def init_hidden(self, device):
                    return torch.zeros(1, 1, 8, device=device)  # <- ESP201

                def forward(self, x, h):
                    return self.actor(x, h), self.critic(x, blank(8))

            class Sized(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.cell = nn.GRUCell(4, n)

                @staticmethod
                def init_hidden(n, device):
                    return torch.zeros(1, n, device=device)  # <- ESP201

                def forward(self, x, h=None):
                    h = torch.full((1, 8), 0.0, device=x.device) if h is None else h  # <- ESP201
                    return self.cell(x, h)
            """,
        ),
    )
