"""ESP516: both parts of a fresh hidden state are the same tensor, or all its environments are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    INITIAL_STATE,
    Case,
    Category,
    Confidence,
    Frame,
    Function,
    Hit,
    Insert,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
    Val,
    assigned,
    find,
)

_WHY = "what is written to one part in place reaches the others no more"
_EXPANDS = ("expand", "expand_as", "broadcast_to")


class InitialHiddenShared(Rule):
    """
    ## What it does
    Reports a method that makes the initial hidden state and returns one tensor twice: `(z, z)`, `[z] * 2`, or two names
    for it; and one that returns a fresh tensor stretched by `expand`, `expand_as` or `broadcast_to`. An expanded
    parameter is left alone: torch refuses to write to that.

    ## Why it matters
    h and c share their memory, or all environments do. The core only reads them, so that all is well until somebody
    writes: clearing the environments that are done (`h[:, done] = 0`), carrying h over into a buffer by `copy_`,
    filling h with a learnt start. What was meant for one lands in all, and no error says so.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64)

        def get_initial_hidden(self, batch_size):
            zeros = torch.zeros(1, batch_size, 64)
            return zeros, zeros
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64)

        def get_initial_hidden(self, batch_size):
            zeros = torch.zeros(1, batch_size, 64)
            return zeros, zeros.clone()
    ```

    ## Fix
    Unsafe: `.clone()` behind the second of two equal names in one tuple or list, and behind the call that expands. What
    is written to one part in place reaches the others no more, which is the point.

    ## Evidence
    On torch 2.13.0, after `h, c = (z, z)` and `h[:, 0] = 1`, `c[:, 0]` is 1, too. After `h = z.expand(1, 3, 4)`, with z
    of one environment, `h[:, 0] = 1` makes all three 1 without a word, `h[:, done] = 7` all three 7 with a warning that
    this is deprecated, and `h.mul_(2)` raises. The probe of the same claim finds both by the addresses of the parts. No
    public report is known to us.

    ## References
    - https://docs.pytorch.org/docs/stable/tensor_view.html
    """

    code = "ESP516"
    name = "initial-hidden-shared"
    summary = "the parts of a fresh hidden state are the same tensor"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "initial-hidden-alias"
    fixable = "unsafe"
    help = "make each part anew, or clone the second"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Returned pairs, written out, whose parts are one fresh tensor, and stretched parts."""
        for frame in net.frames(INITIAL_STATE):
            if not any(part.made or part.kind == "tensor" for part in frame.result.flat()):
                continue
            for node in _returned(frame.function):
                yield from self._pairs(frame, node)
            if any(_is_stretched(part) for part in frame.result.flat()):
                yield from self._stretched(frame)

    def _stretched(self, frame: Frame) -> Iterator[Hit]:
        """The calls that stretch something in a method whose result is stretched."""
        for event, _ in frame.walk():
            if event.kind == "call" and _is_stretched(event.value) and event.name.rpartition(".")[2] in _EXPANDS:
                stretches = event.name.rpartition(".")[2]
                yield Hit.at(
                    event,
                    f"`{stretches}` makes all environments one memory in what `{frame.function.name}` returns: what is "
                    "written to one lands in all",
                    help="make the state in its full size, or end with `.clone()`",
                    repair=Repair("clone what is expanded", (Insert(event.node, ".clone()"),), why=_WHY),
                )

    def _pairs(self, frame: Frame, node: cst.BaseExpression) -> Iterator[Hit]:
        function = frame.function
        says = f"`{function.name}` returns one tensor twice: what is written to one part lands in the other"
        if isinstance(node, cst.BinaryOperation) and _repeats(node):
            yield Hit(node, says, module=function.module, symbol=function.qualified)
        names = [each.value for each in node.elements] if isinstance(node, (cst.Tuple, cst.List)) else []
        seen: set[str | cst.CSTNode] = set()
        for name in names:
            if not isinstance(name, cst.Name):
                continue
            source = _source(function, name.value)
            if name.value != "None" and source in seen:
                repair = Repair("clone the second part", (Replace(name, f"{name.value}.clone()"),), why=_WHY)
                yield Hit(name, says, module=function.module, symbol=function.qualified, repair=repair)
            seen.add(source)

    VALID = (
        # made anew, by a helper, in a comprehension, by clone
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(n, 8)

            def _zeros(self, batch):
                return torch.zeros(1, batch, 8)

            def init_hidden(self, batch):
                return self._zeros(batch), self._zeros(batch)

            def initial_state(self, batch):
                return [torch.zeros(1, batch, 8) for _ in range(2)]

            def get_initial_state(self, batch):
                h = self._zeros(batch)
                c = h.clone()
                return h, c

            def zero_state(self, batch):
                state: tuple = (torch.zeros(1, batch, 8), torch.zeros(1, batch, 8))
                return state

            def begin_state(self, batch):
                h = self._zeros(batch)
                c = h
                c = torch.zeros(1, batch, 8)
                return (h, c), None, None

            def start_state(self, batch):
                h = self._zeros(batch)
                c = h
                c += 0
                return (h.clone(), c)
        """,
        # a copy at the end, in the same call or later; a parameter, which nobody can write to in place
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(n, 8)
                self.start = nn.Parameter(torch.zeros(1, 1, 8))

            def init_hidden(self, batch):
                z = torch.zeros(1, 1, 8)
                return z.expand(1, batch, 8).contiguous(), z.expand(1, batch, 8) + 0

            def initial_state(self, batch):
                z = torch.zeros(1, 1, 8)
                h = z.expand(1, batch, 8)
                c = h.clone()
                return h.repeat(2, 1, 1), c

            def zero_state(self, batch):
                return self.start.expand(1, batch, 8), self.start.expand(-1, batch, -1)

            def begin_state(self, batch, like):
                z = torch.zeros(1, 1, 8)
                if like is None:
                    return z.repeat(1, batch, 1)
                mask = z.expand_as(like)
                return torch.zeros(1, batch, 8) * mask
        """,
        # numbers and shapes are no tensors; one state is no pair
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(n, 8)

            def init_hidden(self, n):
                return n, n

            def initial_state(self, n):
                zeros = torch.zeros(1, n, 8)
                return zeros * 2

            def zero_state(self, n):
                return [torch.zeros(1, n, 8)] * 1

            def init_state(self, n):
                if n == 0:
                    return
                return [torch.zeros(1, n, 8)] + [torch.zeros(1, n, 8)]
        """,
    )
    INVALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(4, 8)

            def initial_hidden(self, batch: int):
                weight = next(self.parameters())
                zeros = weight.new_zeros((1, batch, 8))
                return zeros, zeros  # <- ESP516
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(n, 8)

            def init_hidden(self, batch):
                return [torch.zeros(1, batch, 8)] * 2  # <- ESP516

            def initial_state(self, batch):
                hidden = (torch.zeros(1, batch, 8),) * 2  # <- ESP516
                return hidden

            def get_initial_state(self, batch):
                zeros = next(self.parameters()).new_zeros(1, batch, 8)
                h = torch.zeros(1, batch, 8)
                c = h
                return (h, c)  # <- ESP516

            def zero_state(self, batch):
                h = c = torch.zeros(1, batch, 8)
                return h, c  # <- ESP516

            def begin_state(self, batch):
                h = c = torch.zeros(1, batch, 8)
                d = c
                return h, d  # <- ESP516
        """,
        # one environment that is stretched over all
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(n, 8)

            def init_hidden(self, batch):
                return torch.zeros(1, 1, 8).expand(-1, batch, -1)  # <- ESP516

            def initial_state(self, like):
                zeros = torch.zeros(1, 1, 8)
                return (
                    zeros.expand_as(like),  # <- ESP516
                    torch.zeros(1, 1, 8).expand_as(like),  # <- ESP516
                )

            def zero_state(self, batch):
                return torch.broadcast_to(self._one(), (1, batch, 8))  # <- ESP516

            def _one(self):
                return next(self.parameters()).new_zeros(1, 1, 8)

            def begin_state(self, batch):
                return self._stretch(batch).unsqueeze(0)

            def _stretch(self, batch):
                return self._one()[0].broadcast_to(batch, 8)  # <- ESP516
        """,
        Case(
            {
                "base.py": """
                import torch
                from torch import nn

                class Recurrent(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.core = nn.LSTM(n, 8)

                    def get_initial_hidden(self, batch, device):
                        zeros = torch.zeros(1, batch, 8, device=device)
                        state = (zeros, zeros)  # <- ESP516
                        return state
                """,
                "network.py": """
                from base import Recurrent

                class Policy(Recurrent):
                    pass
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
                    self.core = nn.LSTMCell(n, 8)

                def init_hidden(self, batch):
                    z = torch.zeros(batch, 8)
                    return [z, z]  # <- ESP516
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = nn.LSTMCell(n, 8)

                def init_hidden(self, batch):
                    z = torch.zeros(batch, 8)
                    return [z, z.clone()]  # <- ESP516
            """,
        ),
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = nn.GRU(n, 8)

                def init_hidden(self, batch):
                    return torch.zeros(1, 1, 8).expand(1, batch, 8)  # <- ESP516
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.core = nn.GRU(n, 8)

                def init_hidden(self, batch):
                    return torch.zeros(1, 1, 8).expand(1, batch, 8).clone()
            """,
        ),
    )


def _returned(function: Function) -> Iterator[cst.BaseExpression]:
    """What a method returns, a name for it replaced by what it was given."""
    for node in find(function.node.body, cst.Return):
        value = node.value
        if isinstance(value, cst.Name):
            value = _given(function, value.value)
        if value is not None:
            yield value


def _given(function: Function, name: str) -> cst.BaseExpression | None:
    """What a name was given, if that happens once and plainly."""
    body = function.node.body
    given = assigned(body, name)
    others: tuple[cst.AnnAssign | cst.AugAssign | cst.NamedExpr, ...]
    others = (*find(body, cst.AnnAssign), *find(body, cst.AugAssign), *find(body, cst.NamedExpr))
    bound = any(isinstance(node.target, cst.Name) and node.target.value == name for node in others)
    return given[0] if len(given) == 1 and not bound else None


def _source(function: Function, name: str) -> str | cst.CSTNode:
    """The name that a name was given, if any (`c = h`), or the call that made it: `h = c = torch.zeros(...)`."""
    given = _given(function, name)
    if isinstance(given, cst.Name):
        inner = _given(function, given.value)
        return inner if isinstance(inner, cst.Call) else given.value
    return given if isinstance(given, cst.Call) else name


def _is_stretched(part: Val) -> bool:
    return "expanded" in part.tags and not part.tags & {"parameter", "raw_parameter"}


def _repeats(node: cst.BinaryOperation) -> bool:
    """`[z] * 2`: a display of one tensor, repeated."""
    display, count = node.left, node.right
    one = isinstance(display, (cst.Tuple, cst.List)) and len(display.elements) == 1
    return one and isinstance(node.operator, cst.Multiply) and isinstance(count, cst.Integer) and count.value != "1"
