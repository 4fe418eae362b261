"""ESP109: a hot method branches on the values of a tensor."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    tensor_branches,
)


class TensorTruthinessBranch(Rule):
    """
    ## What it does
    Reports `if`, `while` and `x if test else y` in hot methods (forward, act, evaluate, value) whose condition is a
    tensor that came out of a layer, a distribution or an argument: `if mask.any():`, `while value.abs().max() > 1e6:`.

    ## Why it matters
    Python has to know the answer, so the host waits until the device has computed everything up to there: once per
    call, which in a rollout is once per step and head. Under `torch.compile` the graph ends at the branch.

    Medium where `torch.compile` is seen to cover the method, low elsewhere, and low for checks that only raise. Silent
    for conditions on shapes, dtypes, None and Python numbers, for `assert` (which torch.compile traces), behind debug
    flags, in functions kept out of graphs by `torch.compiler.disable`, and behind `torch.compiler.is_compiling()`;
    silent, too, where nothing is compiled and the answer decides whether Python loops: one wait may save many steps.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, mask):
            logits = self.action_head(obs)
            if not mask.any(dim=-1).all():
                mask = torch.ones_like(mask)
            return logits.masked_fill(~mask, -1e4)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, mask):
            logits = self.action_head(obs)
            mask = mask | ~mask.any(dim=-1, keepdim=True)
            return logits.masked_fill(~mask, -1e4)
    ```

    ## Evidence
    On torch 2.13.0, `if (y > 0).any():`, `if not torch.isfinite(y).all(): raise`, `y if y.mean() > 0 else z` and
    `while y.abs().max() > 1e6:` each give 2 graphs instead of 1, and with `fullgraph=True` raise "Data-dependent
    branching"; `assert torch.isfinite(y).all()` stays in one graph. Reported in pytorch/vision#9314 and
    pytorch/pytorch#145618.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.where.html
    """

    code = "ESP109"
    name = "tensor-truthiness-branch"
    summary = "a hot method branches on the values of a tensor"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "graph-breaks"
    help = "select with `torch.where`, check with `torch._assert_async`, or check before the call"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Conditions on tensors; those of compiled methods weigh more, unless they only raise."""
        for found in tensor_branches(net):
            check = "a check" if found.what == "check" else "a branch"
            cost = "the host waits for the device at each call"
            if found.site is None:
                yield Hit.at(found.event, f"{check} asks a tensor for its values: {cost}")
            else:
                yield Hit.at(
                    found.event,
                    f"{check} asks a tensor for its values in what is compiled: the graph ends there, and {cost}",
                    severity=Severity.LOW if found.what == "check" else Severity.MEDIUM,
                    notes=(Note(*found.site, "it is compiled here"),),
                )

    VALID = (
        # What Python knows without the device; an assert; a flag; code for eager runs only; a method nobody calls hot.
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, limit=4.0, debug=False):
                super().__init__()
                self.limit = limit
                self.debug = debug
                self.rnn = nn.GRU(8, 8)
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs, hidden=None, mask=None, names=()):
                has_mask = mask is not None
                if has_mask and obs.dim() == 3 and obs.shape[0] > 1 and obs.dtype == torch.float32 and self.training:
                    mask = mask.unsqueeze(1)
                if hidden == None or obs is hidden or obs.is_cuda or self.limit > 2:
                    hidden = torch.zeros(1, 8)
                logits = self.action_head(obs)
                assert torch.isfinite(logits).all()
                if self.debug and not torch.isfinite(logits).all():
                    raise ValueError
                if not torch.compiler.is_compiling():
                    if logits.isnan().any():
                        raise ValueError
                if "head" in names or obs.numel() > 4 or mask.requires_grad:
                    return self.check(logits)
                return logits if names else torch.where(logits > 0, logits, -logits)

            def evaluate_actions(self, obs, hidden, episode_starts):
                if torch.any(episode_starts):
                    for t in range(obs.shape[0]):
                        hidden = hidden * (1 - episode_starts[t])
                        out, hidden = self.rnn(obs[t : t + 1], hidden)
                else:
                    out, hidden = self.rnn(obs, hidden)
                return self.action_head(out), hidden

            def get_action(self, obs: torch.Tensor):
                if not isinstance(obs, torch.Tensor):
                    if not obs:
                        obs = torch.zeros(8)
                return self.action_head(obs)

            @torch.compiler.disable
            def check(self, logits):
                if logits.abs().max() > 1e6:
                    raise ValueError
                return logits

            def export(self, obs):
                if self.action_head(obs).mean() > 0:
                    return obs
        """,
        # In a test, the point may be the value.
        Case(
            {
                "test_policy.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def forward(self, obs):
                        logits = self.action_head(obs)
                        if logits.isnan().any():
                            raise ValueError
                        return logits
                """
            },
            target="test_policy.py",
        ),
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask):
                if not mask.any(dim=-1).all():  # <- ESP109
                    raise ValueError("a row without a valid action")
                self.logits = logits.masked_fill(~mask, -1e4)

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                self.value_head = nn.Linear(8, 1)
                self.core = nn.GRU(8, 8)

            def forward(self, obs, hidden):
                out, hidden = self.core(obs, hidden)
                out = out * 1.0
                if out.abs().max() > 100:  # <- ESP109
                    out = out.clamp(-100, 100)
                return self.action_head(out), hidden

            def get_action(self, obs, mask, verbose=True):
                logits = self.action_head(obs)
                if mask is not None and torch.any(mask):  # <- ESP109
                    logits = Masked(logits, mask).logits
                return [row for row in logits if row.max() > 0]  # <- ESP109

            def get_value(self, obs):
                value = self.value_head(obs).squeeze(-1)
                while value.abs().max() > 1e6:  # <- ESP109
                    value = value / 2
                value = value if value.mean() > 0 else -value  # <- ESP109
                if torch.isnan(value).any() or 0 < value.mean() < 1:  # <- ESP109  # <- ESP109
                    value = torch.zeros_like(value)
                return value
        """,
        # Compiled, once by a decorator and once by a caller; one is called by both and told once.
        """
        import torch
        from torch import nn

        class Base:
            def evaluate_actions(self, obs, mask):
                logits = self.action_head(obs)
                if self.empty(mask):  # <- ESP109
                    logits = logits * 0
                return logits

            def empty(self, mask):
                return (mask.sum(dim=-1) == 0).any()

        class Policy(Base, nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def act(self, obs, mask):
                return self.evaluate_actions(obs, mask)

            @torch.compile
            def forward(self, obs, mask):
                if obs.isnan().any():  # <- ESP109
                    raise ValueError
                if obs.max() > 1e6:  # <- ESP109
                    for part in obs:
                        part.clamp_(max=1e6)
                return self.evaluate_actions(obs, mask)

        def train():
            policy = Policy()
            policy.evaluate_actions = torch.compile(policy.evaluate_actions)
            return policy
        """,
    )
