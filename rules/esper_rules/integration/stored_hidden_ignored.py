"""ESP513: a method takes a hidden state and starts its core from zeros."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    EVALUATE,
    FORWARD,
    Case,
    Category,
    Confidence,
    CoreCall,
    Frame,
    Function,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    bare,
    core_calls,
    find,
    input_atoms,
    is_known,
    state_atoms,
    stepping,
    tensor_role,
)


class StoredHiddenIgnored(Rule):
    """
    ## What it does
    Reports a `forward` or evaluating method that has a parameter for the hidden state, never reads it, and calls its
    recurrent core without a state, with `None`, or with fresh zeros.

    ## Why it matters
    The buffer has stored the state that each window began with, the caller hands it over, and it is dropped. Every
    window is then scored as if an episode began there: the log-probs of the first steps are not those that acted, the
    policy ratio differs from 1 with unchanged weights, and the core never learns to use more than one window. Windows
    that do begin with an episode look right, so that a short test passes.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64, batch_first=True)
            self.action_head = nn.Linear(64, num_actions)

        def evaluate_actions(self, obs, actions, hidden):
            out, _ = self.core(obs)
            return Categorical(logits=self.action_head(out)).log_prob(actions)
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.LSTM(obs_dim, 64, batch_first=True)
            self.action_head = nn.Linear(64, num_actions)

        def evaluate_actions(self, obs, actions, hidden):
            out, _ = self.core(obs, hidden)
            return Categorical(logits=self.action_head(out)).log_prob(actions)
    ```

    ## Evidence
    On torch 2.13.0, a fresh LSTM of 64 units with orthogonal recurrence and a head for four actions, 32 steps scored
    once with the state of the 16 before and once from zeros, weights unchanged: the ratio is off by up to 0.05 at the
    first step and 0.02 at the second, and agrees again after some fifteen: a short test, or a mean over the window,
    shows little. allenai/allenact#77 asks about a storage that hands over the state of the first step alone; initial
    states that are dropped are reported in ray-project/ray#15483.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html: "Defaults to zeros if (h_0, c_0) is not
      provided."
    """

    code = "ESP513"
    name = "stored-hidden-ignored"
    summary = "a hidden state is taken and never read, and the core starts from zeros"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "hidden-used"
    help = "hand the state to the core; a caller that wants zeros passes None or a fresh state"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Parameters for a hidden state that nothing reads, of methods whose cores all start from zeros."""
        if not net.recurrent:
            return
        told = set()
        for frame in net.frames(FORWARD, EVALUATE):
            unread = _unread_states(frame)
            calls = list(core_calls(frame)) if unread else []
            if unread and calls and all(call.is_fresh for call in calls):
                told.add(frame.function)
                yield self._hit(frame.function, unread[0], calls[0])
        for method in stepping(net):
            if method.function not in told:
                told.add(method.function)
                yield from self._lost(net, method)

    def _lost(self, net: NetworkClass, method: Method) -> Iterator[Hit]:
        """States that no core, or only a half of one, gets to see."""
        names = tuple(name for name in method.params("hidden") if len(name) > 2)
        if any(method.frame.params[name].kind == "instance" for name in names):
            return  # an object that holds the state: what its attributes are is not followed
        seen = [state_atoms(net, call) for call in method.cores]
        if not names or not seen or not all(atoms and all(map(is_known, atoms)) for atoms in seen):
            return
        known = [atoms for atoms in seen if atoms]
        reached = frozenset[str]().union(*(each for atoms in known for each in atoms))
        taken = frozenset[str]().union(*(input_atoms(net, call) for call in method.cores))
        if bare(reached) & set(names):
            halves = frozenset(atom.rstrip("~") for atom in reached)
            told_apart = len(names) == 1 and all(len(atoms) == 2 for atoms in known) and names[0] not in halves
            lost = [half for half in (0, 1) if f"{names[0]}#{half}" not in halves]
            if told_apart and len(lost) == 1:
                yield self._hit(method.function, names[0], method.cores[0], "hc"[lost[0]])
        elif not bare(taken) & set(names) and not _may_be_none(method, names):
            yield self._hit(method.function, names[0], method.cores[0])

    def _hit(self, function: Function, name: str, call: CoreCall, half: str = "") -> Hit:
        param = function.param(name)
        assert param is not None
        return Hit(
            param.node,
            f"`{function.name}` takes `{name}`, and {half or 'it'} never reaches the core",
            module=function.module,
            symbol=function.qualified,
            notes=(Note(call.event.module, call.event.node, "this core starts without it"),),
        )

    VALID = (
        # the state goes in with the input
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(4, 8)

            def forward(self, x, hidden):
                return self.core(torch.cat([x, hidden], -1))
        """,
        # read, in one way or another
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.GRU(4, 8)

            def forward(self, x, hidden=None):
                if hidden is None:
                    hidden = torch.zeros(1, x.shape[1], 8)
                return self.core(x, hidden)

            def evaluate(self, x, hidden):
                hidden = hidden.unsqueeze(0)
                return self.core(x, hidden)

            def get_log_prob(self, x, hidden, actions):
                hidden: torch.Tensor = self.prepare(hidden)
                return self.core(x, hidden)
        """,
        # no core is called, or not here, or nobody knows with what
        """
        from torch import nn

        class Plain(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body, self.core = nn.Linear(4, 8), nn.GRU(4, 8)
                self.state = None

            def forward(self, x, hidden):
                return self.body(x), hidden

            def evaluate(self, x, hidden):
                return self.body(x)

            def evaluate_actions(self, x, hidden, *rest):
                return self.core(x, *rest)

            def get_log_prob(self, x, hidden, actions):
                return self.core(x, self.saved)

            def eval_actions(self, x, hidden, options):
                return self.core(x, **options)

            def get_log_probs(self, x, hidden_size, h):
                return self.core(x)

        class Flat(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)

            def forward(self, x, hidden):
                return self.body(x)
        """,
        # the state of another part, which the core reads as its input
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def forward(self, x, hidden):
                state = torch.zeros_like(hidden)
                return self.gru(x * hidden, state)
        """,
        # the state comes in an object
        """
        from dataclasses import dataclass

        import torch
        from torch import nn

        @dataclass
        class States:
            hidden_states: torch.Tensor
            cell_states: torch.Tensor

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8)

            def forward(self, x, rnn_states: States):
                return self.lstm(x, (rnn_states.hidden_states, rnn_states.cell_states))
        """,
        # one of two cores is given it, the other has no past
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.words, self.core = nn.GRU(4, 8), nn.GRU(8, 8)

            def forward(self, x, hidden):
                _, sentence = self.words(x)
                return self.core(sentence, hidden)
        """,
    )
    INVALID = (
        # read, and yet the core never sees it, or sees only a half of it
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8, batch_first=True)

            def fresh(self, batch):
                return torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)

            def forward(self, x, hidden):  # <- ESP513
                return self.lstm(x, tuple(torch.zeros_like(part) for part in hidden))

            def evaluate(self, x, hidden, actions):  # <- ESP513
                return self.lstm(x, self.fresh(hidden[0].shape[1]))

            def evaluate_actions(self, x, hidden, actions):  # <- ESP513
                return self.lstm(x, (hidden[0], torch.zeros_like(hidden[1])))

            def eval_actions(self, x, hidden, actions):  # <- ESP513
                h, c = hidden
                return self.lstm(x, (h, h))

        class Gated(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def evaluate_actions(self, x, hidden, actions):  # <- ESP513
                state = torch.zeros_like(hidden)
                return self.gru(x, state)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8, batch_first=True)

            def initial(self, x):
                zero = torch.zeros(1, x.shape[0], 8)
                return zero, zero.clone()

            def forward(self, x, hidden_state=None):  # <- ESP513
                return self.lstm(x, None)

            def evaluate(self, x, lstm_states, action):  # <- ESP513
                lstm_states = self.initial(x)
                return self.lstm(x, lstm_states)

            def evaluate_actions(self, x, action, *, rnn_states):  # <- ESP513
                h = torch.zeros(1, x.shape[0], 8)
                c = torch.zeros(1, x.shape[0], 8)
                return self.lstm(x, hx=(h, c))
        """,
        # the state gets lost on the way into a helper
        """
        from torch import nn

        class Core(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def forward(self, x, state=None):
                return self.gru(x, state)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = Core()

            def act(self, x, hxs):
                return self.core(x, hxs)

            def evaluate_actions(self, x, hxs, actions):  # <- ESP513
                out, _ = self.core(x)
                return out
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Recurrent(nn.Module):
                    def evaluate_actions(self, x, hidden, actions):  # <- ESP513
                        return self.core(x)[0]
                """,
                "network.py": """
                from base import Recurrent
                from torch import nn

                class Policy(Recurrent):
                    def __init__(self, n):
                        super().__init__()
                        self.core = nn.RNN(4, 8)
                """,
            }
        ),
    )


def _may_be_none(method: Method, names: tuple[str, ...]) -> bool:
    """Whether a state may be left out: then a fresh one takes its place, in a branch that may not be told apart."""
    params = [method.function.param(name) for name in names]
    return any(param is not None and param.default is not None for param in params)


def _unread_states(frame: Frame) -> list[str]:
    """Parameters that are hidden states by name and are not read before the method gives the name to something else."""
    function = frame.function
    found = []
    for param in function.params[1:]:
        if param.kind in ("positional", "keyword") and tensor_role(param.name) == "hidden" and len(param.name) > 2:
            uses = [node for node in find(function.node.body, cst.Name) if node.value == param.name]
            if not uses or _is_overwritten(function.node.body, param.name):
                found.append(param.name)
    return found


def _is_overwritten(body: cst.BaseSuite, name: str) -> bool:
    """Whether the first of the method's own statements that has the name gives it to a value made without it."""
    first = next(each for each in body.body if any(node.value == name for node in find(each, cst.Name)))
    small = first.body[0] if isinstance(first, cst.SimpleStatementLine) else None
    if not isinstance(small, cst.Assign):
        return False
    named = any(isinstance(target.target, cst.Name) and target.target.value == name for target in small.targets)
    return named and not any(node.value == name for node in find(small.value, cst.Name))
