"""ESP105: torch.compile covers a method that runs nn.LSTM, nn.GRU or nn.RNN, and what runs beside it stays eager."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    EagerCore,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    eager_cores,
)


class RecurrentCoreUnderCompile(Rule):
    """
    ## What it does
    Finds the methods of a network that `torch.compile` covers (the wrapper and `net.compile()` cover `forward`; a
    decorator or `torch.compile(net.act)` the method itself) and reports those that run `nn.LSTM`, `nn.GRU` or `nn.RNN`
    beside other layers, directly or in a helper.

    ## Why it matters
    Dynamo refuses these layers unless `torch._dynamo.config.allow_rnn` is set. It does not cut the graph around them:
    it gives up the function that calls them, so trunk and heads in the same method run eagerly as well. Start-up time
    is paid and nothing is gained, in the one loop where a small recurrent policy needed it.

    Silent where `allow_rnn` is named in the project, where the function is taken out of compilation on purpose, and
    where the layer is alone in a method of its own, which is the cure. Cells such as `nn.LSTMCell` are traced.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.lstm = nn.LSTM(64, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs, hidden):
            features, hidden = self.lstm(self.trunk(obs), hidden)
            return self.action_head(features), hidden

    policy = torch.compile(Policy(8, 4))
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.lstm = nn.LSTM(64, 64)
            self.action_head = nn.Linear(64, num_actions)

        def core(self, features, hidden):
            return self.lstm(features, hidden)

        def forward(self, obs, hidden):
            features, hidden = self.core(self.trunk(obs), hidden)
            return self.action_head(features), hidden

    policy = torch.compile(Policy(8, 4))
    ```

    ## Evidence
    On torch 2.13.0, `torch.compile` of a forward with trunk, LSTM and head captures 0 graphs, the same with GRU and
    RNN, and `fullgraph=True` raises "Attempted to wrap RNN, GRU, or LSTM". With the recurrent layer alone in a method
    of its own, it captures 2 graphs, before and after it; with `allow_rnn` 1 graph; with `nn.LSTMCell` 1 graph.
    Reports: pytorch/pytorch#167275, #141184, #158007.

    ## References
    - https://github.com/pytorch/pytorch/pull/186614
    """

    code = "ESP105"
    name = "recurrent-core-under-compile"
    summary = "torch.compile covers a method that runs a recurrent layer, and that method stays eager"
    category = Category.COMPILE
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "compile-coverage"
    help = (
        "call the recurrent layer in a method that does nothing else, so that trunk and heads are compiled, "
        "or set `torch._dynamo.config.allow_rnn = True`"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls of recurrent layers that make Dynamo give up a compiled method."""
        for found in eager_cores(net):
            event = found.event
            yield Hit.at(
                event,
                f"`{found.method}` is compiled, but `torch.nn.{event.name.rpartition('.')[2]}` is called "
                f"{_where(found)}: all of that function runs eagerly",
                notes=(Note(found.site[0], found.site[1], "it is compiled here"),),
            )

    VALID = (
        # Alone in a method, alone in a submodule, and in a submodule that is not what is compiled.
        """
        import torch
        from torch import nn

        class Core(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(64, 64)

            def forward(self, features, hidden):
                return self.gru(features, hidden)

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.core = Core()
                self.action_head = nn.Linear(64, 4)

            def forward(self, obs, hidden):
                features, hidden = self.core(self.trunk(obs), hidden)
                return self.action_head(features), hidden

        class Parts(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = torch.compile(nn.Linear(8, 64))
                self.lstm = nn.LSTM(64, 64)
                self.action_head = nn.Linear(64, 4)

            def forward(self, obs, hidden):
                features, hidden = self.lstm(self.trunk(obs), hidden)
                return self.action_head(features), hidden

        policy = torch.compile(Policy())
        parts = Parts()
        parts.action_head = torch.compile(parts.action_head)
        """,
        # Cells are traced; forward has no recurrent layer; the helper is taken out of compilation on purpose.
        """
        import torch
        from torch import nn

        class Cell(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.cell = nn.LSTMCell(64, 64)

            def forward(self, obs, state):
                return self.cell(self.trunk(obs), state)

        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.lstm = nn.LSTM(64, 64)

            def forward(self, obs):
                return self.trunk(obs)

            def sequence(self, obs):
                return self.lstm(self.trunk(obs))

        class Eager(Two):
            @torch.compiler.disable
            def sequence(self, obs):
                return self.lstm(self.trunk(obs))

            def forward(self, obs):
                if not torch.compiler.is_compiling():
                    self.lstm(self.trunk(obs))
                return self.sequence(obs)

        for net in (Cell, Two, Eager):
            pass
        cell, two, eager = torch.compile(Cell()), torch.compile(Two()), torch.compile(Eager())
        """,
        """
        import torch
        from torch import nn

        torch._dynamo.config.allow_rnn = True

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.lstm = nn.LSTM(64, 64)

            @torch.compile
            def forward(self, obs):
                return self.lstm(self.trunk(obs))
        """,
        # Nothing is compiled.
        """
        import re
        from torch import nn

        NAME = re.compile("a")

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.lstm = nn.LSTM(64, 64)

            def forward(self, obs):
                return self.lstm(self.trunk(obs))

        def train(policy: Policy, backend):
            backend.compile(policy)
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Base(nn.Module):
                    def features(self, obs, hidden):
                        features, hidden = self.rnn(torch.tanh(self.trunk(obs)), hidden)  # <- ESP105
                        return features, hidden

                class Policy(Base):
                    def __init__(self, use_gru):
                        super().__init__()
                        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.Tanh())
                        self.rnn = nn.GRU(64, 64) if use_gru else nn.LSTM(64, 64)
                        self.action_head = nn.Linear(64, 4)

                    def forward(self, obs, hidden):
                        features, hidden = self.features(obs, hidden)
                        return self.action_head(features), hidden
                """,
                "train.py": """
                import torch
                from network import Policy

                class Trainer:
                    def __init__(self, fast):
                        self.policy = Policy(False)
                        if fast:
                            self.policy = torch.compile(self.policy)
                """,
            }
        ),
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.rnn = nn.RNN(64, 64)
                self.action_head = nn.Linear(64, 4)

            @torch.compile(mode="reduce-overhead")
            def act(self, obs, hidden):
                features, hidden = self.rnn(self.trunk(obs), hidden)  # <- ESP105
                return self.action_head(features).argmax(-1), hidden

            def evaluate(self, obs, hidden):
                features, _ = self.rnn(self.trunk(obs), hidden)  # <- ESP105
                return self.action_head(features)

            def get_value(self, obs, hidden):
                return self.action_head(self.rnn(self.trunk(obs), hidden)[0])  # <- ESP105

            def forward(self, obs, hidden):
                return self.action_head(self.rnn(self.trunk(obs), hidden)[0])  # <- ESP105

        def main():
            policy = Policy()
            policy.evaluate = torch.compile(policy.evaluate)
            policy.compile()
            fast_value = torch.compile(policy.get_value, fullgraph=False)
            return fast_value
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.gru = nn.GRU(64, 64)
                self.step = torch.compile(self._step)

            def _step(self, obs, hidden):
                return self.gru(self.trunk(obs), hidden)  # <- ESP105

            def forward(self, obs, hidden):
                return self.step(obs, hidden)
        """,
    )


def _where(found: EagerCore) -> str:
    function = found.event.function
    return "in it" if function.name == found.method else f"in `{function.name}`, which it reaches"
