"""ESP502: a call passes a mask of rank 2 to a method whose logits have rank 3."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Rule,
    Severity,
    lifted_in,
    tensor_role,
)


class MaskRankMismatch(Rule):
    """
    ## What it does
    Reports a call, in the network or in its callers, that passes a mask of known rank to a parameter whose documented
    rank is another one. Ranks are read from shape comments and docstrings (`# [batch, seq, actions]`), jaxtyping
    annotations, literal sizes, and carried through `unsqueeze`, `reshape`, indexing and the like.

    ## Why it matters
    `[B, A]` against logits of `[B, T, A]` broadcasts from the right: B == T applies the wrong masks silently, T == 1
    returns `[B, B, A]`, B == 1 happens to be right, and other sizes raise somewhere below.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(
            self,
            obs,  # [batch, seq, obs_dim]
            action_mask,  # [batch, seq, num_actions]
        ):
            return self.action_head(obs).masked_fill(~action_mask, -1e4)

        def act(self, obs):
            action_mask = torch.ones(obs.shape[0], 6, dtype=torch.bool)
            return self.forward(obs, action_mask).argmax(-1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(
            self,
            obs,  # [batch, seq, obs_dim]
            action_mask,  # [batch, seq, num_actions]
        ):
            return self.action_head(obs).masked_fill(~action_mask, -1e4)

        def act(self, obs):
            action_mask = torch.ones(obs.shape[0], 6, dtype=torch.bool)
            return self.forward(obs, action_mask.unsqueeze(1)).argmax(-1)
    ```

    ## Fix
    Unsafe: the method that is called gets a check at its head, `if mask.dim() == 2: mask = mask.unsqueeze(1)`, where it
    stands in the same file. Masks of that rank are taken from every caller then, those that lack another axis, too.

    ## Evidence
    On torch 2.13.0, a `[4, 7]` mask on `[4, 4, 7]` logits is accepted, and one on `[4, 1, 7]` logits gives `[4, 4, 7]`.
    Reports: JuliaReinforcementLearning/ReinforcementLearning.jl#917,
    Stable-Baselines-Team/stable-baselines3-contrib#25.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/broadcasting.html
    """

    code = "ESP502"
    name = "mask-rank-mismatch"
    summary = "a mask of the wrong rank is passed"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "mask-rank"
    fixable = "unsafe"
    help = "give the mask the axes that the parameter documents: `mask.unsqueeze(1)` for a single step"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls of the network's methods whose mask argument has another rank than the parameter states."""
        stated = {
            (function.node, param.name): rank
            for function in net.model.methods.values()
            for param in function.params
            if tensor_role(param.name) == "mask"
            and (rank := net.interpreter.declared(function, param, net.flow).rank) is not None
        }
        if not stated:
            return  # most networks write no ranks down, and then there is nothing to compare with
        for frame in net.all_frames:
            for event, _ in frame.walk():
                yield from self._check_call(stated, event)
        for caller in net.callers("mask", "masks", "action_mask", "action_masks", "avail_actions", *net.masks):
            for event in caller.frame.events:
                yield from self._check_call(stated, event)

    def _check_call(self, stated: dict[tuple[cst.FunctionDef, str], int], event: Event) -> Iterable[Hit]:
        callee = event.callee
        if event.kind != "call" or not isinstance(callee, Function) or event.frame is None:
            return
        for param in callee.params:
            wanted = stated.get((callee.node, param.name))
            given = event.frame.params.get(param.name)
            if (
                wanted is None
                or given is None
                or given.rank is None
                or given.rank == wanted
                or _handled(event, param.name)
            ):
                continue
            yield Hit.at(
                event,
                f"`{callee.name}` takes `{param.name}` of rank {wanted}, but gets rank {given.rank}",
                notes=(Note(callee.module, param.node, f"rank {wanted} is stated here"),),
                repair=_check(event, callee, param.name, wanted, given.rank),
            )

    VALID = (
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, obs, mask):
                '''Logits.

                Args:
                    obs: [batch, seq, obs_dim]
                    mask: [batch, num_actions] or [batch, seq, num_actions]
                '''
                return self.action_head(obs).masked_fill(~mask, -1e4)

            def act(self, obs, mask):
                return self.forward(obs, mask[:, 0])
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, obs, mask):
                '''Shape: mask: (B, T, A)'''
                if mask.dim() == 2:
                    mask = mask.unsqueeze(1)
                return self.action_head(obs).masked_fill(~mask, -1e4)

            def act(self, obs):
                return self.forward(obs, torch.ones(3, 4).bool())
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from jaxtyping import Bool, Float
                from torch import Tensor, nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.action_head = nn.Linear(4, n)

                    def forward(self, obs: Float[Tensor, "b t o"], mask: Bool[Tensor, "b t a"]):
                        return self.action_head(obs).masked_fill(~mask, -1e4)

                    def act(self, obs, mask: Bool[Tensor, "b a"]):
                        return self(obs.unsqueeze(1), mask)  # <- ESP502
            """,
                "trainer.py": """
                import torch
                from network import Policy

                class Trainer:
                    def __init__(self):
                        self.policy = Policy(5)

                    def update(self, obs):
                        mask = torch.ones((32, 16, 5), dtype=torch.bool)
                        return self.policy(obs, mask=mask.reshape(-1, 5))  # <- ESP502
            """,
            }
        ),
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(
                    self,
                    obs,  # [batch, seq, obs_dim]
                    mask=None,  # [batch, seq, actions]
                ):
                    logits = self.action_head(obs)
                    return logits if mask is None else logits.masked_fill(~mask, -1e4)

                def act(self, obs):
                    return self.forward(obs, torch.ones(4, 6, dtype=torch.bool)).argmax(-1)  # <- ESP502
            """,
            fixed="""
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(
                    self,
                    obs,  # [batch, seq, obs_dim]
                    mask=None,  # [batch, seq, actions]
                ):
                    if mask is not None and mask.dim() == 2:
                        mask = mask.unsqueeze(1)
                    logits = self.action_head(obs)
                    return logits if mask is None else logits.masked_fill(~mask, -1e4)

                def act(self, obs):
                    return self.forward(obs, torch.ones(4, 6, dtype=torch.bool)).argmax(-1)  # <- ESP502
            """,
        ),
    )


def _handled(event: Event, name: str) -> bool:
    """Whether the callee lifts or checks the mask itself, whatever its documentation says."""
    assert event.frame is not None
    argument = f"{event.frame.function.name}/{name}"
    return any(
        inner.kind in ("lift", "rank_check") and argument in inner.value.origins for inner, _ in event.frame.walk()
    )


def _check(event: Event, callee: Function, name: str, wanted: int, given: int) -> Repair | None:
    """A check in the method that is called, where it stands in the same file and one axis is missing."""
    lines = lifted_in(callee, [name], 1, wanted) if callee.module is event.module and given == wanted - 1 else None
    if lines is None:
        return None
    why = f"masks of rank {given} are taken from every caller then, those that lack another axis, too"
    return Repair(f"give masks of rank {given} an axis in `{callee.name}`", (lines,), why)
