"""ESP304: a division is guarded by a constant that float16 rounds to zero."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import Category, Confidence, Hit, ModuleModel, NetworkClass, Rule, Severity


class NormaliserClampUnderflow(Rule):
    """
    ## What it does
    Reports `x / y.clamp(min=1e-8)` (also `clamp_min`, `torch.clamp`, `torch.clip`) on the way from the network to its
    actions, log-probs and entropies, when the bound is below the smallest positive number of float16, about 6e-8.

    ## Why it matters
    In float16 the bound is zero (from 3e-8 it rounds up instead), so the guard guards nothing. Where the denominator is
    the log of the number of valid actions it is exactly zero for every row with one valid action: 0 / 0. If the count
    is an integer, as below, its log and the bound are float32, and it is the gradient, 1 / 1e-8, that overflows on its
    way back to float16. A masked entropy bonus then has NaN values or NaN gradients, on just the rows where masking
    matters most. Elsewhere the finding is `low`: it needs half precision and a denominator that does reach zero.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, action_mask):
            log_probs = torch.log_softmax(self.action_head(obs).masked_fill(~action_mask, -1e4), dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            max_entropy = torch.log(action_mask.sum(-1).clamp(min=1))
            return entropy / max_entropy.clamp(min=1e-8)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, action_mask):
            log_probs = torch.log_softmax(self.action_head(obs).masked_fill(~action_mask, -1e4), dim=-1)
            entropy = -(log_probs.exp() * log_probs).sum(-1)
            max_entropy = torch.log(action_mask.sum(-1).clamp(min=2))
            return entropy / max_entropy
    ```

    ## Evidence
    On torch 2.13.0, `torch.tensor(1e-8, dtype=torch.float16)` is 0; the founding audit's network
    (tachyon-beep/esper-lite 1bfd94a9) in half precision gave NaN gradients for rows with one valid action.

    ## References
    - https://docs.pytorch.org/docs/stable/type_info.html
    """

    code = "ESP304"
    name = "normaliser-clamp-underflow"
    summary = "a division is guarded by a constant that float16 rounds to zero"
    category = Category.GRADIENT
    severity = Severity.LOW
    confidence = Confidence.MEDIUM
    probe = "entropy-gradient"
    help = (
        "clamp what can really be too small: `num_valid.clamp(min=2)` before the log; "
        "a larger epsilon alone does not cure float16"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Divisions by a value clamped to a tiny bound."""
        if not net.mentions(b"clamp", b"clip"):
            return
        for _, event, _stack in net.events("divide"):
            if "tiny_clamp" not in event.other.tags or not isinstance(event.other.ref, tuple):
                continue
            if event.other.dtype in ("float32", "float64"):
                continue  # it was cast, so its bound holds
            bound = event.other.ref[1]
            entropy = "entropy" in event.target.roles or "log_of_count" in event.other.tags
            subject = "an entropy is" if entropy else "a value is"
            yield Hit.at(
                event,
                f"{subject} divided by something clamped to {bound:g}, which float16 rounds to zero"
                + (": rows with one valid action give NaN" if entropy else ""),
                severity=Severity.MEDIUM if entropy else None,
            )

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(8, 4)

            def forward(self, obs):
                x = self.head(obs)
                return x / x.float().log().clamp(min=1e-8)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(8, 4)

            def forward(self, obs):
                x = self.head(obs)
                return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-4)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(8, 4)

            def forward(self, obs):
                x = self.head(obs)
                return x / (x.norm(dim=-1, keepdim=True) + 1e-4)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        EPS = 1e-8

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(8, 4)

            def forward(self, obs):
                x = self.head(obs)
                scale = torch.clamp(x.norm(dim=-1, keepdim=True), min=EPS)
                return x / scale  # <- ESP304

            def evaluate(self, obs):
                x = self.head(obs)
                return x.div(x.sum(-1, keepdim=True).clamp_min(1e-12))  # <- ESP304
        """,
    )
