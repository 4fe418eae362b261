"""ESP309: the log-probs of a policy are the logarithm of a softmax that is already rounded."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
    Val,
    find,
    scores_actions,
)

_SMALL = 1e-7  # beside it, what is added changes no probability that float32 can tell from 0
_LOGS = frozenset({"torch.log", ".log", ".log_"})


class LogOfProbabilities(Rule):
    """
    ## What it does
    Reports `log` of what a softmax gave, where a policy takes its log-probs or entropies that way: bare, with a
    constant added, and after a clamp. A constant of 1e-7 or less, and one that is not known, is `low`. Probabilities
    that come from somewhere else, that were masked and divided by their sum, and `log_softmax` are left alone.

    ## Why it matters
    A softmax rounds: what is rare becomes 0, and its logarithm -inf with a NaN gradient. The usual cure is worse than
    it looks. `log(p + 1e-3)` is no log-prob: its exponentials sum to more than 1, no action is rarer than 1e-3, and an
    action there gets next to no gradient, so that PPO cannot bring it back; a clamp gives it none at all. Log-probs
    that were stored by one formula and are compared with those of another start with a ratio that is not 1.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions):
            log_probs = torch.log(torch.softmax(self.action_head(obs), dim=-1) + 1e-5)
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

    ## Fix
    Unsafe: `log_softmax` where softmax and logarithm are written as one expression. Log-probs of rare actions change.

    ## Evidence
    On torch 2.13.0, logits (50, 0, 0): `log_softmax` gives the second action -50 with a gradient of 1 for its logit;
    `log(p + 1e-8)` -18.4 with 2e-14, `log(p + 1e-3)` -6.9 with 2e-19, `log(p.clamp(min=1e-6))` -13.8 with 0. With (120,
    0, 0) the bare logarithm is -inf and all gradients are NaN. Over 1000 rows of eight standard-normal logits the
    exponentials of `log(p + 1e-3)` sum to 1.008, those of `log(p + 1e-8)` to 1 but for rounding. NaN gradients of a
    logarithm behind a softmax, where `LogSoftmax` has none, are reported in pytorch/pytorch#1620.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html, which says to use log_softmax
    """

    code = "ESP309"
    name = "log-of-probabilities"
    summary = "log-probs are the logarithm of a rounded softmax"
    category = Category.GRADIENT
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "policy-range"
    fixable = "unsafe"
    help = "take log_softmax of the logits, and the probabilities from its exponential"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Logarithms of a policy's probabilities, each once."""
        told: set[cst.CSTNode] = set()
        for _, event, _ in net.hot_events("call"):
            p = _probabilities(event)
            if p is None or event.node in told or not scores_actions(net, p) or _is_dropped(event):
                continue
            told.add(event.node)
            says, severity = _words(p)
            yield Hit.at(event, says, severity=severity, repair=_repair(event))

    VALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.weigh = nn.Linear(4, 4)

            def forward(self, x, mask):
                weights = torch.log(self.weigh(x).softmax(-1))  # of attention
                return self.head(x * weights)

            def act(self, x, mask):
                return Categorical(logits=self(x, mask).log_softmax(-1)).sample()

            def evaluate(self, x, mask, action):
                p = self(x, mask).softmax(-1) * mask
                p = p / p.sum(-1, keepdim=True)
                odds = torch.log(self.head(x).exp() + 1e-8)
                return torch.log(p + 1e-8).gather(-1, action), odds, torch.log(mask.sum(-1) + 1e-8)
        """,
        # replaced before it is read
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, n), nn.Softmax(dim=-1))

            def evaluate(self, x, action):
                p = self.actor(x)
                log_p = torch.log(p)
                zeros = (p == 0.0).float() * 1e-8
                log_p = torch.log(p + zeros)
                return log_p.gather(-1, action)
        """,
        # a constant for the zeros alone: nothing else moves
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x):
                p = torch.softmax(self.head(x), dim=-1)
                log_p = torch.log(p + (p == 0.0).float() * 1e-8)
                return torch.multinomial(p, 1), log_p
        """,
    )
    INVALID = (
        # by an object of the project, with helpers and heads in a container
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask):
                p = logits.masked_fill(~mask, -1e30).softmax(-1)
                self.log_probs = p.clamp(min=1e-6).log()  # <- ESP309

            def log_prob(self, action):
                return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: nn.Linear(4, n) for name, n in sizes.items()})

            def distributions(self, x, masks):
                return {name: Masked(head(x), masks[name]) for name, head in self.heads.items()}

            def evaluate_actions(self, x, masks, actions):
                heads = self.distributions(x, masks)
                return torch.stack([head.log_prob(actions[name]) for name, head in heads.items()]).sum(0)
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Base(nn.Module):
            def _log(self, p):
                return torch.log(p)  # <- ESP309

        class Policy(Base):
            def __init__(self, n, eps):
                super().__init__()
                self.eps = eps
                self.actor = nn.Sequential(nn.Linear(4, n), nn.Softmax(dim=-1))

            def act(self, x):
                p = self.actor(x)
                action = torch.multinomial(p, 1)
                log_p = torch.log(p)  # <- ESP309
                log_p = log_p.gather(-1, action)
                return action, self._log(p.gather(-1, action)), log_p

            def get_action(self, x):
                dist = Categorical(self.actor(x))
                return dist.sample(), -(dist.probs * torch.log(dist.probs + 1e-8)).sum(-1)  # <- ESP309

            def evaluate(self, x, action, eps: float):
                p = self.actor(x)
                first = torch.log(p + eps).gather(-1, action)  # <- ESP309
                return first, (1e-3 + p.gather(-1, action)).log()  # <- ESP309
        """,
        Case(
            """
            import torch
            import torch.nn.functional as F
            from torch import nn
            from torch.nn.functional import softmax

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x):
                    logits = self.action_head(x)
                    log_p = torch.log(F.softmax(logits, dim=-1) + 1e-6)  # <- ESP309
                    other = torch.log(torch.softmax(logits, -1))  # <- ESP309
                    third = logits.softmax(-1).clamp(min=1e-4).log()  # <- ESP309
                    fourth = (logits.softmax(-1) + 1e-9).log()  # <- ESP309
                    fifth = torch.log(softmax(logits, -1))  # <- ESP309
                    p = logits.softmax(-1)
                    return torch.multinomial(p, 1), log_p, other, third, fourth, fifth, p.log()  # <- ESP309
            """,
            fixed="""
            import torch
            import torch.nn.functional as F
            from torch import nn
            from torch.nn.functional import softmax

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x):
                    logits = self.action_head(x)
                    log_p = F.log_softmax(logits, dim=-1)
                    other = torch.log_softmax(logits, -1)
                    third = logits.log_softmax(-1)
                    fourth = logits.log_softmax(-1)
                    fifth = torch.log(softmax(logits, -1))
                    p = logits.softmax(-1)
                    return torch.multinomial(p, 1), log_p, other, third, fourth, fifth, p.log()
            """,
        ),
    )


def _probabilities(event: Event) -> Val | None:
    """What the logarithm is taken of, if those are probabilities."""
    if event.name not in _LOGS:
        return None
    subject = event.args[0] if event.name == "torch.log" and event.args else event.target
    return subject if subject.tags & {"p", "p_floor"} else None


def _is_dropped(event: Event) -> bool:
    """Whether a later statement of the block gives the name to something else before anybody has read it."""
    for block in (block for node in event.scope for block in find(node, cst.IndentedBlock)):
        own = next((line for line in block.body if _assigned(line) and _value(line) is event.node), None)
        if own is not None:
            name = _assigned(own)
            after = block.body[list(block.body).index(own) + 1 :]
            uses = (line for line in after if any(node.value == name for node in find(line, cst.Name)))
            first = next(uses, None)
            return first is not None and _assigned(first) == name and not _reads(_value(first), name)
    return False


def _assigned(line: cst.CSTNode) -> str:
    """The name that a plain assignment gives a value to."""
    small = line.body[0] if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    target = small.targets[0].target if isinstance(small, cst.Assign) and len(small.targets) == 1 else None
    return target.value if isinstance(target, cst.Name) else ""


def _value(line: cst.CSTNode) -> cst.CSTNode:
    return line.body[0].value  # type: ignore[attr-defined, no-any-return]


def _reads(node: cst.CSTNode, name: str) -> bool:
    return any(each.value == name for each in find(node, cst.Name))


def _words(p: Val) -> tuple[str, Severity | None]:
    floor = p.ref[1] if "p_floor" in p.tags and isinstance(p.ref, tuple) else 0.0
    if "p_floor" not in p.tags:
        return "the logarithm of a softmax is -inf, with NaN gradients, for an action that is rounded to 0", None
    if not isinstance(floor, float):
        return "the logarithm of a softmax and something added to it is no log-prob", Severity.LOW
    says = f"no action gets a log-prob below log({floor:g}), and none near it a gradient that would bring it back"
    return says, Severity.LOW if floor <= _SMALL else None


def _repair(event: Event) -> Repair | None:
    """The call of softmax under another name, in place of all that stands around it."""
    inner = [
        call
        for call in find(event.node, cst.Call)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "softmax"
    ]
    if len(inner) != 1 or not isinstance(event.node, cst.Call):
        return None
    call = inner[0]
    new = call.with_changes(func=call.func.with_changes(attr=cst.Name("log_softmax")))
    return Repair(
        "take `log_softmax` of the logits",
        (Replace(event.node, event.module.code(new)),),
        "log-probs of rare actions change: do not mix them with stored ones",
    )
