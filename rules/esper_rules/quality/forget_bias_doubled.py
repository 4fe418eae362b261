"""ESP602: the forget gate's bias is filled in bias_ih and in bias_hh, which PyTorch adds, or another gate's bias is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Delete,
    GateBiasWrite,
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
    gate_bias_writes,
)

_GATES = ("input", "forget", "cell", "output")
_FORGET = 1
_WHY = "the forget gates begin with half the bias, so training takes another course"


class ForgetBiasDoubled(Rule):
    """
    ## What it does
    Reports an initialisation that writes the forget gate's slice of both bias vectors of an `nn.LSTM` or `nn.LSTMCell`,
    and one that opens another gate and not this one: PyTorch's order is input, forget, cell, output.

    ## Why it matters
    PyTorch keeps two biases, `bias_ih` and `bias_hh`, and adds them. Filling both with 1 gives a forget bias of 2: the
    gate starts at 0.881 instead of 0.731 and the memory's half-life at 5.5 steps instead of 2.2. That may be wanted,
    but then it should be written; reported settings of 1.0 are not comparable with it. Other libraries stack the gates
    in other orders (TensorFlow: input, cell, forget, output), so a slice that was copied from there opens another gate,
    and the memory is as short as ever.

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
    `add_(1.0)` in the same loop, upon torch's own initialisation, gives 2.0, too. With ones in the first quarter, the
    sums are 1, 0, 0, 0: it is the input gate's.

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
        """Writes to the forget slice that reach both biases, and functions that write to another gate's alone."""
        if not any(layer.endswith(("LSTM", "LSTMCell")) for layer in net.recurrent.values()):
            return
        doubled: list[GateBiasWrite] = []
        for found in gate_bias_writes(net):
            writes = [write for write in found if write.value is None or write.value > 0.5]
            if any(write.gate == _FORGET for write in found):
                doubled += [write for write in writes if write.gate == _FORGET]
            elif len({write.gate for write in writes}) == 1 and writes[0].of_bias and writes[0].value is not None:
                yield self._misplaced(writes[0])
        yield from self._doubled(doubled, module)

    def _doubled(self, writes: list[GateBiasWrite], module: ModuleModel) -> Iterator[Hit]:
        """Writes to the forget slice that reach both biases, by one statement or by two."""
        single: dict[str, dict[str, GateBiasWrite]] = {}
        for write in writes:
            if write.bias == "both":
                repair = None
                if write.parameter_name:
                    guard = Guard(write.node, f'"bias_ih" in {write.parameter_name}')
                    repair = Repair("write it to bias_ih only", (guard,), _WHY)
                yield _doubled(write, _sum(write, write), repair=repair)
            elif write.bias:
                single.setdefault(write.layer, {}).setdefault(write.bias, write)
        for pair in single.values():
            if {"ih", "hh"} <= pair.keys():
                first, second = pair["ih"], pair["hh"]
                notes = (Note(module, first.node, "the other bias is written here"),)
                repair = Repair("write it to bias_ih only", (Delete(second.node),), _WHY)
                yield _doubled(second, _sum(first, second), notes=notes, repair=repair)

    def _misplaced(self, write: GateBiasWrite) -> Hit:
        """A function that opens one gate, and it is not the forget gate."""
        return Hit(
            write.node,
            f"this writes to the {_GATES[write.gate]} gate's bias, and the forget gate's stays as it is: PyTorch's "
            "order is input, forget, cell, output",
            help="write to the second quarter, `bias.chunk(4)[1]`",
            symbol=write.symbol,
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
        # both gates are meant, another value, no bias, no four gates; one of two biases
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.lstm = nn.LSTM(8, size)
                self.table = nn.Parameter(torch.zeros(4 * size))
                n = 4 * size
                for name, p in self.lstm.named_parameters():
                    if "bias_ih" in name:
                        p.data[n // 4 : n // 2].fill_(2.0)
                        p.data[: n // 4].fill_(1.0)

            def chrono(self, size):
                nn.init.constant_(self.lstm.bias_ih_l0[:size], 1.0)
                nn.init.constant_(self.lstm.bias_ih_l0[: size // 3], 1.0)
                nn.init.constant_(self.lstm.bias_ih_l0[size : 3 * size], 1.0)
                nn.init.constant_(self.lstm.bias_ih_l0[2 * size : 3], 1.0)
                nn.init.constant_(self.lstm.bias_ih_l0[::4], 1.0)
                nn.init.constant_(self.lstm.bias_ih_l0[0:0], 1.0)

            def tables(self, size):
                self.table.data[2 * size : 3 * size].fill_(1.0)
                self.lstm.bias_ih_l0.data[2 * size : 3 * size].fill_(0.0)
                self.lstm.bias_ih_l0.data[2 * size : 3 * size] -= 1.0
                self.lstm.bias_ih_l0.data[2 * size : 3 * size].fill_(size)

            def both_gates(self, n):
                self.lstm.bias_ih_l0.data[n // 2 : 3 * n // 4] = 1.0
                self.lstm.bias_ih_l0.data[3 * n // 4 :] = 1.0

            def one(self):
                for name, p in self.lstm.named_parameters():
                    if not ("weight" in name or "bias_hh" in name):
                        p.data.chunk(4)[1].fill_(1.0)
                for name, p in self.lstm.named_parameters():
                    if "bias_ih" in name:
                        p.data.chunk(4)[1].fill_(1.0)
                    elif "bias_hh" not in name:
                        p.data.zero_()
        """,
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
        # another gate is opened than was meant
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.lstm = nn.LSTM(8, size)
                for name, p in self.lstm.named_parameters():
                    if name.startswith("bias_ih"):
                        n = p.size(0)
                        p.data[n // 2 : 3 * n // 4].fill_(1.0)  # <- ESP602

            def first(self):
                for name, p in self.lstm.named_parameters():
                    if "weight" in name:
                        nn.init.orthogonal_(p)
                    else:
                        nn.init.zeros_(p)
                        torch.chunk(p, 4)[0].fill_(1.0)  # <- ESP602

            def second(self, size):
                nn.init.ones_(self.lstm.bias_ih_l0[2 * size : 3 * size])  # <- ESP602

            def third(self):
                self.lstm.bias_ih_l0.data[: self.lstm.hidden_size] = 1.0  # <- ESP602

            def fourth(self):
                self.lstm.bias_hh_l0.data.view(4, -1)[3] += 1.0  # <- ESP602

            def fifth(self, n):
                nn.init.constant_(self.lstm.bias_ih_l0[n // 4 * 3 :], 1.0)  # <- ESP602

            def sixth(self, size):
                nn.init.constant_(self.lstm.bias_ih_l0[3 * size :], 1.0)  # <- ESP602

            def seventh(self):
                nn.init.constant_(self.lstm.bias_ih_l0[64:96], 1.0)  # <- ESP602
        """,
        # added to both; two branches of one loop
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.lstm = nn.LSTM(8, size)
                for name, p in self.lstm.named_parameters():
                    if "bias" in name:
                        p.data.chunk(4)[1].add_(1.0)  # <- ESP602

            def later(self, size):
                for name, p in self.lstm.named_parameters():
                    if "bias_ih" in name:
                        p.data[size : 2 * size] += 1.0
                    elif "bias_hh" in name:
                        p.data[size : 2 * size] += 1.0  # <- ESP602

            def layers(self, size):
                for k in range(2):
                    getattr(self.lstm, f"bias_ih_l{k}").data[size : 2 * size].fill_(1.0)
                    getattr(self.lstm, f"bias_hh_l{k}").data[size : 2 * size].fill_(1.0)  # <- ESP602

            def unknown(self, size, much):
                self.lstm.bias_ih_l0.data[size : 2 * size].fill_(much)
                self.lstm.bias_hh_l0.data[size : 2 * size].fill_(much)  # <- ESP602

            def either(self, size):
                for name, p in self.lstm.named_parameters():
                    if "bias_ih" in name or "bias_hh" in name:
                        p.data[size : 2 * size].fill_(1.0)  # <- ESP602
        """,
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


def _sum(first: GateBiasWrite, second: GateBiasWrite) -> str:
    """What the two writes give together."""
    if first.value is None or second.value is None:
        return "the sum of both"
    total = f"{first.value + second.value:g}"
    return f"{total} more than it was" if first.adds or second.adds else total


def _doubled(write: GateBiasWrite, total: str, *, notes: tuple[Note, ...] = (), repair: Repair | None) -> Hit:
    return Hit(
        write.node,
        f"the forget gate's bias is written to bias_ih and to bias_hh, which PyTorch adds: it is {total}",
        symbol=write.symbol,
        notes=notes,
        repair=repair,
    )
