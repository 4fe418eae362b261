"""ESP302: invalid actions are masked with -inf, which hand-written entropies and empty rows turn into NaN."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    MaskStep,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    masked_logits,
    other_constant,
)

_WHY = "a masked action gets a finite log-probability, and a row without a valid action equal chances, not an error"


class NegInfMask(Rule):
    """
    ## What it does
    Reports policy logits masked with minus infinity, in any spelling: `float("-inf")`, `-math.inf`, `-np.inf`,
    `-torch.inf`, a constant that holds one of them, `torch.log(mask)`; and with `torch.finfo(...).min`, above all when
    it is *added*: in float16 a logit of -16 or less makes it -inf, and in any format adding it twice does.

    ## Why it matters
    Three cases, and the severity says which one was seen. `high`: the masked logits reach a product `p * log p` written
    by hand; 0 * -inf is NaN, the entropy bonus is NaN, and after one update so are weights in every layer that led to
    it (with gradient clipping, all of them). `low`: they reach
    `torch.distributions.Categorical`, which copes as long as each row has a valid action; a row without one raises, or
    gives NaN when validation is off (and calling `torch.compile` once switches it off). `info`: the constant is
    `finfo.min`, put in place of the logit: finite, and safe in float32 and bfloat16 until it is added twice or divided
    by less than 1. In float16 it is not: beside a valid logit of 16 or more the softmax itself takes it to -inf.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions, action_mask):
            logits = self.action_head(obs).masked_fill(~action_mask, float("-inf"))
            log_probs = torch.log_softmax(logits, dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            return log_probs.gather(-1, actions), entropy
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions, action_mask):
            logits = self.action_head(obs).masked_fill(~action_mask, -1e4)
            log_probs = torch.log_softmax(logits, dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            return log_probs.gather(-1, actions), entropy
    ```

    ## Fix
    Unsafe: `-1e4` in place of the constant, where that stands in the masking step itself. A masked action then has a
    finite log-probability, and a row without a valid action gives equal chances to all and no error.

    ## Evidence
    On torch 2.13.0, `-(p * log_p).sum()` and `-(p * log_p * mask).sum()` are NaN for a row with a -inf logit; `where(p
    > 0, p * log_p, 0)` is finite with a NaN gradient; `Categorical(logits=...)` is finite in value and gradient.
    Reports: tensorforce/tensorforce#586, Unity-Technologies/ml-agents#4664, OpenRLHF/OpenRLHF#1240.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP302"
    name = "neg-inf-mask"
    summary = "invalid actions are masked with -inf"
    category = Category.GRADIENT
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "mask-entropy"
    fixable = "unsafe"
    help = "mask with a large finite constant such as -1e4, and refuse rows without a valid action"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Masking steps whose constant is, or becomes, minus infinity."""
        for step in masked_logits(net):
            if step.constant == "finfo.min":
                yield self._hit(
                    step,
                    "finfo.min: finite in float32, but -inf once it is added twice, or in float16 beside larger logits",
                    Severity.INFO,
                    Confidence.MEDIUM,
                )
            elif step.constant == float("-inf") and step.product is not None:
                yield self._hit(
                    step,
                    "-inf and p * log p is written by hand: the entropy is NaN wherever an action is masked",
                    Severity.HIGH,
                    Confidence.HIGH,
                    (Note(step.product.module, step.product.node, "the product that is NaN"),),
                )
            elif step.constant == float("-inf"):
                where = (
                    "go to torch.distributions: safe while each row has a valid action, an error or NaN for one without"
                    if step.reaches_distribution
                    else "leave here: safe for torch.distributions, NaN in any product with their probabilities"
                )
                confidence = Confidence.HIGH if step.reaches_distribution else Confidence.MEDIUM
                yield self._hit(step, f"-inf and {where}", Severity.LOW, confidence)

    def _hit(
        self, step: MaskStep, says: str, severity: Severity, confidence: Confidence, notes: tuple[Note, ...] = ()
    ) -> Hit:
        event = step.event
        return Hit.at(
            event,
            f"logits are masked with {says}",
            severity=severity,
            confidence=confidence,
            notes=notes,
            repair=other_constant(event, step.constant, _WHY),
        )

    VALID = (
        """
        import torch
        from torch import nn

        class Attention(nn.Module):
            def forward(self, q, k):
                scores = q @ k.transpose(-2, -1)
                causal = torch.triu(torch.ones(4, 4), 1).bool()
                return scores.masked_fill(causal, float("-inf")).softmax(-1)
        """,
        """
        import torch
        from torch import nn

        class QNet(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.out = nn.Linear(4, n)

            def act(self, x, action_mask):
                q_values = self.out(x)
                return q_values.masked_fill(~action_mask, -torch.inf).argmax(-1)
        """,
    )
    INVALID = (
        """
        import math
        import numpy as np
        import torch
        from math import inf
        from torch import nn
        from torch.distributions import Categorical

        NEG = -np.inf

        class Policy(nn.Module):
            FILL = -math.inf

            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.action_head(x).masked_fill(~mask, NEG)  # <- ESP302
                return Categorical(logits=logits).sample()

            def sample(self, x, mask):
                logits = self.action_head(x)
                logits[mask == 0] = self.FILL  # <- ESP302
                return Categorical(logits=logits).sample()

            def get_action(self, x, mask, fill=-torch.inf):
                logits = torch.where(mask, self.action_head(x), fill)  # <- ESP302
                return Categorical(logits=logits).sample()

            def predict(self, x, mask):
                logits = self.action_head(x) + torch.log(mask)  # <- ESP302
                return Categorical(logits=logits).sample()

            def choose_action(self, x, mask):
                bias = torch.zeros_like(mask).masked_fill(mask == 0, -inf)
                logits = self.action_head(x) + bias  # <- ESP302
                return Categorical(logits=logits).sample()

            def select_action(self, x, mask):
                logits = self.action_head(x)
                logits = logits.masked_fill(mask.logical_not(), torch.finfo(logits.dtype).min)  # <- ESP302
                return Categorical(logits=logits).sample()

            def forward(self, x, mask):
                logits = self.action_head(x)
                return logits + (1 - mask) * torch.finfo(torch.float32).min  # <- ESP302
        """,
        """
        import torch.nn.functional as F
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def evaluate(self, x, mask):
                logits = self.action_head(x).masked_fill(~mask, float("-inf"))  # <- ESP302
                p, logp = F.softmax(logits, -1), F.log_softmax(logits, -1)
                return -(p * logp * mask).sum(-1)
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.action_head(x).where(mask, float("-inf"))  # <- ESP302
                return Categorical(logits=logits).sample()
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def evaluate(self, x, mask):
                logits = self.action_head(x).masked_fill(~mask, -torch.inf)  # <- ESP302
                logp = torch.log_softmax(logits, -1)
                return -(logp.exp() * logp.masked_fill(~mask, 0.0)).sum(-1)

            def act(self, x, mask):
                logits = self.action_head(x).masked_fill(~mask, -torch.inf)  # <- ESP302
                logp = torch.log_softmax(logits, -1)
                return -(logp.exp().masked_fill(~mask, 0.0) * logp).sum(-1)
        """,
        # the product in other words
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def evaluate(self, x, mask):
                logp = torch.log_softmax(self.action_head(x).masked_fill(~mask, -torch.inf), -1)  # <- ESP302
                return -torch.einsum("bn,bn,bn->b", logp.exp(), logp, mask.float())

            def evaluate_actions(self, x, mask):
                p = torch.softmax(self.action_head(x).masked_fill(~mask, -torch.inf), -1)  # <- ESP302
                return -(p[:, None] @ torch.log(p)[..., None])

            def act(self, x, mask):
                p = torch.softmax(self.action_head(x).masked_fill(~mask, -torch.inf), -1)  # <- ESP302
                return -torch.mul(p, p.log()).sum(-1)
        """,
        Case(
            """
            import math
            import torch
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x, mask):
                    logits = self.action_head(x).masked_fill(~mask, -float("inf"))  # <- ESP302
                    return Categorical(logits=logits).sample()

                def predict(self, x, mask):
                    logits = torch.where(mask, self.action_head(x), -math.inf)  # <- ESP302
                    return Categorical(logits=logits).sample()

                def choose_action(self, x, mask):
                    logits = self.action_head(x)
                    logits[~mask] = -torch.inf  # <- ESP302
                    return Categorical(logits=logits).sample()
            """,
            fixed="""
            import math
            import torch
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x, mask):
                    logits = self.action_head(x).masked_fill(~mask, -1e4)  # <- ESP302
                    return Categorical(logits=logits).sample()

                def predict(self, x, mask):
                    logits = torch.where(mask, self.action_head(x), -1e4)  # <- ESP302
                    return Categorical(logits=logits).sample()

                def choose_action(self, x, mask):
                    logits = self.action_head(x)
                    logits[~mask] = -1e4  # <- ESP302
                    return Categorical(logits=logits).sample()
            """,
        ),
    )
