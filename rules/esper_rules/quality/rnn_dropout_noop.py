"""ESP605: a recurrent layer is given a dropout that a single layer never applies."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
)

_LAYERS = ("torch.nn.LSTM", "torch.nn.GRU", "torch.nn.RNN")


class RnnDropoutNoop(Rule):
    """
    ## What it does
    Reports `nn.LSTM`, `nn.GRU` or `nn.RNN` with a dropout above 0 and one layer.

    ## Why it matters
    The dropout of a recurrent layer goes between its layers, and with one layer there is no between: nothing is ever
    dropped. Who reads the code believes in a regularisation that does not exist, and who adds a second layer later
    switches it on, in a policy that then acts and is scored under different noise.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64, dropout=0.1)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64)
    ```

    ## Fix
    Safe: the dropout becomes 0, which is what happens now; the warning of torch goes with it.

    ## Evidence
    On torch 2.13.0, `nn.LSTM(8, 16, dropout=0.5)` warns when it is made ("dropout option adds dropout after all but
    last recurrent layer"), and two calls in training mode give the same to the last bit; with `num_layers=2` they
    differ.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    code = "ESP605"
    name = "rnn-dropout-noop"
    summary = "a recurrent layer's dropout needs a second layer"
    category = Category.QUALITY
    severity = Severity.INFO
    confidence = Confidence.HIGH
    fixable = "safe"
    help = "leave the dropout out"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls whose dropout and number of layers are known."""
        init = net.flow.init_frame
        if init is None or not net.recurrent or not net.mentions(b"dropout"):
            return
        for event, _ in init.walk():
            if event.kind != "store" or event.value.kind != "layer" or not isinstance(event.value.ref, tuple):
                continue
            name, call = event.value.ref
            if name not in _LAYERS or not isinstance(call, cst.Call) or "either" in event.value.tags:
                continue
            given = {arg.keyword.value: arg.value for arg in call.args if arg.keyword is not None}
            rate, layers = given.get("dropout"), given.get("num_layers", _third(call))
            starred = any(arg.star for arg in call.args)
            one = layers is None or (isinstance(layers, cst.Integer) and layers.value == "1")
            if isinstance(rate, cst.Float) and float(rate.value) > 0 and one and not starred:
                repair = Repair("leave it out", (Replace(rate, "0.0"),))
                says = f"a dropout of {rate.value} between the layers of {name[9:]}, which has only one, drops nothing"
                yield Hit.at(event, says, repair=repair if _is_at(event.node, call) else None)

    VALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n, rate, layers, **options):
                super().__init__()
                self.two = nn.LSTM(n, 8, num_layers=2, dropout=0.1)
                self.three = nn.LSTM(n, 8, 3, dropout=0.1)
                self.some = nn.GRU(n, 8, layers, dropout=0.1)
                self.unknown = nn.GRU(n, 8, dropout=rate)
                self.none = nn.GRU(n, 8, dropout=0.0)
                self.plain = nn.GRU(n, 8)
                self.given = nn.GRU(n, 8, dropout=0.5, **options)
                self.drop = nn.Dropout(0.1)
                self.either = nn.GRU(n, 8, dropout=0.5) if layers else nn.LSTM(n, 8, 2, dropout=0.5)
                self.size = n
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            dropout = 0.1

            def forward(self, core: nn.LSTM, x):
                self.core = core
                return x
        """,
    )
    INVALID = (
        """
        import torch.nn as nn

        def make(size):
            return nn.RNN(size, 8, dropout=0.2)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.one = nn.LSTM(n, 8, 1, True, dropout=0.1)  # <- ESP605
                self.two = nn.GRU(n, 8, num_layers=1, dropout=0.5)  # <- ESP605
                self.made = make(n)  # <- ESP605
        """,
        Case(
            """
            from torch.nn import GRU, Module

            class Policy(Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = GRU(n, 8, dropout=0.5)  # <- ESP605
            """,
            fixed="""
            from torch.nn import GRU, Module

            class Policy(Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = GRU(n, 8, dropout=0.0)
            """,
        ),
    )


def _third(call: cst.Call) -> cst.BaseExpression | None:
    """The number of layers, where it is given by position."""
    positional = [arg.value for arg in call.args if arg.keyword is None]
    return positional[2] if len(positional) > 2 else None


def _is_at(statement: cst.CSTNode, call: cst.Call) -> bool:
    return getattr(statement, "value", None) is call
