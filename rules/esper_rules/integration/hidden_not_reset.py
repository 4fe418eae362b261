"""ESP512: acting clears the hidden state at episode starts and scoring does not, or h is cleared and c is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    UNKNOWN,
    Atoms,
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
    Val,
    as_given,
    bare,
    core_calls,
    descendants,
    find,
    first_round,
    is_known,
    names_start,
    sources_of,
    stepping,
)

_CUTS = (b"pad", b"split", b"traject")  # words of code that cuts windows at the ends of episodes


class HiddenNotReset(Rule):
    """
    ## What it does
    Reports a recurrent network whose acting method clears the state at episode starts (it multiplies by a keep mask,
    writes zeros by index or picks with `where`), while its evaluating method hands the state to the core as it came;
    and an LSTM of which h is cleared and c is not. Silent where a caller of the network pads, splits or speaks of
    trajectories: windows that end where episodes end need no reset.

    ## Why it matters
    When sequences are scored, what is left of the last episode runs into the next one. Log-probs and values after each
    start differ from those that were stored, the more the longer the core remembers; the policy ratio is not 1 with
    unchanged weights, and the core is trained to remember what acting will have cleared. Nothing raises.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs, hidden, not_done):
            out, hidden = self.core(obs.unsqueeze(0), hidden * not_done)
            return Categorical(logits=self.action_head(out)).sample(), hidden

        def evaluate_actions(self, obs, actions, hidden):
            out, _ = self.core(obs, hidden)
            return Categorical(logits=self.action_head(out)).log_prob(actions)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.core = nn.GRU(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs, hidden, not_done):
            out, hidden = self.core(obs.unsqueeze(0), hidden * not_done)
            return Categorical(logits=self.action_head(out)).sample(), hidden

        def evaluate_actions(self, obs, actions, hidden, not_done):
            steps = []
            for step, keep in zip(obs, not_done):
                out, hidden = self.core(step.unsqueeze(0), hidden * keep)
                steps.append(out)
            return Categorical(logits=self.action_head(torch.cat(steps))).log_prob(actions)
    ```

    ## Evidence
    On torch 2.13.0, a fresh LSTM of 64 units with orthogonal recurrence and a head for four actions, 16 steps with an
    episode start at the ninth, weights unchanged: before the start the ratio is 1 exactly; at the start it is off by up
    to 0.05 when nothing is cleared, by up to 0.04 when only h is; seven steps later still by 0.001. That is before any
    training, with a head whose logits are small. In ikostrikov/pytorch-a2c-ppo-acktr-gail#206 the user's own policy
    class lacked the reset that the original has.

    ## References
    - Huang et al., The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track 2022
    """

    code = "ESP512"
    name = "hidden-not-reset"
    summary = "the hidden state is cleared at episode starts in acting only, or of an LSTM only h"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "episode-reset"
    help = "clear h and c at each episode start, in the same helper for acting and for scoring sequences"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """States that are cleared by half, in acting alone, at the wrong step, or never, whatever the starts say."""
        if not net.recurrent:
            return
        told: set[cst.CSTNode] = set()
        for method in stepping(net):
            for hit in (*self._by_half(method), *self._by_starts(net, method), *self._by_offset(method)):
                if hit.node not in told:
                    told.add(hit.node)
                    yield hit
        yield from self._in_acting_alone(net)

    def _by_half(self, method: Method) -> Iterator[Hit]:
        for call in method.cores:
            if len(call.parts) != 2:
                continue
            first, second = (bare(first_round(part)) for part in call.parts)
            given = {*method.starts, *method.ends} if is_known(first | second) else set()
            h_alone = bool(given & first - second) or _cleared_alone(*call.parts)
            c_alone = bool(given & second - first) or _cleared_alone(*reversed(call.parts))
            if h_alone != c_alone:
                cleared, other = ("h", "c") if h_alone else ("c", "h")
                yield self._hit(call, f"{cleared} is cleared at episode starts and {other} is not", ())

    def _by_starts(self, net: NetworkClass, method: Method) -> Iterator[Hit]:
        """Starts that a method takes, and that reach its core nowhere, or one step late."""
        runs = bool(method.cores) and method.frame.result is not UNKNOWN
        for name in (*method.starts, *method.ends) if runs else ():
            before, entering = _entering(net, method)
            if not is_known(entering) or name in bare(before) | method.discarded:
                continue
            if name in bare(entering) and names_start(name):
                yield self._hit(method.cores[-1], f"`{name}` clears the state after the step that it marks", ())
            elif name not in bare(sources_of(net, method.frame.result)):
                yield self._hit(method.cores[0], f"`{method.name}` takes `{name}`, and no state depends on it", ())

    def _by_offset(self, method: Method) -> Iterator[Hit]:
        """Loops over time that clear the state of step t by the start of another step."""
        for call in method.cores:
            function = call.event.function
            entering = bare(frozenset[str]().union(*map(first_round, call.parts)))
            if not entering & {*method.starts, *method.ends} or function.node is None:
                continue
            for shifted in _shifted(function, call.event.node):
                yield Hit(
                    shifted,
                    "the state of one step is cleared by the start of another",
                    module=function.module,
                    symbol=function.qualified,
                    notes=(Note(call.event.module, call.event.node, "the state goes in here"),),
                )

    def _in_acting_alone(self, net: NetworkClass) -> Iterator[Hit]:
        evaluated = [(frame, call) for frame in net.frames(EVALUATE) for call in _only(frame)]
        acted = [(frame, call) for frame in net.frames(ACT) for call in _only(frame)] if evaluated else []
        resets = next(((frame, call) for frame, call in acted if call.is_reset), None)
        if resets is None or any(net.project.mentions(path, *_CUTS) for path in net.caller_files):
            return
        for frame, call in evaluated:
            if call.is_as_given:
                where = Note(resets[1].event.module, resets[1].event.node, "this call gets a cleared state")
                says = (
                    f"`{resets[0].function.name}` clears the state at episode starts, `{frame.function.name}` does not"
                )
                yield self._hit(call, says, (where,))

    def _hit(self, call: CoreCall, says: str, notes: tuple[Note, ...]) -> Hit:
        event = call.event
        return Hit.at(event, says, notes=notes)

    VALID = (
        # ends clear what comes after them, starts of the next step as well; starts that somebody does away with
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8, batch_first=True)

            def forward(self, x, hidden, dones):
                h, c = hidden
                outs = []
                for t in range(x.shape[1]):
                    out, (h, c) = self.lstm(x[:, t : t + 1], (h, c))
                    over = dones[:, t].view(1, -1, 1)
                    h, c = h.masked_fill(over, 0.0), c.masked_fill(over, 0.0)
                    outs.append(out)
                return torch.cat(outs, 1), (h, c)

            def evaluate(self, x, hidden, dones, actions):
                h, c = hidden
                outs = []
                for t in range(x.shape[1]):
                    over = dones[:, t - 1].view(1, -1, 1)
                    out, (h, c) = self.lstm(x[:, t : t + 1], (h.masked_fill(over, 0.0), c.masked_fill(over, 0.0)))
                    outs.append(out)
                return torch.cat(outs, 1)

            def evaluate_actions(self, x, hidden, episode_starts, actions):
                del episode_starts
                return self.lstm(x, hidden)

            def act(self, x, hidden, episode_start, **options):
                return self.lstm(x, **options)

            def eval_actions(self, x, hidden, done, actions):
                out, _ = self.lstm(x, hidden)
                return out * done

            def get_log_prob(self, x, h, done, actions):
                self.memory = self.memory * 0.5
                return self.lstm(x, (h, self.memory))
        """,
        # one helper for both
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, 8)
                self.pi = nn.Linear(8, n)

            def run(self, x, hxs, masks):
                out, hxs = self.gru(x, hxs * masks)
                return Categorical(logits=self.pi(out)), hxs

            def act(self, x, hxs, masks):
                dist, hxs = self.run(x.unsqueeze(0), hxs, masks)
                return dist.sample(), hxs

            def evaluate_actions(self, x, hxs, masks, action):
                return self.run(x, hxs, masks)[0].log_prob(action)
        """,
        # cleared by other means: by index, by choice, by a helper nobody knows, in a comprehension
        """
        import torch
        from elsewhere import reset
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(4, 8)

            def act(self, x, h, c, done):
                return self.core(x, (h * (1 - done), c * (1 - done)))

            def evaluate(self, x, h, c, done):
                h[:, done] = 0
                c[:, done] = 0
                return self.core(x, (h, c))

            def evaluate_actions(self, x, h, c, done):
                h = torch.where(done, torch.zeros_like(h), h)
                c = torch.where(done, torch.zeros_like(c), c)
                return self.core(x, (h, c))

            def eval_actions(self, x, hidden, done):
                return self.core(x, tuple(part * (1 - done) for part in hidden))

            def get_log_prob(self, x, hidden, done):
                return self.core(x, reset(hidden, done))

            def get_log_probs(self, x, h, c, done):
                c = reset(c, done)
                return self.core(x, (h * (1 - done), c))
        """,
        # nobody clears inside the network: the caller does it for both
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.core = nn.LSTM(4, 8)

            def act(self, x, hidden):
                return self.core(x, hidden)

            def evaluate(self, x, hidden):
                return self.core(x, hidden)
        """,
        # the buffer cuts its windows where episodes end
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.core = nn.GRU(4, 8)

                    def act(self, x, hidden, masks):
                        return self.core(x, hidden * masks)

                    def evaluate_actions(self, x, hidden, actions):
                        return self.core(x, hidden)
                """,
                "train.py": """
                from network import Policy
                from torch.nn.utils.rnn import pad_sequence

                def update(episodes):
                    net = Policy(2)
                    return net.evaluate_actions(pad_sequence(episodes), None, None)
                """,
            }
        ),
        # two cores in one method: which of them is which is unknown
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.critic = nn.GRU(4, 8), nn.GRU(4, 8)

            def act(self, x, hidden, masks):
                return self.actor(x, hidden * masks)

            def evaluate_actions(self, x, hidden, actions):
                return self.actor(x, hidden), self.critic(x, hidden)
        """,
    )
    INVALID = (
        # starts that reach no state, one half of it, a step too late, or the state of another step
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8, batch_first=True)

            def _run(self, x, hidden, starts):
                h, c = hidden
                outs = []
                for t in range(x.shape[1]):
                    fresh = starts[:, max(t - 1, 0)].view(1, -1, 1)  # <- ESP512
                    out, (h, c) = self.lstm(x[:, t : t + 1], (h.masked_fill(fresh, 0.0), c.masked_fill(fresh, 0.0)))
                    outs.append(out)
                return torch.cat(outs, 1), (h, c)

            def forward(self, x, hidden, episode_starts):
                return self._run(x, hidden, episode_starts)

            def explore(self, x, hidden, episode_starts):
                return self._run(x, hidden, episode_starts)

            def predict(self, x, hidden, is_first):
                h, c = hidden
                return self.lstm(x, (h, c * is_first))  # <- ESP512

            def act(self, x, hidden, episode_start):
                return self.lstm(x, hidden)  # <- ESP512

            def evaluate_actions(self, x, hidden, is_first, actions):
                keep = torch.ones_like(is_first)
                h, c = hidden[0] * keep, hidden[1] * keep
                return self.lstm(x, (h, c))  # <- ESP512

            def evaluate(self, x, hidden, done, actions):
                h, c = hidden
                h = torch.where(done, 0.0, h)
                return self.lstm(x, (h, c))  # <- ESP512

            def eval_actions(self, x, hidden, episode_starts):
                h, c = hidden
                outs = []
                for t in range(x.shape[1]):
                    out, (h, c) = self.lstm(x[:, t : t + 1], (h, c))  # <- ESP512
                    fresh = episode_starts[:, t].view(1, -1, 1)
                    h, c = h.masked_fill(fresh, 0.0), c.masked_fill(fresh, 0.0)
                    outs.append(out)
                return torch.cat(outs, 1), (h, c)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.lstm = nn.LSTM(4, 8)

            def get_states(self, x, lstm_state, done):
                keep = (1.0 - done).view(1, -1, 1)
                return self.lstm(x, (keep * lstm_state[0], lstm_state[1]))  # <- ESP512

            def forward(self, x, lstm_state, done):
                return self.get_states(x, lstm_state, done)
        """,
        """
        from torch import nn

        class Cell(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.cell = nn.LSTMCell(4, 8)

            def step(self, x, hx, cx, dones):
                cx[dones] = 0.0
                return self.cell(x, (hx, cx))  # <- ESP512
        """,
        # acting clears in a helper, by choice, by index; scoring does not
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.gru = nn.GRU(4, 8)

            def _cleared(self, hxs, first):
                return torch.where(first, torch.zeros_like(hxs), hxs)

            def act(self, x, hxs, first):
                return self.gru(x, self._cleared(hxs, first))

            def evaluate_actions(self, x, hxs, action, masks):
                return self.gru(x, hx=hxs)  # <- ESP512
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Recurrent(nn.Module):
                    def evaluate_actions(self, x, hidden, actions):
                        return self.core(x, hidden)  # <- ESP512
                """,
                "network.py": """
                from base import Recurrent
                from torch import nn

                class Policy(Recurrent):
                    def __init__(self, n):
                        super().__init__()
                        self.core = nn.LSTM(4, 8, batch_first=True)

                    def act(self, x, hidden, not_done):
                        h, c = hidden
                        return self.core(x, (h * not_done, c.mul(not_done)))
                """,
            }
        ),
    )


def _shifted(function: Function, call: cst.CSTNode) -> Iterator[cst.Subscript]:
    """Starts that are looked up at `t - 1` or `t + 1` in a loop over t with the call in it."""
    for loop in find(function.node, cst.For):
        if not isinstance(loop.target, cst.Name) or not any(node is call for node in descendants(loop)):
            continue
        for lookup in find(loop.body, cst.Subscript):
            of_starts = isinstance(lookup.value, cst.Name) and names_start(lookup.value.value)
            if of_starts and any(_is_beside(sum_, loop.target.value) for sum_ in find(lookup, cst.BinaryOperation)):
                yield lookup


def _is_beside(node: cst.BinaryOperation, name: str) -> bool:
    """`t - 1` and `t + 1`."""
    named = isinstance(node.left, cst.Name) and node.left.value == name
    return named and isinstance(node.right, cst.Integer) and isinstance(node.operator, (cst.Add, cst.Subtract))


def _entering(net: NetworkClass, method: Method) -> tuple[Atoms, Atoms]:
    """What the states and inputs of a method's cores depend on: before any round of a loop, and in all rounds."""
    before: Atoms = frozenset()
    always: Atoms = frozenset()
    for call in method.cores:
        parts = (*call.parts, *call.event.args[:1])
        before = before.union(*map(first_round, parts))
        always = always.union(*(sources_of(net, part) for part in parts))
        if call.state is None:
            always |= {"?"}
    return before, always


def _only(frame: Frame) -> list[CoreCall]:
    """The method's call of its core; nothing where several calls share the work."""
    calls = list(core_calls(frame))
    return calls if len(calls) == 1 else []


def _cleared_alone(one: Val, other: Val) -> bool:
    """Whether one part of a state is cleared and the other is what came in."""
    return "kept" in one.tags and as_given(other)
