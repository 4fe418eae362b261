"""ESP517: a recurrent layer reads the batch as time, and time as the batch."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    CoreCall,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    Val,
    core_calls,
    named_axes,
)

_ONES = ("1", "T1", "B1")


class BatchFirstMismatch(Rule):
    """
    ## What it does
    Reports the call of a recurrent layer without `batch_first=True` on a tensor whose axes are batch and time, in this
    order, and of one with it on time and batch. Which axis is which is read from comments, docstrings, the names of
    sizes, and from the hidden state, whose second axis has the size of the batch.

    ## Why it matters
    The layer steps through the environments and remembers one for the next, while it takes the steps of each for
    independent rows. Without a state of its own, or with as many steps as environments, nothing raises: the memory is
    that of other environments, and what an action is paired with is noise.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.lstm = nn.LSTM(obs_dim, 64)

        def forward(self, obs):
            batch, time, _ = obs.shape
            core, _ = self.lstm(obs)
            return core
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.lstm = nn.LSTM(obs_dim, 64, batch_first=True)

        def forward(self, obs):
            batch, time, _ = obs.shape
            core, _ = self.lstm(obs)
            return core
    ```

    ## Evidence
    On torch 2.13.0, with `nn.LSTM(4, 8)` and no state, changing row 0 of an input of `[3, 5, 4]` changes the output in
    rows 1 and 2; with `batch_first=True` it changes row 0 alone. With a state of `[1, 3, 8]` the former raises, unless
    there are 3 steps. An update that passed its sequences in the other order is reported in vwxyzjn/cleanrl#83.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    code = "ESP517"
    name = "batch-first-mismatch"
    summary = "a recurrent layer takes the batch for time"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "batch-independence"
    help = "give the layer `batch_first=True`, or the tensor the order that the layer expects: `x.transpose(0, 1)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls of recurrent layers whose input lies the other way round."""
        if not net.recurrent:
            return
        seen = set()
        for frame in net.frames(*set(net.roles.values())):
            for call in core_calls(frame):
                event = call.event
                batch_first = _batch_first(event.target)
                given = event.args[0] if event.args else event.kwargs.get("input")
                if batch_first is None or given is None or event.node in seen:
                    continue
                if _is_swapped(given, call, batch_first=batch_first):
                    seen.add(event.node)
                    order = "batch first" if batch_first else "time first"
                    yield Hit.at(event, f"the layer reads {order}, and gets {named_axes(given.axes)}")

    VALID = (
        # in the right order, transposed, of one step, of a cell, or of unknown order
        """
        from torch import nn, zeros

        class Policy(nn.Module):
            def __init__(self, n, options, first):
                super().__init__()
                self.rnn, self.gru = nn.LSTM(4, n, batch_first=True), nn.GRU(4, n, 1, True, False)
                self.cell, self.free = nn.GRUCell(4, n), nn.GRU(4, n, **options)
                self.loose = nn.GRU(4, n, batch_first=first)
                self.fifth = nn.GRU(4, n, 1, True, first)
                self.given = nn.GRU(*options)

            def forward(self, obs, hidden):
                B, T, _ = obs.shape
                out, _ = self.rnn(obs, hidden)
                out, _ = self.gru(obs.transpose(0, 1))
                steps = [self.cell(obs[:, t]) for t in range(T)]
                return out, self.free(obs), self.loose(obs), self.fifth(obs), self.given(obs), self.rnn(*hidden), steps

            def act(self, obs):
                out, _ = self.gru(obs.unsqueeze(0), zeros(1, obs.shape[0], 8))
                return out, self.rnn(obs[:, None], zeros(1, obs.size(0), 8))

            def evaluate(
                self,
                x,  # [N, dim]
            ):
                image = x[:, None, None]
                return self.gru(x), self.rnn(x.unsqueeze(1)), self.gru(input=x.unsqueeze(0)), self.gru(image)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, n)

            def forward(self, obs):
                return self.body(obs)
        """,
    )
    INVALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body, self.rnn = nn.Linear(4, n), nn.GRU(n, n, batch_first=False)
                self.first = nn.LSTM(n, n, 1, True, True)

            def _remember(self, features, hidden):
                out, hidden = self.rnn(features, hidden)  # <- ESP517
                return out

            def forward(self, obs, hidden):
                batch_size, seq_len = obs.shape[:2]
                obs = obs.view(batch_size, seq_len, -1)
                return self._remember(self.body(obs), hidden)

            def act(
                self,
                obs,  # [batch, dim]
                hidden,
            ):
                return self.rnn(self.body(obs).unsqueeze(1), hidden)  # <- ESP517

            def evaluate(self, obs, actions, hidden):
                '''Scores.

                Args:
                    obs: `[T, B, D]`.
                '''
                return self.first(input=self.body(obs), hx=hidden)  # <- ESP517
        """,
        # the state says where the batch is
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.rnn, self.core = nn.GRU(4, n), nn.LSTM(4, n, batch_first=True)

            def init_hidden(self, batch_size):
                return torch.zeros(1, batch_size, 8), torch.zeros(1, batch_size, 8)

            def forward(self, x, h=None):
                if h is None:
                    h = torch.zeros(1, x.size(0), 8)
                return self.rnn(x, h)  # <- ESP517

            def evaluate(self, x, actions):
                return self.core(torch.relu(x), self.init_hidden(x.shape[1]))  # <- ESP517

            def get_value(
                self,
                x,  # [one_size, other_size, 4]
            ):
                return self.rnn(x, torch.zeros(1, len(x), 8))[0]  # <- ESP517
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Recurrent(nn.Module):
                    def forward(self, x, state):
                        out, state = self.rnn(x, state)  # <- ESP517
                        return out
                """,
                "network.py": """
                from base import Recurrent
                from torch import nn

                class Policy(Recurrent):
                    def __init__(self, n):
                        super().__init__()
                        self.rnn = nn.GRU(4, n)

                    def evaluate(self, x, state):
                        num_envs, num_steps, _ = x.size()
                        return self.forward(x, state)
                """,
            }
        ),
    )


def _batch_first(layer: Val) -> bool | None:
    """Whether a layer is made with `batch_first`; None where that is not written down."""
    made = layer.ref[1] if isinstance(layer.ref, tuple) else None
    if not isinstance(made, cst.Call) or "either" in layer.tags or any(arg.star for arg in made.args):
        return None
    given = [arg.value for arg in made.args if arg.keyword is not None and arg.keyword.value == "batch_first"]
    positional = [arg.value for arg in made.args if arg.keyword is None]
    given += positional[4:5]
    if not given:
        return False
    known = given[0].value if isinstance(given[0], cst.Name) else ""
    return {"True": True, "False": False}.get(known)


def _is_swapped(given: Val, call: CoreCall, *, batch_first: bool) -> bool:
    """Whether the axis that the layer takes for time is known to be the batch."""
    axes = given.axes or ()
    stated = {part.axes[1] for part in call.parts if part.axes is not None and len(part.axes) == 3} - {"", "1"}
    if len(axes) == 2 and axes[0].startswith("*"):
        # Of an input that nothing is known about the state has three axes, and so has it.
        return stated == {f"{axes[0][1:]}#{1 if batch_first else 0}"}
    if len(axes) != 3:
        return False
    time, batch = axes[int(batch_first)], axes[1 - int(batch_first)]
    if stated and time in stated and batch not in stated:
        return True
    return time == "B" and batch in ("T", *_ONES)
