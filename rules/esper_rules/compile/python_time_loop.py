"""ESP108: a recurrent layer runs step by step in a Python loop where one call for the sequence does the same."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    time_loops,
)


class PythonTimeLoop(Rule):
    """
    ## What it does
    Reports `for` loops over time in hot methods that call `nn.LSTM`, `nn.GRU`, `nn.RNN` or one of their cells once a
    step, while the state passes from step to step untouched and no input depends on an earlier output.

    ## Why it matters
    One call for the whole sequence gives the same numbers and runs without Python in between; on a GPU each step of the
    loop launches its own kernels. Under `torch.compile` the loop is unrolled, so that each new length is compiled anew.

    Silent where the loop is needed: where the state is reset, masked, detached or normalised between steps, where a
    step uses the output of the one before, in loops over layers or agents, and in loops of a literal length.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.cell = nn.LSTMCell(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, h, c):
            outputs = []
            for t in range(obs.shape[0]):
                h, c = self.cell(obs[t], (h, c))
                outputs.append(h)
            return self.action_head(torch.stack(outputs)), h, c
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.lstm = nn.LSTM(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            outputs, hidden = self.lstm(obs, hidden)
            return self.action_head(outputs), hidden
    ```

    ## Evidence
    On torch 2.13.0, `nn.LSTMCell` in a loop and `nn.LSTM` with the same weights give the same outputs (1e-6). Forward
    and backward of 128 steps for 16 environments and 128 units on one CPU core: 35 ms for the cell, 56 ms for one
    `nn.LSTM` call a step, 14 ms for one call. Lengths 2 to 8 compile the loop 7 times. Reported in
    Stable-Baselines-Team/stable-baselines3-contrib#113 and #118 (a step at a time to whole sequences) and
    pytorch/pytorch#97155 (compile time grows with the length).

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    code = "ESP108"
    name = "python-time-loop"
    summary = "a recurrent layer runs step by step in a Python loop"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.MEDIUM
    help = "give the layer the whole sequence in one call, `nn.LSTM` instead of `nn.LSTMCell` and so on"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Loops over time that need no loop."""
        for found in time_loops(net):
            layer = found.call.name.rpartition(".")[2]
            yield Hit(
                found.call.node,
                f"`nn.{layer}` runs once a step in a Python loop, though nothing in the loop changes the state: "
                f"one call of `nn.{layer.removesuffix('Cell')}` for the sequence gives the same",
                module=found.call.module,
                symbol=found.call.function.qualified,
                notes=(Note(found.call.module, found.loop.target, "the loop"),),
            )

    VALID = (
        # The state is reset, masked, detached or normalised between steps.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(8, 64)
                self.gru = nn.GRU(8, 64)
                self.norm = nn.LayerNorm(64)

            def forward(self, obs, h, c, masks):
                for t in range(obs.shape[0]):
                    h, c = self.cell(obs[t], (h * masks[t], c * masks[t]))
                return h

            def act(self, obs, h, c, masks):
                for t in range(obs.shape[0]):
                    h = h * masks[t]
                    h, c = self.cell(obs[t], (h, c))
                return h

            def evaluate(self, obs, hidden, dones):
                for t, done in enumerate(dones):
                    if done:
                        hidden = (torch.zeros_like(hidden[0]), torch.zeros_like(hidden[1]))
                    hidden = self.cell(obs[t], hidden)
                return hidden

            def get_value(self, obs, h, dones):
                for t in range(len(obs)):
                    _, h = self.gru(obs[t : t + 1], h)
                    h[:, dones[t]] = 0.0
                return h

            def predict(self, obs, h, dones):
                for step, done in zip(obs.split(1), dones):
                    _, h = self.gru(step, h)
                    h.mul_(done)
                return h

            def get_action(self, obs, h):
                for chunk in obs.split(16):
                    _, h = self.gru(chunk, h)
                    h = h.detach()
                return h

            def sample(self, obs, h, c):
                for t in range(obs.shape[0]):
                    h, c = self.cell(obs[t], (h, c))
                    h = self.norm(h)
                return h
        """,
        # Outputs are fed back; loops over layers, over agents, of thought, and of a literal length; no loop; no state.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.GRUCell(8, 8)
                self.cells = nn.ModuleList([nn.GRUCell(8, 8), nn.GRUCell(8, 8)])
                self.gru = nn.GRU(8, 8)

            def forward(self, obs, h):
                action = obs[0]
                for t in range(obs.shape[0]):
                    h = self.cell(obs[t] + action, h)
                    action = torch.tanh(h)
                return action

            def act(self, x, hs):
                for i, cell in enumerate(self.cells):
                    h = cell(x, hs)
                for i in range(len(self.cells)):
                    x = self.cells[i](x, x)
                for i in range(len(hs)):
                    hs[i] = self.cell(x[i], hs[i])
                return x

            def evaluate(self, obs, h, n):
                for _ in range(n):
                    h = self.cell(obs, h)
                for t in range(4):
                    h = self.cell(obs[t], h)
                for t in range(n):
                    out = self.cell(obs[t], h)
                for t in range(n):
                    out, _ = self.gru(obs[t])
                return self.gru(obs, h)

            def get_value(self, obs, h, limit):
                for t in range(obs.shape[0]):
                    if t == limit:
                        break
                    h = self.cell(obs[t], h)
                for t in range(obs.shape[0]):
                    if t > limit:
                        h = self.cell(obs[t], h)
                return h

        class Plain(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(8, 8)

            def forward(self, obs):
                return [self.layer(step) for step in obs]
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Base(nn.Module):
            def unroll(self, obs, h):
                outputs = []
                for step in obs.unbind(1):
                    h = self.cell(torch.tanh(self.trunk(step)), h)  # <- ESP108
                    outputs.append(h)
                return torch.stack(outputs, 1), h

        class Policy(Base):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.cell = nn.GRUCell(64, 64)
                self.action_head = nn.Linear(64, 4)

            def forward(self, obs, h):
                features, h = self.unroll(obs, h)
                return self.action_head(features), h
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(8, 64, batch_first=True)
                self.first = nn.LSTMCell(8, 64)
                self.second = nn.LSTMCell(64, 64)
                self.action_head = nn.Linear(64, 4)

            def evaluate_actions(self, obs, hidden):
                logits = []
                for t in range(obs.size(1)):
                    step = obs[:, t].unsqueeze(1)
                    out, hidden = self.lstm(step, hidden)  # <- ESP108
                    logits.append(self.action_head(out))
                return torch.cat(logits, 1), hidden

            def forward(self, obs, first, second):
                outputs = torch.zeros(obs.shape[0], obs.shape[1], 64)
                for t, step in enumerate(obs):
                    h, c = first
                    h, c = self.first(step, (h, c))  # <- ESP108
                    first = (h, c)
                    second = self.second(h, second)
                    outputs[t] = second[0]
                return outputs

            def get_value(self, obs, h):
                total: int = 0
                for t in range(len(obs)):
                    count: int
                    total += 1
                    h = self.lstm(obs[t], h)[1]  # <- ESP108
                    for part in h:
                        print(part)
                return h
        """,
    )
