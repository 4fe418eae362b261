"""ESP519: probabilities are normalised over environments or time steps instead of over actions."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    EVALUATE,
    Category,
    Confidence,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    Val,
    optional_action,
)

_FUNCTIONS = frozenset(
    f"{home}.{name}" for home in ("torch", "torch.nn.functional") for name in ("softmax", "log_softmax")
)
_METHODS = frozenset({".softmax", ".log_softmax"})
_LAYERS = frozenset({"torch.nn.Softmax", "torch.nn.LogSoftmax"})


class SoftmaxOverWrongAxis(Rule):
    """
    ## What it does
    Reports a softmax or log-softmax of policy logits over an axis that is known not to be the last: `dim=0` of a batch,
    `dim=1` of `[B, T, n]`, or no `dim` at all, for which torch chooses by rank: `low` where the rank is not known, or
    one that makes the choice right.

    ## Why it matters
    Over axis 0 the probabilities of one action sum to 1 over the environments. Each environment's policy then depends
    on what the others observe, and nothing raises: `Categorical(probs=...)` divides each row by its sum, which hides it
    for good. Without `dim`, torch takes axis 0 of a tensor of rank 3 and axis 1 of one of rank 2: what was right for
    `[B, n]` mixes environments once a time axis is added.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions):
            log_probs = torch.log_softmax(self.action_head(obs), dim=0)
            return log_probs.gather(-1, actions)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions):
            log_probs = torch.log_softmax(self.action_head(obs), dim=-1)
            return log_probs.gather(-1, actions)
    ```

    ## Evidence
    On torch 2.13.0, `nn.Softmax()` on `[4, 5, 3]` equals `softmax(dim=0)` to the bit and warns; `softmax(dim=0)` on
    `[4, 3]` changes in row 0 when row 1 does, and `Categorical(probs=...)` of it has rows that sum to 1 again.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Softmax.html
    """

    code = "ESP519"
    name = "softmax-over-wrong-axis"
    summary = "a policy is normalised over environments or time"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "log-prob-normalised"
    help = "normalise over the last axis: `dim=-1`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Softmaxes of logits over an axis that is not the last."""
        heads = {head.name for head in net.policy_heads}
        told: set[cst.CSTNode] = set()
        open_ones: dict[cst.CSTNode, Event] = {}
        for frame, event, _ in net.hot_events("call"):
            found = _softmax(event)
            if found is None:
                continue
            subject, dim = found
            if "logits" not in subject.roles and not heads & subject.from_layers:
                continue  # attention weights are normalised over whatever their author likes
            batched = net.roles.get(frame.function.name) == EVALUATE or bool(optional_action(frame.function))
            says = _wrong(dim, subject.rank, batched=batched)
            if says:
                told.add(event.node)
                yield Hit.at(
                    event,
                    f"the logits are normalised over {says} instead of over the actions",
                )
            elif dim == "":
                open_ones.setdefault(event.node, event)
        for node, event in open_ones.items():
            if node not in told:
                yield Hit.at(
                    event, "torch chooses the axis by the rank of the logits: say `dim=-1`", severity=Severity.LOW
                )

    VALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)
                self.normalise = nn.Softmax(dim=-1)

            def act(self, obs):
                logits = self.action_head(obs)
                return Categorical(probs=F.softmax(logits, dim=0)).sample()  # one observation, for all that is known

            def evaluate(self, obs, actions, axis):
                logits = self.action_head(obs)
                self.normalise(logits)
                logits.softmax(1)
                torch.softmax(logits, axis)
                return torch.log_softmax(logits, dim=-1).gather(-1, actions)
        """,
        """
        import torch
        from torch import nn

        class Attention(nn.Module):
            def evaluate(self, q: "[B, T, n]", k):
                scores = q @ k
                return scores.softmax(0), torch.softmax(scores, 0), torch.softmax()

        class Mixer(nn.Module):
            def __init__(self, build):
                super().__init__()
                self.weigh = build()

            def evaluate(self, x):
                return self.weigh(x)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n, axis):
                super().__init__()
                self.action_head = nn.Linear(4, n)
                self.chosen = nn.Softmax(axis)
                self.implicit = nn.LogSoftmax()

            def evaluate(self, obs):
                logits = self.action_head(obs)
                return self.chosen(logits), self.implicit(logits.gather(-1, obs) @ logits)
        """,
    )
    INVALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)
                self.implicit = nn.Softmax()
                self.first = nn.LogSoftmax(dim=0)

            def evaluate(self, obs, actions):
                logits = self.action_head(obs)
                first = F.log_softmax(logits, 0)  # <- ESP519
                second = logits.softmax(dim=0)  # <- ESP519
                third = self.first(logits)  # <- ESP519
                return first, second, third

            def forward(self, obs):
                '''Logits.

                obs: [B, T, features]
                '''
                logits = self.action_head(obs)
                return self._normalised(logits), self.implicit(self.action_head(obs))  # <- ESP519

            def _normalised(self, logits):
                return (
                    torch.softmax(logits, dim=1),  # <- ESP519
                    torch.softmax(logits, None),  # <- ESP519
                )
        """,
        # right where one step is decided, wrong where sequences are scored
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, obs):
                '''obs: [B, features]'''
                return torch.multinomial(self._log_probs(self.action_head(obs)).exp(), 1)

            def evaluate(self, obs, actions):
                '''obs: [B, T, features]'''
                return self._log_probs(self.action_head(obs)).gather(-1, actions)

            def _log_probs(self, logits):
                return nn.LogSoftmax()(logits)  # <- ESP519
        """,
        # the rank is not known, or right for once; and one method for both
        """
        import torch
        import torch.nn.functional as F
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)
                self.implicit = nn.LogSoftmax()

            def evaluate(self, obs):
                return self._normalised(self.action_head(obs)), F.softmax(self.action_head(obs))  # <- ESP519

            def evaluate_actions(self, obs):
                return self._normalised(self.action_head(obs))

            def _normalised(self, logits):
                return self.implicit(logits)  # <- ESP519

            def get_action_and_value(self, obs, action=None):
                log_probs = F.log_softmax(self.action_head(obs), dim=0)  # <- ESP519
                if action is None:
                    action = torch.multinomial(log_probs.exp(), 1)
                return action, log_probs.gather(-1, action)
        """,
    )


def _softmax(event: Event) -> tuple[Val, int | str | None] | None:
    """What is normalised, and over which axis: "" where none is given, None where it is unknown."""
    if event.name in _FUNCTIONS and event.args:
        return event.args[0], _axis(event.args[1:2], event.kwargs)
    if event.name in _METHODS:
        return event.target, _axis(event.args[:1], event.kwargs)
    if event.name in _LAYERS and event.args:
        return event.args[0], _axis_of_layer(event.target)
    return None


def _axis(args: tuple[Val, ...], kwargs: dict[str, Val]) -> int | str | None:
    given = args[0] if args else kwargs.get("dim", kwargs.get("axis"))
    if given is None or given.kind == "none":
        return ""
    return given.const if isinstance(given.const, int) and not given.origins else None


def _axis_of_layer(layer: Val) -> int | str | None:
    call = layer.ref[1] if isinstance(layer.ref, tuple) else None
    if not isinstance(call, cst.Call) or not call.args:
        return "" if call is not None else None
    value = call.args[0].value
    return int(value.value) if isinstance(value, cst.Integer) else None


def _wrong(dim: int | str | None, rank: int | None, *, batched: bool) -> str:
    """What is wrong about an axis, in words; nothing where that is not known."""
    if dim == 0 and (rank > 1 if rank is not None else batched):
        return f"axis 0 of {rank}" if rank else "axis 0"
    if dim == 1 and rank == 3:
        return "axis 1 of 3"
    if dim == "" and rank == 3:
        return "axis 0 of 3, which torch takes where no `dim` is given,"
    return ""
