"""ESP608: the stacked weight of an LSTM or a GRU is made orthogonal as a whole, so that no gate's matrix is."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    fused_writes,
)


class FusedOrthogonalGates(Rule):
    """
    ## What it does
    Reports `orthogonal_` on the whole recurrent weight of an `nn.LSTM` or `nn.GRU`, which holds one matrix for each
    gate, one upon the other.

    ## Why it matters
    Orthogonal recurrent weights are chosen because such a matrix keeps the length of what it is applied to. The columns
    of the stack are orthonormal together; each gate's square block of it is not orthogonal at all, is nearly singular
    and half as large. Well-known implementations do it this way, and their results were reached with it: change it
    when you mean orthogonal gates, not when you mean to reproduce theirs.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 64)
            for name, parameter in self.lstm.named_parameters():
                if "weight" in name:
                    nn.init.orthogonal_(parameter)

        def forward(self, obs, hidden):
            return self.lstm(obs, hidden)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 64)
            for name, parameter in self.lstm.named_parameters():
                if "weight" in name:
                    for gate in parameter.data.chunk(4):
                        nn.init.orthogonal_(gate)

        def forward(self, obs, hidden):
            return self.lstm(obs, hidden)
    ```

    ## Evidence
    On torch 2.13.0, the singular values of one gate's block of a weight of 128 units lie between 0.002 and 0.85 after
    `orthogonal_` on the whole, and all are 1.0 after `orthogonal_` on each block. Reported in vwxyzjn/cleanrl#358.

    ## References
    - Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks, ICLR 2014
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html (the shape of `weight_hh_l`)
    """

    code = "ESP608"
    name = "fused-orthogonal-gates"
    summary = "the stacked gates of a recurrent weight are made orthogonal as one matrix"
    category = Category.QUALITY
    severity = Severity.INFO
    confidence = Confidence.HIGH
    probe = "init-gates"
    help = "initialise `weight.chunk(4)` (GRU: 3) one by one"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Whole recurrent weights that are made orthogonal."""
        for write in fused_writes(net):
            yield Hit(
                write.call,
                f"this makes a stack of {write.gates} gates orthogonal as one matrix: no gate's own matrix is",
                help=f"initialise `weight.chunk({write.gates})` one by one",
                module=write.function.module,
                symbol=write.function.qualified,
            )

    VALID = (
        # gate by gate, other layers, weights of the input alone
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.lstm = nn.LSTM(8, size)
                self.head = nn.Linear(size, 4)
                self.rnn = nn.RNN(8, size)
                for name, p in self.lstm.named_parameters():
                    if "weight" in name:
                        for gate in p.data.chunk(4):
                            nn.init.orthogonal_(gate)
                        for k in range(4):
                            nn.init.orthogonal_(p.data[k * size : (k + 1) * size])
                    if "weight_ih" in name:
                        nn.init.orthogonal_(p)
                nn.init.orthogonal_(self.head.weight, gain=0.01)
                nn.init.orthogonal_(self.rnn.weight_hh_l0)
                nn.init.orthogonal_(self.lstm.weight_ih_l0)
                nn.init.orthogonal_(getattr(self.lstm, "weight_ih_l0"))
                nn.init.orthogonal_(torch.empty(4, 4))
                for p in self.parameters():
                    if p.dim() == 2:
                        nn.init.orthogonal_(p)
                for p in [self.head.weight]:
                    nn.init.orthogonal_(p)
                for p in sorted(self.lstm.parameters()):
                    nn.init.orthogonal_(p)
                first = second = self.head.weight
                third = first
                fourth = third
                nn.init.orthogonal_(fourth)
                for name in ("weight_ih_l0",):
                    nn.init.orthogonal_(self.lstm.get_parameter(name))
                nn.init.orthogonal_()
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 8)
                self.gru = nn.GRU(8, 8)
                for module in self.modules():
                    if isinstance(module, (nn.LSTM, nn.GRU)):
                        nn.init.orthogonal_(module.weight_hh_l0)
                nn.init.zeros_(self.lstm.bias_hh_l0)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 8)
                self.head = nn.Linear(8, 2)
                nn.init.xavier_uniform_(self.lstm.weight_hh_l0)
        """,
    )
    INVALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                for name, parameter in self.lstm.named_parameters():
                    if name.startswith("weight"):
                        for gate in (parameter,):
                            nn.init.orthogonal_(gate, gain=1.0)  # <- ESP608
                    else:
                        nn.init.zeros_(parameter)
        """,
        """
        import torch
        from torch import nn
        from torch.nn.init import orthogonal_ as orthogonal

        def init_recurrent(lstm, gain=1.0):
            for name, p in lstm.named_parameters():
                if "weight_hh" in name:
                    orthogonal(p.data, gain)  # <- ESP608
            weight = lstm.weight_hh_l0
            orthogonal(weight)  # <- ESP608

        def init_weights(m):
            if isinstance(m, nn.Linear):
                nn.init.orthogonal_(m.weight)
            elif isinstance(m, nn.LSTM):
                for p in m.parameters():
                    if p.dim() > 1:
                        nn.init.orthogonal_(p)  # <- ESP608

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = nn.LSTM(8, 32)
                init_recurrent(self.core)
                self.apply(init_weights)

            def reset_parameters(self):
                nn.init.orthogonal_(self.core.weight_hh_l0)  # <- ESP608
                for k in range(2):
                    nn.init.orthogonal_(getattr(self.core, f"weight_hh_l{k}"))  # <- ESP608
                for names in self.core._all_weights:
                    for name in names:
                        if "weight" in name:
                            nn.init.orthogonal_(getattr(self.core, name))  # <- ESP608
                for name, p in self.named_parameters():
                    if "core.weight_hh" in name:
                        nn.init.orthogonal_(p)  # <- ESP608
        """,
        Case(
            {
                "base.py": """
                import torch.nn as nn

                class Recurrent(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.gru = nn.GRUCell(n, 8)
                        self._init()

                    def _init(self):
                        nn.init.orthogonal_(self.gru.weight_hh.data)  # <- ESP608
                """,
                "network.py": """
                from base import Recurrent

                class Policy(Recurrent):
                    pass
                """,
            }
        ),
    )
