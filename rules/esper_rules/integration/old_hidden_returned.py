"""ESP525: a method runs its recurrent core and returns the state that it was given."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Output,
    Rule,
    Severity,
    bare,
    returns,
    stepping,
)


class OldHiddenReturned(Rule):
    """
    ## What it does
    Reports a method that runs its recurrent core and then returns a hidden state, or a part of one, which does not
    depend on the core: the one that the caller passed in.

    ## Why it matters
    The caller feeds back what it gets, so every step starts from the state of the first: the policy has no memory, and
    nothing raises, since the shapes are right. Where only c or only h is stale, the core forgets by half.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs, hidden):
            out, _ = self.core(obs.unsqueeze(0), hidden)
            action = Categorical(logits=self.action_head(out[0])).sample()
            return action, hidden
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs, hidden):
            out, hidden = self.core(obs.unsqueeze(0), hidden)
            action = Categorical(logits=self.action_head(out[0])).sample()
            return action, hidden
    ```

    ## Evidence
    On torch 2.13.0, the first network above, stepped 16 times with what it returns: the state stays the zeros that it
    began with, and the same observation gives the same logits at every step; in the second they differ from the second
    step on. States that do not reach the next step are a topic of ikostrikov/pytorch-a2c-ppo-acktr-gail#206.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html: `h_n` is the second thing returned
    """

    code = "ESP525"
    name = "old-hidden-returned"
    summary = "the hidden state that comes back is the one that went in"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "act-evaluate"
    help = "return the state that the core gives back, both parts of it"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Returned states that are parameters, of methods that run a core on those parameters."""
        for method in stepping(net) if net.recurrent else ():
            states = method.named("hidden")
            stale = [output for output in states if _is_as_given(method, output)]
            event = returns(method.frame)
            if stale and event is not None and all(output.is_known for output in states):
                what = "the hidden state that it was given" if len(stale) == len(states) else "a part of the old state"
                yield Hit.at(event, f"`{method.name}` runs its core and returns {what}")

    VALID = (
        # the new state; a state that the core never saw; what only some branch runs; a state of unknown origin
        """
        from elsewhere import advance
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core, self.pi = nn.LSTM(4, 8), nn.Linear(8, n)
                self.is_recurrent = n > 2

            def forward(self, obs, hidden):
                out, hidden = self.core(obs, hidden)
                return self.pi(out), hidden

            def act(self, obs, hidden, other_state):
                out, _ = self.core(obs, hidden)
                return self.pi(out), other_state

            def step(self, obs, hidden):
                if self.is_recurrent:
                    obs, hidden = self.core(obs, hidden)
                return self.pi(obs), hidden

            def explore(self, obs, hidden):
                out, _ = self.core(obs, hidden)
                hidden = advance(hidden)
                return out, hidden

            def predict(self, obs, hidden):
                return self.pi(obs), hidden
        """,
        # cells in a loop
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.cell = nn.LSTMCell(4, 8)

            def forward(self, x, hx, cx):
                outs = []
                for step in x:
                    hx, cx = self.cell(step, (hx, cx))
                    outs.append(hx)
                return outs, (hx, cx)
        """,
    )
    INVALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core, self.pi = nn.LSTM(4, 8), nn.Linear(8, n)

            def _run(self, obs, hidden):
                out, new = self.core(obs, hidden)
                return self.pi(out), new

            def act(self, obs, hidden):
                logits, _ = self._run(obs, hidden)
                return logits.argmax(-1), hidden  # <- ESP525

            def step(self, obs, hidden):
                h, c = hidden
                out, (h_new, c_new) = self.core(obs, (h, c))
                return self.pi(out), (h_new, c)  # <- ESP525

            def forward(self, obs, rnn_state):
                out, state = self.core(obs, rnn_state)
                return dict(logits=self.pi(out), hidden=rnn_state)  # <- ESP525
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Recurrent(nn.Module):
                    def act(self, obs, hxs):
                        hidden = self.cell(obs, hxs)
                        return self.pi(hidden), hxs  # <- ESP525
                """,
                "network.py": """
                from base import Recurrent
                from torch import nn

                class Policy(Recurrent):
                    def __init__(self, n):
                        super().__init__()
                        self.cell, self.pi = nn.GRUCell(4, 8), nn.Linear(8, n)
                """,
            }
        ),
    )


def _is_as_given(method: Method, output: Output) -> bool:
    """Whether an output is nothing but a parameter with which the method calls its core."""
    fed = frozenset[str]().union(*(bare(part.deps) for call in method.cores for part in call.parts))
    untouched = (output.value.kind == "tensor" or bool(output.value.origins)) and "kept" not in output.value.tags
    return untouched and bool(output.sources) and output.sources <= fed & frozenset(method.params("hidden"))
