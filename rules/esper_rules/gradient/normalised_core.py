"""ESP390: praise for a recurrent core whose input and output are normalised."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import Case, Category, ModuleModel, NetworkClass, Praise, Rule, Severity, find


class NormalisedCore(Rule):
    """
    ## What it does
    Only praises: a recurrent network with LayerNorm before its core and after it.

    ## Why it matters
    The heads then see features of one scale whatever the length of the episode. It does not stop the hidden state
    itself from drifting: LayerNorm on the output leaves h and c as they are.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 32)

        def forward(self, obs):
            return self.lstm(obs)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU())
            self.lstm = nn.LSTM(16, 32)
            self.lstm_norm = nn.LayerNorm(32)

        def forward(self, obs):
            out, hidden = self.lstm(self.trunk(obs))
            return self.lstm_norm(out), hidden
    ```

    ## Evidence
    Measured on torch 2.13.0: with and without LayerNorm on the LSTM's output, h and c are bit-identical.

    ## References
    - Ba et al., Layer Normalization, arXiv:1607.06450
    """

    code = "ESP390"
    name = "normalised-core"
    summary = "praise only: LayerNorm around the recurrent core"
    category = Category.GRADIENT
    severity = Severity.INFO
    help = ""

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """LayerNorm built before and after the recurrent layer, in the class itself: heirs are not praised again."""
        names = list(net.layers)
        cores = [names.index(name) for name in net.recurrent if name in names]
        if not cores:
            return
        core = min(cores)
        before = any(_normalises(net, name) for name in names[:core])
        after = next((name for name in names[core:] if net.layers[name].ref[0] == "torch.nn.LayerNorm"), None)
        if before and after is not None and (node := net.layers[after].ref[1]) in find(net.model.node, cst.Call):
            yield Praise(
                node, "LayerNorm before and after the recurrent core keeps the features of trunk and heads at one scale"
            )

    VALID = (
        Case(
            {
                "base.py": """
                    from torch import nn

                    class Base(nn.Module):
                        def __init__(self):
                            super().__init__()
                            self.norm = nn.LayerNorm(8)
                            self.gru = nn.GRU(8, 32)
                            self.out_norm = nn.LayerNorm(32)
                """,
                "network.py": """
                    from base import Base

                    class Policy(Base):
                        def forward(self, x):
                            return self.gru(x)
                """,
            },
        ),
        Case(
            """
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.norm = nn.LayerNorm(8)
                    self.gru = nn.GRU(8, 32)
                    self.out_norm = nn.LayerNorm(32)
        """,
            praised=True,
        ),
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(8, 32)
                self.out_norm = nn.LayerNorm(32)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.LayerNorm(8)
                self.trunk = nn.Linear(8, 32)
                self.out_norm = nn.LayerNorm(32)
        """,
    )


def _normalises(net: NetworkClass, name: str) -> bool:
    layer = net.layers[name]
    inner = [value.ref[0] for value in layer.elements() if value.kind == "layer" and isinstance(value.ref, tuple)]
    return "torch.nn.LayerNorm" in (layer.ref[0], *inner)
