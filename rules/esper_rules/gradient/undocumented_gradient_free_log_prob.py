"""ESP301: act returns log-probs without gradient, and does not say so."""

from __future__ import annotations

import re
from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    Case,
    Category,
    Confidence,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Praise,
    Rule,
    Severity,
    descendants,
    gradient_free_block,
    leaves,
    literal_string,
)

_SAYS_SO = re.compile(
    r"differentiab|(?<!policy )(?<!policy-)gradients?\b|backprop|back-prop|detach|no[_ -]?grad\b|requires_grad"
    r"|autograd|old[_ ]log|behaviou?r[_ ](policy|log)|rollout only|not for training|recompute|use `{0,2}evaluate",
    re.IGNORECASE,
)


def _says_so(function: Function) -> bool:
    """Whether docstrings, comments or the keys of the result say that no gradient flows through the log-probs."""
    words = [function.docstring, function.owner.docstring if function.owner else ""]
    for node in descendants(function.node):
        if isinstance(node, cst.SimpleString):
            words.append(literal_string(node) or "")
        elif isinstance(node, cst.SimpleStatementLine):
            lines: list[cst.EmptyLine | cst.TrailingWhitespace] = [*node.leading_lines, node.trailing_whitespace]
            words += [line.comment.value for line in lines if line.comment is not None]
        elif isinstance(node, (cst.With, cst.If, cst.For)):
            words += [line.comment.value for line in node.leading_lines if line.comment is not None]
    return any(_SAYS_SO.search(text) for text in words)


class UndocumentedGradientFreeLogProb(Rule):
    """
    ## What it does
    Reports an act method that computes log-probs under `torch.inference_mode` or `torch.no_grad` and returns them,
    while its docstring does not say that no gradient flows through them.

    ## Why it matters
    The name promises what `evaluate_actions` also returns, so sooner or later somebody builds a loss on it. Alone, the
    backward pass raises. Added to another differentiable term (an entropy bonus, a value loss) it is silent: the policy
    term contributes nothing and training goes on. `inference_mode` is the sharper case, since its tensors may not
    be saved for a backward pass at all (see ESP303).

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        @torch.inference_mode()
        def get_action(self, obs):
            '''Sample actions.'''
            dist = Categorical(logits=self.action_head(obs))
            action = dist.sample()
            return action, dist.log_prob(action)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        @torch.no_grad()
        def get_action(self, obs):
            '''Sample actions. The log-probs carry no gradient: they are old log-probs, train on evaluate_actions.'''
            dist = Categorical(logits=self.action_head(obs))
            action = dist.sample()
            return action, dist.log_prob(action)
    ```

    ## Evidence
    On torch 2.13.0, `log_prob.sum().backward()` on such a log-prob raises; `(log_prob + entropy).sum().backward()` does
    not and leaves the policy term without effect. A family of algorithms that did not train for such a reason:
    kengz/SLM-Lab#133.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html#inference-mode
    """

    code = "ESP301"
    name = "undocumented-gradient-free-log-prob"
    summary = "act returns log-probs without gradient and does not say so"
    category = Category.GRADIENT
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "log-prob-gradient"
    help = "say in the docstring that the log-probs are not differentiable and which method to train on"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Act methods whose returned log-probs were born without gradient."""
        if not net.mentions(b"no_grad", b"inference_mode", b"set_grad_enabled"):
            return
        for frame in net.frames(ACT):
            function = frame.function
            if function.module is not module:
                continue
            born = {
                tag for value in leaves(frame.result, "log_prob") for tag in value.tags & {"inference_mode", "no_grad"}
            }
            if not born or _says_so(function):
                continue
            context = "inference_mode" if "inference_mode" in born else "no_grad"
            returned = [event for event in frame.events if event.kind == "return"]
            yield Hit(
                gradient_free_block(function) or function.node.name,
                f"`{function.name}` returns log-probs computed under `torch.{context}`, and its docstring does not say "
                "that no gradient flows through them",
                symbol=function.qualified,
                severity=Severity.MEDIUM if context == "inference_mode" else Severity.LOW,
                notes=tuple(Note(event.module, event.node, "returned here") for event in returned[-1:]),
            )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Act methods that say what their log-probs are for."""
        if not net.mentions(b"no_grad", b"inference_mode"):
            return
        for frame in net.frames(ACT):
            function = frame.function
            if (
                function.module is module
                and _says_so(function)
                and any(value.tags & {"inference_mode", "no_grad"} for value in leaves(frame.result, "log_prob"))
            ):
                yield Praise(
                    function.node.name,
                    f"`{function.name}` says that its log-probs carry no gradient",
                    symbol=function.qualified,
                )

    VALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def get_action(self, x):
                dist = Categorical(logits=self.action_head(x))
                with torch.no_grad():
                    action = dist.sample()
                return action, dist.log_prob(action)

            @torch.no_grad()
            def predict(self, x):
                return Categorical(logits=self.action_head(x)).sample()
        """,
        Case(
            """
            import torch
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                @torch.inference_mode()
                def act(self, x):
                    '''Sample. The log-probs are not differentiable.'''
                    dist = Categorical(logits=self.action_head(x))
                    return dist.log_prob(dist.sample())
        """,
            praised=True,
        ),
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x):
                dist = Categorical(logits=self.action_head(x))
                action = dist.sample()
                return action, dist.log_prob(action)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.heads = nn.ModuleDict({"a": nn.Linear(4, n)})

            def act(self, x):
                log_probs = {}
                with torch.inference_mode():  # <- ESP301
                    for name, head in self.heads.items():
                        dist = Categorical(logits=head(x))
                        log_probs[name] = dist.log_prob(dist.sample())
                return log_probs
        """,
        """
        from torch import no_grad, nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def _dist(self, x):
                return Categorical(logits=self.action_head(x))

            @no_grad()  # <- ESP301
            def sample_action(self, x):
                dist = self._dist(x)
                action = dist.sample()
                logp = dist.log_prob(action)
                return action, logp
        """,
        Case(
            {
                "base.py": """
                import torch
                from torch import nn
                from torch.distributions import Categorical

                class Actor(nn.Module):
                    @torch.no_grad()  # <- ESP301
                    def act(self, x):
                        dist = Categorical(logits=self.action_head(x))
                        return dist.log_prob(dist.sample())
                """,
                "network.py": """
                from base import Actor
                from torch import nn

                class Policy(Actor):
                    def __init__(self, n):
                        super().__init__()
                        self.action_head = nn.Linear(4, n)
                """,
            }
        ),
    )
