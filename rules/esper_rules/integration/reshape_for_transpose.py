"""ESP522: a `view` or `reshape` is to swap two axes, and takes the elements of one for those of the other."""

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
    named_axes,
)


class ReshapeForTranspose(Rule):
    """
    ## What it does
    Reports `view`, `reshape` and `unflatten` of a tensor whose outermost axis is time to sizes that begin with the
    batch, or the other way round. Which axis is which is read from comments, docstrings and the names of sizes, and
    followed through layers, `transpose`, `flatten`, `cat` and `stack`.

    ## Why it matters
    A view keeps the order of the elements in memory: `[T, B, F]` seen as `[B, T, F]` has the right shape, and in row b
    the steps of several environments. The shapes fit, nothing raises, and log-probs, values and resets belong to other
    actions than the ones they are paired with. For B == T == 1 all is well.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.cell = nn.GRUCell(obs_dim, 64)

        def forward(self, obs, hidden):
            batch, time, _ = obs.shape
            steps = []
            for t in range(time):
                hidden = self.cell(obs[:, t], hidden)
                steps.append(hidden)
            return torch.cat(steps).view(batch, time, -1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.cell = nn.GRUCell(obs_dim, 64)

        def forward(self, obs, hidden):
            batch, time, _ = obs.shape
            steps = []
            for t in range(time):
                hidden = self.cell(obs[:, t], hidden)
                steps.append(hidden)
            return torch.stack(steps, dim=1)
    ```

    ## Evidence
    On torch 2.13.0, `torch.arange(6).view(2, 3)` with rows for two steps becomes `[[0, 1], [2, 3], [4, 5]]` under
    `view(3, 2)` and `[[0, 3], [1, 4], [2, 5]]` under `transpose(0, 1)`: two thirds of the elements stand in another
    row. Sequences that were cut across environments are reported in ikostrikov/pytorch-a2c-ppo-acktr-gail#97, states
    that were reshaped where their axes should be swapped in Stable-Baselines-Team/stable-baselines3-contrib#111.

    ## References
    - https://docs.pytorch.org/docs/stable/tensor_view.html
    """

    code = "ESP522"
    name = "reshape-for-transpose"
    summary = "a view swaps batch and time without moving the elements"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "batch-independence"
    help = "swap axes with `transpose(0, 1)`, or stack the steps where time belongs: `torch.stack(steps, dim=1)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Views that give the elements of one axis to another."""
        if not net.mentions(b"view(", b"reshape(", b"unflatten("):
            return
        seen = set()
        for _, event, _ in net.events("reorder"):
            if event.node not in seen:
                seen.add(event.node)
                before, after = named_axes(event.target.axes), named_axes(event.other.axes)
                yield Hit.at(event, f"elements that lie as {before} are read as {after}: no axis is swapped by that")

    VALID = (
        # heads are folded into the batch after a swap; `e` is the size of an embedding
        """
        from torch import nn

        class Attention(nn.Module):
            def __init__(self, heads, size):
                super().__init__()
                self.heads, self.size = heads, size
                self.keys = nn.Linear(4, heads * size)

            def forward(self, x):
                b, t, _ = x.size()
                h = self.heads
                e = self.size
                keys = self.keys(x).view(b, t, h, e)
                return keys.transpose(1, 2).contiguous().view(b * h, t, e)
        """,
        # swapped, or flattened and taken apart in the same order
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body, self.rnn = nn.Linear(4, n), nn.GRU(n, n)

            def forward(self, obs, hidden):
                batch, time, _ = obs.shape
                features = self.body(obs.flatten(0, 1)).view(batch, time, -1)
                out, hidden = self.rnn(features.transpose(0, 1), hidden)
                flat = out.reshape(time * batch, -1)
                return flat.view(time, batch, -1).transpose(0, 1).reshape(batch * time, -1)

            def act(self, obs, hidden):
                steps = [self.body(obs[:, t]) for t in range(3)]
                batch, size = obs.shape[0], obs.shape[-1]
                return torch.stack(steps, 1).view(batch, 3, size), torch.cat(steps).view(3, batch, -1)

            def evaluate(self, obs, hidden):
                seqs, envs = obs.shape[:2]
                return self.body(obs.view(-1, 4)).unflatten(0, (seqs, envs))
        """,
        # nothing says which axis is which, or the sizes are those of one step
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, n)

            def forward(self, obs):
                return self.body(obs).view(obs.size(1), obs.size(0), -1)

            def act(self, obs):
                batch, dim = obs.shape
                return self.body(obs.unsqueeze(0)).view(batch, 1, -1)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body, self.rnn = nn.Linear(4, n), nn.GRU(n, n)

            def _features(self, obs, batch, time):
                return self.body(obs.transpose(0, 1).flatten(0, 1)).view(batch, time, -1)  # <- ESP522

            def forward(self, obs, hidden):
                B, T, _ = obs.shape
                out, _ = self.rnn(obs.permute(1, 0, 2), hidden)
                return torch.reshape(out, (B, T, -1)), self._features(obs, B, T)  # <- ESP522

            def get_value(self, obs):
                B, T, _ = obs.shape
                return self._features(obs, B, T).mean(-1)

            def evaluate(
                self,
                obs,  # [time, batch, dim]
                hidden,
            ):
                batch = obs.size(1)
                flat = self.body(obs.reshape(-1, obs.shape[-1]))
                return flat.unflatten(0, (batch, obs.size(0)))  # <- ESP522
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.rnn = nn.LSTM(4, n, batch_first=True)

            def forward(self, obs, state):
                num_envs, num_steps, _ = obs.shape
                outs = []
                for t in range(num_steps):
                    out, state = self.rnn(obs[:, t : t + 1], state)
                    outs.append(out)
                lost = torch.stack([out[:, 0] for out in outs])
                return (
                    lost.view(num_envs, num_steps, -1),  # <- ESP522
                    torch.cat(outs, dim=0).reshape(num_envs, num_steps, -1),  # <- ESP522
                )

            def get_value(self, obs):
                'Values; ``obs`` is ``[envs, steps, 4]``.'
                out, _ = self.rnn(obs)
                return out.view(obs.size(1), obs.size(0), -1)  # <- ESP522
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Recurrent(nn.Module):
                    def run(self, x, batch_size, seq_len):
                        out, _ = self.rnn(x.swapaxes(0, 1))
                        return out.contiguous().view(batch_size, seq_len, -1)  # <- ESP522
                """,
                "network.py": """
                from base import Recurrent
                from torch import nn

                class Policy(Recurrent):
                    def __init__(self, n):
                        super().__init__()
                        self.rnn = nn.GRU(4, n)

                    def forward(self, x):
                        batch_size, seq_len, _ = x.size()
                        return self.run(x, batch_size, seq_len)
                """,
            }
        ),
    )
