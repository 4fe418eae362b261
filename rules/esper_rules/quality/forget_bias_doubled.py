"""ESP602: the forget gate's bias is filled in bias_ih and in bias_hh, and PyTorch adds the two."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Delete,
    ForgetBiasWrite,
    Guard,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Praise,
    Repair,
    Rule,
    Severity,
    dotted,
    find,
    forget_bias_writes,
)

_WHY = "the forget gates begin with half the bias, so training takes another course"


class ForgetBiasDoubled(Rule):
    """
    ## What it does
    Reports an initialisation that writes the forget gate's slice of both bias vectors of an `nn.LSTM` or `nn.LSTMCell`.

    ## Why it matters
    PyTorch keeps two biases, `bias_ih` and `bias_hh`, and adds them. Filling both with 1 gives a forget bias of 2: the
    gate starts at 0.881 instead of 0.731 and the memory's half-life at 5.5 steps instead of 2.2. That may be wanted,
    but then it should be written; reported settings of 1.0 are not comparable with it.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 32)
            for name, param in self.lstm.named_parameters():
                if "bias" in name:
                    n = param.size(0)
                    param.data[n // 4 : n // 2].fill_(1.0)

        def forward(self, obs, hidden):
            return self.lstm(obs, hidden)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 32)
            for name, param in self.lstm.named_parameters():
                if "bias_ih" in name:
                    n = param.size(0)
                    param.data[n // 4 : n // 2].fill_(1.0)

        def forward(self, obs, hidden):
            return self.lstm(obs, hidden)
    ```

    ## Fix
    Unsafe: the write is put under `if "bias_ih" in name`, or the second of two writes goes. The forget gates begin with
    half the bias, so training takes another course.

    ## Evidence
    Measured on torch 2.13.0: the sum of the two forget biases is 2.0 after the loop above, sigmoid(2) = 0.881. Of ten
    public spellings of this loop, two restrict it to `bias_ih`; the founding audit had praised one that does not.

    ## References
    - Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures, ICML 2015 (forget bias 1)
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    code = "ESP602"
    name = "forget-bias-doubled"
    summary = "the forget bias is written to both bias vectors"
    category = Category.QUALITY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "init-forget-bias"
    fixable = "unsafe"
    help = "write it to one of the two: test for `bias_ih` instead of `bias`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Writes to the forget slice that reach both biases."""
        if not any(layer.endswith(("LSTM", "LSTMCell")) for layer in net.recurrent.values()):
            return
        single: dict[str, dict[str, ForgetBiasWrite]] = {}
        for write in forget_bias_writes(net, module):
            if write.value == 0 or (write.value is not None and abs(write.value) <= 0.5):
                continue
            if write.bias == "both":
                total = f"{2 * write.value:g}" if write.value is not None else "twice the value"
                repair = None
                if write.parameter_name:
                    guard = Guard(write.node, f'"bias_ih" in {write.parameter_name}')
                    repair = Repair("write it to bias_ih only", (guard,), _WHY)
                yield self._hit(write, module, total, (), repair)
            elif write.bias:
                single.setdefault(write.layer, {}).setdefault(write.bias, write)
        for writes in single.values():
            if not {"ih", "hh"} <= writes.keys():
                continue
            first, second = writes["ih"], writes["hh"]
            total = (
                f"{first.value + second.value:g}"
                if first.value is not None and second.value is not None
                else "the sum of both"
            )
            notes = (Note(module, first.node, "the other bias is written here"),)
            yield self._hit(
                second, module, total, notes, Repair("write it to bias_ih only", (Delete(second.node),), _WHY)
            )

    def _hit(
        self,
        write: ForgetBiasWrite,
        module: ModuleModel,
        total: str,
        notes: tuple[Note, ...],
        repair: Repair | None,
    ) -> Hit:
        return Hit(
            write.node,
            f"the forget gate's bias is written to bias_ih and to bias_hh, which PyTorch adds: it is {total}",
            symbol=write.symbol,
            notes=notes,
            repair=repair,
        )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Orthogonal initialisation with a small gain for the policy heads."""
        if b"orthogonal_" not in module.source.data:
            return
        gains: dict[str, cst.Call] = {}
        for function in net.model.own_methods.values():
            for call in find(function.node, cst.Call):
                if module.qualify(dotted(call.func)) == "torch.nn.init.orthogonal_":
                    for arg in call.args:
                        if arg.keyword is not None and arg.keyword.value == "gain":
                            gains.setdefault(module.code(arg.value), call)
        if "0.01" in gains and len(gains) > 1:
            listed = ", ".join(sorted(gains))
            yield Praise(
                gains["0.01"],
                f"orthogonal initialisation with a gain per role ({listed}): the policy starts near uniform",
            )

    VALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                for name, parameter in self.lstm.named_parameters():
                    if name.startswith("weight"):
                        nn.init.orthogonal_(parameter)
                    elif name == "bias_ih_l0":
                        parameter.data.chunk(4)[1].fill_(1.0)
                for name, parameter in self.lstm.named_parameters():
                    if "weight" in name:
                        parameter.data.chunk(4)[1].fill_(1.0)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                for name, param in self.lstm.named_parameters():
                    if "bias" in name:
                        param.data.zero_()
                        n = param.size(0)
                        param.data[n // 4 : n // 2].fill_(0.5)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(8, 32)
                self.lstm_like = nn.Linear(8, 128)
                n = 128
                self.lstm_like.bias.data[n // 4 : n // 2].fill_(1.0)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                for name, param in self.lstm.named_parameters():
                    if "bias" in name:
                        if "bias_hh" in name:
                            continue
                        n = param.size(0)
                        param.data[n // 4 : n // 2].fill_(1.0)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.core = nn.LSTMCell(8, size)
                nn.init.constant_(self.core.bias_ih[size : 2 * size], 1.0)
        """,
        Case(
            """
            import math
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.trunk = nn.Linear(8, 64)
                    self.action_head = nn.Linear(64, 4)
                    nn.init.orthogonal_(self.trunk.weight, gain=math.sqrt(2))
                    nn.init.orthogonal_(self.action_head.weight, gain=0.01)
                    nn.init.zeros_(self.action_head.bias)
            """,
            praised=True,
        ),
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                nn.init.orthogonal_(self.action_head.weight, 0.01)
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
                    if "weight" in name:
                        nn.init.orthogonal_(parameter)
                    else:
                        nn.init.zeros_(parameter)
                        parameter.data.chunk(4)[1].fill_(1.0)  # <- ESP602
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.core = nn.LSTMCell(8, size)
                nn.init.constant_(self.core.bias_ih[size : 2 * size], 1.0)
                nn.init.constant_(self.core.bias_hh[size : 2 * size], 1.0)  # <- ESP602
        """,
        """
        import torch
        from torch import nn

        def init_lstm(lstm):
            for names in lstm._all_weights:
                for name in filter(lambda n: "bias" in n, names):
                    bias = getattr(lstm, name)
                    n = bias.size(0)
                    start, end = n // 4, n // 2
                    bias.data[start:end].fill_(1.0)  # <- ESP602

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                init_lstm(self.lstm)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 32)
                h = self.lstm.hidden_size
                with torch.no_grad():
                    for name, p in self.lstm.named_parameters():
                        if name.startswith("bias"):
                            p[h : h * 2] = 1  # <- ESP602
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.lstm = nn.LSTM(8, n)
                    for name, p in self.lstm.named_parameters():
                        if "bias" in name:
                            nn.init.zeros_(p)
                            p.data[  # <- ESP602
                                n : 2 * n
                            ].fill_(1.0)
                    for names in self.lstm._all_weights:
                        for bias in [getattr(self.lstm, name) for name in names if name.startswith("bias")]:
                            bias.data[n : 2 * n].fill_(2.0)  # <- ESP602
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.lstm = nn.LSTM(8, n)
                    for name, p in self.lstm.named_parameters():
                        if "bias" in name:
                            nn.init.zeros_(p)
                            if "bias_ih" in name:
                                p.data[  # <- ESP602
                                n : 2 * n
                            ].fill_(1.0)
                    for names in self.lstm._all_weights:
                        for bias in [getattr(self.lstm, name) for name in names if name.startswith("bias")]:
                            bias.data[n : 2 * n].fill_(2.0)  # <- ESP602
            """,
        ),
    )
