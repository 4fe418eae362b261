"""ESP523: the flags that say where an episode starts or ends are used as numbers of environments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    Val,
    names_episode_ends,
)

_INTEGERS = ("int64", "int32")
_FILLS = (".index_fill_", ".index_fill")


class EpisodeStartsAsIndex(Rule):
    """
    ## What it does
    Reports a write under subscripts one of which is a flag for each environment (`dones`, `episode_starts`) as
    integers, or the first row alone of what `nonzero()` finds in one.

    ## Why it matters
    A tensor of integers is a list of positions. `h[:, dones.long()] = 0` clears environments 0 and 1, whoever has
    finished: two that go on lose their memory, and those that should begin anew keep that of another episode. With one
    environment it clears number 0 at every step; as long as nobody is done, number 0, too.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.gru = nn.GRU(obs_dim, 64)

        def forward(self, obs, h, dones):
            h = h.clone()
            h[:, dones.long()] = 0.0
            return self.gru(obs, h)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.gru = nn.GRU(obs_dim, 64)

        def forward(self, obs, h, dones):
            h = h.clone()
            h[:, dones.bool()] = 0.0
            return self.gru(obs, h)
    ```

    ## Evidence
    On torch 2.13.0, with `h = torch.ones(1, 4, 1)` and `dones = torch.tensor([0, 0, 0, 1])`, `h[:, dones] = 0` leaves
    0, 0, 1, 1 in h, and `h[:, dones.bool()] = 0` leaves 1, 1, 1, 0. A reset that depends on the dtype of the flags is
    reported in leggedrobotics/rsl_rl#35.

    ## References
    - https://docs.pytorch.org/docs/stable/tensor_view.html
    """

    code = "ESP523"
    name = "episode-starts-as-index"
    summary = "flags of finished episodes are used as numbers of environments"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "episode-reset"
    help = "index with booleans, `h[:, dones.bool()] = 0`, or use `masked_fill`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Writes to places that flags stand for."""
        if not net.mentions(b"done", b"start", b"first", b"termin", b"trunc", b"reset", b"finished", b"over"):
            return
        seen = set()
        for _, event, _ in net.events("write", "call"):
            for key in _places(event):
                flag = next((name for name in sorted(_names(key)) if names_episode_ends(name)), None)
                if flag is None or event.node in seen:
                    continue
                if "first_row" in key.tags:
                    seen.add(event.node)
                    yield Hit.at(event, f"of the environments that `{flag}` names, the first alone is written to")
                elif key.dtype in _INTEGERS and "rows" not in key.tags:
                    seen.add(event.node)
                    yield Hit.at(event, f"`{flag}` as integers stands for environments 0 and 1, whoever they mean")

    VALID = (
        # booleans, all rows that are found, lists of numbers, other tensors, integers that are compared
        """
        import torch
        from torch import Tensor, nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, n)

            def forward(self, x: Tensor, h: Tensor, dones: Tensor, start_ids: Tensor, t):
                h = h.clone()
                h[:, dones.bool()] = 0
                h[:, dones] = 0
                h[:, dones.nonzero().squeeze(-1)] = 0
                h[:, dones.nonzero(as_tuple=True)[0]] = 0
                h[:, dones.long() == 1] = 0
                h[:, start_ids.long()] = 0
                h[:, t] = 0
                h.index_fill_(1, start_ids.long(), 0)
                h.index_fill_(1)
                counts = {}
                counts[0] = dones.long()
                return self.gru(x, h)

            def reset(self, h, dones):
                h[:, dones.nonzero()[0]] = 0  # numpy gives a tuple
        """,
        """
        from torch import nn

        class Critic(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.v = nn.Linear(4, n)

            def forward(self, x):
                return self.v(x)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import Tensor, nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, n, batch_first=True)

            def forward(self, x: Tensor, state: tuple[Tensor, Tensor], episode_starts: Tensor):
                h, c = state
                for t in range(x.shape[1]):
                    rows = episode_starts[:, t].to(torch.int64)
                    h[:, rows] = 0  # <- ESP523
                    c.index_fill_(1, rows, 0.0)  # <- ESP523
                    out, (h, c) = self.lstm(x[:, t : t + 1], (h, c))
                return out

            def act(self, x, h, dones: Tensor):
                first = dones.nonzero()[:1]
                h[:, first] = 0.0  # <- ESP523
                h[:, dones.nonzero()[0]] = 0.0  # <- ESP523
                return self.lstm(x, h)

            def reset(self, dones: torch.LongTensor):
                self.hidden[..., dones, :] = 0.0  # <- ESP523
        """,
        Case(
            {
                "memory.py": """
                def clear(h, at):
                    h[:, at] = 0.0  # <- ESP523
                    return h
                """,
                "network.py": """
                from memory import clear
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.gru = nn.GRU(4, n)

                    def forward(self, x, h, terminated):
                        return self.gru(x, clear(h, terminated.int()))

                    def evaluate(self, x, h, actions, terminated):
                        return self.gru(x, clear(h, terminated.int()))
                """,
            }
        ),
    )


def _places(event: Event) -> Iterator[Val]:
    """The tensors that say where a write goes."""
    if event.kind == "write":
        yield from event.args
    elif event.name in _FILLS and len(event.args) > 1:
        yield event.args[1]


def _names(key: Val) -> set[str]:
    """The parameters that a tensor came in as."""
    return {origin.rpartition("/")[2] for origin in key.origins if not origin.startswith("@")}
