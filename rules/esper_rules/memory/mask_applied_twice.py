"""ESP402: logits that are masked already are masked again by the distribution."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Event,
    Hit,
    MaskMark,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
)


class MaskAppliedTwice(Rule):
    """
    ## What it does
    Reports a call that hands masked logits and a mask to a distribution (or helper) which masks them again.

    ## Why it matters
    The second masking changes nothing and copies the logits once more per head and step; a constant tensor is often
    built for it each time. With different constants in the two places it is also unclear which one is in force.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Masked:
        def __init__(self, logits, mask):
            self.dist = Categorical(logits=logits.masked_fill(~mask, -1e4))

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, action_mask):
            return self.action_head(obs).masked_fill(~action_mask, -1e4)

        def act(self, obs, action_mask):
            return Masked(self.forward(obs, action_mask), action_mask).dist.sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Masked:
        def __init__(self, logits, mask):
            self.dist = Categorical(logits=logits.masked_fill(~mask, -1e4))

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs)

        def act(self, obs, action_mask):
            return Masked(self.forward(obs), action_mask).dist.sample()
    ```

    ## Evidence
    Measured on the founding audit's network (tachyon-beep/esper-lite 1bfd94a9) on torch 2.13.0: 8 `masked_fill` for 4
    heads and 4 constant tensors per evaluation, where the audit had praised the absence of needless copies.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.Tensor.masked_fill.html
    """

    code = "ESP402"
    name = "mask-applied-twice"
    summary = "masked logits are masked again"
    category = Category.MEMORY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "mask-effect"
    help = (
        "mask in one place: let `forward` return raw logits, "
        "or build the distribution from logits that are masked already"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Masking of a value that another function has masked before."""
        for _, event, stack in net.hot_events("mask"):
            if "mask" not in event.other.roles:
                continue
            # Two steps in one function are read at a glance, and often combine two different masks.
            earlier = [
                mark
                for mark in event.target.masked
                if mark.function.node is not event.function.node and _same_mask(mark, event)
            ]
            if not earlier or "logits" not in event.target.roles or not stack:
                continue
            call = net.in_network(event, stack)
            first = min(earlier, key=lambda mark: mark.order)
            yield Hit.at(
                call,
                f"`{call.name}` masks logits that are masked already: one needless copy per call",
                notes=(
                    Note(first.function.module, first.node, "masked first here"),
                    Note(event.module, event.node, "and again here"),
                ),
            )

    VALID = (
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, obs, legal_actions, action_mask):
                logits = self.action_head(obs)
                logits = logits.masked_fill(~legal_actions, -1e4)
                logits = logits.masked_fill(~action_mask, -1e4)
                return Categorical(logits=logits).sample()
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, obs, cooldown):
                logits = self.action_head(obs)
                return Categorical(logits=logits.masked_fill(cooldown > 0, -1e4)).sample()
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        def masked_distribution(logits, mask):
            return Categorical(logits=torch.where(mask, logits, -1e4))

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.heads = nn.ModuleDict({"a": nn.Linear(4, n)})

            def forward(self, obs, masks):
                out = {name: head(obs) for name, head in self.heads.items()}
                return {f"{name}_logits": x.masked_fill(~masks[name], -1e4) for name, x in out.items()}

            def evaluate_actions(self, obs, masks, actions):
                out = self.forward(obs, masks)
                logits = out["a_logits"]
                return masked_distribution(logits, masks["a"]).log_prob(actions["a"])  # <- ESP402
        """,
    )


def _same_mask(mark: MaskMark, event: Event) -> bool:
    """Whether both maskings use masks that came in through a common parameter of the method that was called."""
    common = mark.origins & event.other.origins
    return any("/" not in origin and "@" not in origin for origin in common)
