"""ESP203: logits are masked with a constant that float16 cannot hold."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Praise,
    Rule,
    Severity,
    masked_logits,
    other_constant,
)

_WIDE = ("float32", "float64", "bfloat16")  # bfloat16 has the exponents of float32
_HALF_MIN = -65504.0  # torch.finfo(torch.float16).min


class MaskConstantOverflow(Rule):
    """
    ## What it does
    Reports a finite mask constant below -65504 (`-1e5`, `-1e8`, `-1e9`, ...) that is written into policy logits which
    are not known to be float32.

    ## Why it matters
    float16 ends at -65504. `masked_fill` and `torch.full` raise there; `torch.where`, index assignment, `torch.tensor`
    and the addition of a half-precision mask turn the constant into -inf without a word, and hand-written entropies are
    NaN from then on. bfloat16 has the range of float32 and is not affected. The finding is `low` while nothing in the
    project speaks of half precision or autocast.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            logits = self.action_head(obs).masked_fill(~action_mask, -1e9)
            return Categorical(logits=logits).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            logits = self.action_head(obs).float().masked_fill(~action_mask, -1e9)
            return Categorical(logits=logits).sample()
    ```

    ## Fix
    Unsafe: `-1e4` in place of the constant, where that stands in the masking step itself. Valid logits below about -1e4
    would fall among the masked ones. It is not `finfo.min`: that becomes -inf when it is added twice (ESP302).

    ## Evidence
    On torch 2.13.0, `x.half().masked_fill(m, -1e9)` raises, `torch.where(m, x.half(), -1e9)` gives -inf, and -1e4
    passes. Reports: NVIDIA/apex#1052 and #1105, pytorch/pytorch#6292.

    ## References
    - https://docs.pytorch.org/docs/stable/type_info.html
    """

    code = "ESP203"
    name = "mask-constant-overflow"
    summary = "the mask constant does not fit float16"
    category = Category.DEVICE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "mask-dtype"
    fixable = "unsafe"
    help = "use a constant that half precision holds, such as -1e4, or cast the logits with `.float()` before masking"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Masking steps with a finite constant outside float16."""
        for step in masked_logits(net):
            known = step.constant
            if (
                not isinstance(known, float)
                or not float("-inf") < known < _HALF_MIN
                or step.event.target.dtype in _WIDE
            ):
                continue
            yield Hit(
                step.event.node,
                f"the mask constant {known:g} does not fit float16 (smallest value -65504): logits in half precision "
                "raise here or become -inf",
                module=step.event.module,
                symbol=step.event.function.qualified,
                severity=Severity.HIGH if net.half_precision else None,
                confidence=None if net.half_precision else Confidence.MEDIUM,
                repair=other_constant(step.event, known, "a valid logit below about -1e4 would fall among the masked"),
            )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """A named mask constant that half precision holds, with its reason written beside it."""
        used = {
            step.constant
            for step in masked_logits(net)
            if isinstance(step.constant, float) and _HALF_MIN <= step.constant <= -1e3
        }
        for name, assignment in module.explained_constants() if used else ():
            if net.project.constant(module.path, name) in used:
                yield Praise(
                    assignment,
                    f"the mask constant `{name}` fits half precision, and its reason is written down",
                    symbol=name,
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

            def select(self, x, mask, scores):
                logits = torch.min(self.action_head(x), (scores > 0).float() * 1e9 - 1e9)
                return Categorical(logits=logits.detach().clone().masked_fill_(mask, -1e9)).sample()

            def choose(self, x, mask, scores):
                logits = torch.where(scores > 0, self.action_head(x), scores.float()) + 1.0
                return Categorical(logits=(logits + self.action_head(x)).masked_fill(~mask, -1e9)).sample()

            def act(self, x, mask):
                logits = self.action_head(x).float() / 1.5
                return Categorical(logits=logits.masked_fill(~mask, -1e9)).sample()

            def predict(self, x, mask):
                logits = torch.log_softmax(self.action_head(x), dim=-1, dtype=torch.float32)
                return Categorical(logits=logits.masked_fill(~mask, -1e9)).sample()
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.action_head(x)
                wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
                return Categorical(logits=wide.masked_fill(~mask, -1e30)).sample()

            def predict(self, x, mask):
                return self.action_head(x).double().masked_fill(~mask, -1e30).softmax(-1).argmax(-1)

            def evaluate(self, x, mask, action):
                logits = self.action_head(x).to(torch.bfloat16).masked_fill(~mask, -1e9)
                return Categorical(logits=logits).log_prob(action)
        """,
        """
        import torch
        from torch import nn

        class Attention(nn.Module):
            def forward(self, scores, attn_mask):
                return scores.masked_fill(attn_mask == 0, -1e9).softmax(-1)
        """,
        Case(
            """
            import torch
            from torch import nn
            from torch.distributions import Categorical

            # float16 ends at -65504, and softmax gives zero far above that.
            MASKED = -1e4
            # The paper's choice.
            GAMMA = 0.99

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x, mask):
                    logits = self.action_head(x) + (1 - mask) * MASKED
                    return Categorical(logits=logits).sample()
            """,
            praised=True,
        ),
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        BIG_NEG = -1e8

        class Policy(nn.Module):
            MASKED = -1e10

            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.action_head(x)
                logits = torch.where(mask, logits, torch.tensor(BIG_NEG))  # <- ESP203
                return Categorical(logits=logits).sample()

            def evaluate_actions(self, x, mask, action):
                logits = self.action_head(x)
                logits[~mask] = self.MASKED  # <- ESP203
                return Categorical(logits=logits).log_prob(action)

            def choose_action(self, x, avail):
                out = self.action_head(x)
                logit = out + (avail - 1) * 1e7  # <- ESP203
                return logit.softmax(-1)

            def predict(self, x, avail_actions):
                scores = self.action_head(x)
                scores = scores - (1.0 - avail_actions) * 1e9  # <- ESP203
                return Categorical(logits=scores).probs.argmax(-1)
        """,
        """
        from torch import nn, full_like, where
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, x, mask, fill=-1e20):
                x = self.action_head(x)
                x.masked_fill_(mask == 0, fill)  # <- ESP203
                return Categorical(logits=x).sample()

            def predict(self, x, mask):
                x = self.action_head(x)
                x = where(mask.bool(), x, full_like(x, -2.0**31))  # <- ESP203
                return Categorical(logits=x).sample()
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            @torch.autocast("cuda", dtype=torch.float16)
            def act(self, x, mask):
                logits = self.action_head(x).masked_fill(~mask, -1e9)  # <- ESP203
                return Categorical(logits=logits).sample()

            def evaluate(self, x, mask, action):
                logits = self.action_head(x)
                same = logits.to(torch.promote_types(logits.dtype, torch.float16))
                return Categorical(logits=same.masked_fill(~mask, -1e9)).log_prob(action)  # <- ESP203
        """,
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x, mask):
                    logits = self.action_head(x).masked_fill(~mask, value=-1e9)  # <- ESP203
                    return Categorical(logits=logits).sample()

                def predict(self, x, mask):
                    logits = self.action_head(x) + (1 - mask) * -1_000_000  # <- ESP203
                    return Categorical(logits=logits).sample()
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def act(self, x, mask):
                    logits = self.action_head(x).masked_fill(~mask, value=-1e4)  # <- ESP203
                    return Categorical(logits=logits).sample()

                def predict(self, x, mask):
                    logits = self.action_head(x) + (1 - mask) * -1e4  # <- ESP203
                    return Categorical(logits=logits).sample()
            """,
        ),
    )
