"""ESP312: torch.where guards a logarithm, root or quotient that is bad just where the guard is false."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    GRADIENT_FREE,
    Category,
    Confidence,
    Event,
    Frame,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    Val,
    assigned,
    descendants,
    literal_number,
)

_UPPER = (cst.GreaterThan, cst.GreaterThanEqual, cst.NotEqual)  # in `where(x > 0, f(x), ...)`
_EPSILON = 1e-3  # a larger bound tests for something else
_BAD_BELOW = ("log", "log2", "log10", "sqrt", "rsqrt", "reciprocal")
_LEARNED = frozenset({"affine", "squashed", "p", "logp", "lse"})


class WhereGuardNanGradient(Rule):
    """
    ## What it does
    Reports `torch.where(x > 0, f(x), ...)` where f takes the logarithm or root of the very x that the guard tests, or
    divides by it, and what goes in comes from the network's own outputs. `x <= 0` with the branches exchanged is the
    same. An operand that was made safe before (a clamp, an epsilon, an inner `where`) is left alone, and so is code
    without gradient.

    ## Why it matters
    `where` computes both branches. Backward, the one that was not taken gets the gradient 0, and its own derivative at
    a bad operand is infinite: 0 * inf is NaN. The loss is finite, its gradient is not, and the next step of the
    optimiser writes NaN into every weight that led there. Entropies over masked actions meet the bad operand in every
    batch.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs):
            probs = torch.softmax(self.action_head(obs), -1)
            return -torch.where(probs > 0, probs * torch.log(probs), 0.0).sum(-1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs):
            probs = torch.softmax(self.action_head(obs), -1)
            safe = torch.where(probs > 0, probs, 1.0)
            return -(probs * torch.log(safe)).sum(-1)
    ```

    ## Evidence
    On torch 2.13.0, with x = 0, the gradients of `where(x > 0, f(x), 0)` are NaN for `x.log()`, `x * x.log()`,
    `x.sqrt()` and `1 / x`, and 0 with an inner `where` or a clamp; where a count of 0 divides, the numerator gets NaN.
    pytorch/pytorch#187297 (a root), #68425 (an exponential) and #36923 (a quotient) report it, and are closed: autograd
    is like that.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html#gradients-for-non-differentiable-functions
    """

    code = "ESP312"
    name = "where-guard-nan-gradient"
    summary = "torch.where hides a NaN forward, and not backward"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "gradient-flow"
    help = "make the operand safe before it is used: `torch.where(x > 0, x, 1.0).log()`, or a clamp"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Choices whose guard tests what the chosen branch cannot bear."""
        told: set[cst.CSTNode] = set()
        for frame, event, stack in net.events("call") if net.mentions(b"where(") else ():
            if event.name not in ("torch.where", ".where") or event.contexts & GRADIENT_FREE or event.node in told:
                continue
            inner = stack[-1].frame if stack and stack[-1].frame is not None else frame
            bad = next(_unguarded(event, inner), None)
            if bad is not None:
                told.add(event.node)
                yield Hit.at(
                    event,
                    "the guard hides a bad value forward, but backward it is 0 * inf: the gradient is NaN there",
                    notes=(Note(bad.module, bad.node, "bad just where the guard is false"),),
                )

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.scale = nn.Linear(4, 1)

            def evaluate(self, x):
                p = self.head(x).softmax(-1)
                safe = torch.where(p > 0, p, torch.ones_like(p))
                entropy = -(p * safe.log()).sum(-1)
                clamped = torch.where(p > 0, torch.log(p.clamp(min=1e-8)), 0.0)
                return entropy, clamped, torch.where(p > 0, safe.log(), 0.0)

            def get_log_prob(self, x, k):
                p = torch.clamp(self.head(x).softmax(-1), min=1e-8)
                q = self.head(x)
                return (
                    torch.where(p > 0, torch.log(p), 0.0),
                    torch.where(q > k, torch.log(q), 0.0),
                    torch.where(q > 1, torch.log(q), 0.0),
                    torch.where(q >= 0, q.sqrt(), 0.0),
                    torch.where(q > 0, q.exp(), 1 + q),
                    torch.where(q > 0, 1.0, q.log()),
                    torch.where(q > 0),
                    torch.where(condition=q > 0, input=q.log(), other=q),
                    torch.where(0 < q, q.log(), q),
                    torch.where(0 < q < 1, q.log(), q),
                    torch.where(k, q.log(), q),
                )

            def evaluate_actions(self, x, weights, log=None):
                # nothing is learned from the weights
                weights = torch.where(weights > 0, torch.log(weights), 0.0)
                with torch.no_grad():
                    q = self.head(x)
                    return torch.where(q > 0, q.log(), 0.0) * weights

            def forward(self, x, obs):
                norm = obs.norm(dim=-1)
                return torch.where(norm > 0, 1.0 / norm, norm), torch.where(norm > 0, torch.log(), torch.sqrt(norm))
        """,
        """
        import torch
        from torch import nn

        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.value = nn.Linear(4, 1)

            def forward(self, x):
                v = self.value(x)
                return torch.where(v > 0, torch.log1p(v.abs()), -torch.log1p(v.abs()))
        """,
    )
    INVALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn

        def entropy_of(probs):
            terms = probs * torch.log(probs)
            return -torch.where(probs > 0, terms, torch.zeros_like(probs)).sum(-1)  # <- ESP312

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, n))
                self.scale = nn.Linear(4, 1)

            def _spread(self, x):
                s = self.scale(x)
                return torch.where(s <= 0, 0.0, torch.sqrt(s))  # <- ESP312

        class Policy(Base):
            def evaluate(self, x):
                return entropy_of(F.softmax(self.actor(x), dim=-1)), self._spread(x)

            def get_log_prob(self, x):
                s = self.scale(x)
                valid = s >= 1e-6
                log = s.log().where(valid, torch.zeros_like(s))  # <- ESP312
                return log, torch.where(s != 0, 1 / s, s)  # <- ESP312

            def evaluate_actions(self, x, mask):
                logits = self.actor(x)
                p, logp = logits.softmax(-1), logits.log_softmax(-1)
                count = mask.sum(-1)
                entropy = -(p * logp).sum(-1)
                return torch.where(count > 0, entropy / count, 0.0)  # <- ESP312
        """,
    )


def _unguarded(event: Event, frame: Frame) -> Iterator[Event]:
    """The steps in the guarded branch that get what the guard tests, and whose outcome is learned from."""
    call = event.node
    if not isinstance(call, cst.Call) or any(arg.star or arg.keyword is not None for arg in call.args):
        return
    parts = [arg.value for arg in call.args]
    if event.name == ".where" and isinstance(call.func, cst.Attribute):
        parts.insert(1, call.func.value)
    guard = _spelled_out(event.function, parts[0])
    if len(parts) != 3 or not isinstance(guard, cst.Comparison) or not _tests_for_zero(guard):
        return
    upper = isinstance(guard.comparisons[0].operator, _UPPER)
    inside = set(descendants(_spelled_out(event.function, parts[1] if upper else parts[2])))
    subject = event.module.code(guard.left)
    for step in frame.events:
        operand, value = _operand(step) if step.node in inside else (None, step.value)
        if operand is None or event.module.code(operand) != subject or "above_zero" in value.tags:
            continue
        if _is_learned(value) or (step.kind == "divide" and _is_learned(step.target)):
            yield step


def _tests_for_zero(guard: cst.Comparison) -> bool:
    """Whether it is `x > 0`, `x != 0`, `x > 1e-6` or the opposite: one side of it holds 0."""
    operator, bound = guard.comparisons[0].operator, guard.comparisons[0].comparator
    if len(guard.comparisons) != 1 or not isinstance(bound, (cst.Integer, cst.Float)):
        return False
    number = literal_number(bound)
    with_zero = isinstance(operator, (cst.GreaterThan, cst.LessThanEqual, cst.NotEqual, cst.Equal))
    without_zero = isinstance(operator, (cst.GreaterThanEqual, cst.LessThan))
    return (with_zero and number == 0) or ((with_zero or without_zero) and 0 < number <= _EPSILON)


def _spelled_out(function: Function, node: cst.BaseExpression) -> cst.BaseExpression:
    """An expression, or what a name was given, where one assignment gives it."""
    if not isinstance(node, cst.Name):
        return node
    given = assigned(function.node, node.value)
    return given[0] if len(given) == 1 else node


def _operand(step: Event) -> tuple[cst.BaseExpression | None, Val]:
    """What a step cannot bear at 0: the argument of a logarithm or root, or what it divides by."""
    node = step.node
    if step.kind == "divide" and isinstance(node, cst.BinaryOperation):
        return node.right, step.other
    if not isinstance(node, cst.Call) or step.name.rpartition(".")[2] not in _BAD_BELOW:
        return None, step.value
    if isinstance(node.func, cst.Attribute) and step.name.startswith("."):
        return node.func.value, step.target
    return (node.args[0].value, step.args[0]) if step.args else (None, step.value)


def _is_learned(value: Val) -> bool:
    """Whether a value certainly has a gradient: it comes from the network's own layers."""
    computed = bool(value.roles & {"entropy", "log_prob"}) and value.kind == "tensor" and not value.origins
    return bool(value.from_layers) or computed or bool(value.tags & _LEARNED)
