"""ESP504: the rollout buffer stores fields for some of the heads, or for heads the network does not have."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    ClassModel,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Praise,
    Rule,
    Severity,
    buffer_fields,
)

_FAMILIES = ("actions", "log_probs", "masks")


class BufferHeadMismatch(Rule):
    """
    ## What it does
    Compares the heads of a factored network with the per-head fields (`move_actions`, `move_log_probs`, `move_masks`)
    of the rollout buffers that its trainer uses, and reports a family of fields that leaves a head out.

    ## Why it matters
    A head whose mask is not stored is evaluated without one: its log-probs in the update belong to another distribution
    than those of the rollout, and the ratio is not 1 at the first step. A head whose action or log-prob is not stored
    gets no gradient from the policy loss.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.move_head = nn.Linear(8, 4)
            self.tool_head = nn.Linear(8, 3)

        def act(self, obs):
            return [Categorical(logits=head).sample() for head in (self.move_head(obs), self.tool_head(obs))]

    class RolloutBuffer:
        def __init__(self, steps):
            self.move_actions = torch.zeros(steps, dtype=torch.long)
            self.tool_actions = torch.zeros(steps, dtype=torch.long)
            self.move_masks = torch.zeros(steps, 4, dtype=torch.bool)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.move_head = nn.Linear(8, 4)
            self.tool_head = nn.Linear(8, 3)

        def act(self, obs):
            return [Categorical(logits=head).sample() for head in (self.move_head(obs), self.tool_head(obs))]

    class RolloutBuffer:
        def __init__(self, steps):
            self.move_actions = torch.zeros(steps, dtype=torch.long)
            self.tool_actions = torch.zeros(steps, dtype=torch.long)
            self.move_masks = torch.zeros(steps, 4, dtype=torch.bool)
            self.tool_masks = torch.zeros(steps, 3, dtype=torch.bool)
    ```

    ## Evidence
    Updates without the masks of the rollout: AgileRL/AgileRL#487, hill-a/stable-baselines#453; joint log-probs with a
    head missing: DLR-RM/stable-baselines3#13 and #1599.

    ## References
    - Huang et al., The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track 2022
    """

    code = "ESP504"
    name = "buffer-head-mismatch"
    summary = "the rollout buffer and the network disagree about the heads"
    category = Category.INTEGRATION
    severity = Severity.MEDIUM
    confidence = Confidence.MEDIUM
    probe = "act-evaluate"
    help = "store the same fields for every head the network has"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Families of buffer fields that leave a head of the network out."""
        for model, families in _families(net):
            heads = {head.stem: head for head in net.acting_heads}
            for family, nodes in families.items():
                missing = sorted(
                    stem for stem in heads.keys() - nodes.keys() if family != "masks" or _is_masked(net, stem)
                )
                if not missing:
                    continue
                yield Hit(
                    next(iter(nodes.values())),
                    f"`{model.name}` stores {family} for {_listed(nodes)}, "
                    f"but not for {_listed(missing)} of {net.name}",
                    module=model.module,
                    symbol=model.name,
                    notes=(
                        Note(net.module, net.model.node.name, f"{net.name} has {len(heads)} heads: {_listed(heads)}"),
                    ),
                )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Buffers whose families cover every head."""
        heads = {head.stem for head in net.acting_heads}
        for model, families in _families(net):
            if len(families) >= 2 and all(nodes.keys() >= heads for nodes in families.values()):
                yield Praise(
                    model.node.name,
                    f"`{model.name}` stores {', '.join(families)} for each of the {len(heads)} heads of {net.name}",
                    module=model.module,
                    symbol=model.name,
                )

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.move_head = nn.Linear(8, 4)
                self.tool_head = nn.Linear(8, 3)

        class ReplayBuffer:
            def __init__(self, steps):
                self.actions = torch.zeros(steps)
                self.masks = torch.zeros(steps)
                self.move_cost = torch.zeros(steps)
        """,
        Case(
            """
            import torch
            from torch import nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.move_head = nn.Linear(8, 4)
                    self.tool_head = nn.Linear(8, 3)

                def act(self, obs):
                    out = {"move": self.move_head(obs), "tool": self.tool_head(obs)}
                    return {name: torch.distributions.Categorical(logits=x).sample() for name, x in out.items()}

            class RolloutBuffer:
                move_actions: torch.Tensor
                tool_actions: torch.Tensor
                move_masks: torch.Tensor
                tool_masks: torch.Tensor
        """,
            praised=True,
        ),
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.move_head = nn.Linear(8, 4)
                self.tool_head = nn.Linear(8, 3)

            def act(self, obs):
                return [Categorical(logits=x).sample() for x in (self.move_head(obs), self.tool_head(obs))]

        class RolloutBuffer:
            def __init__(self, steps):
                self.actions = torch.zeros(steps, 2, dtype=torch.long)
                self.masks = torch.zeros(steps, 7, dtype=torch.bool)
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                import torch
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.move_head = nn.Linear(8, n)
                        self.tool_head = nn.Linear(8, n)
                        self.mode_head = nn.Linear(8, n)
                        self.reward_head = nn.Linear(8, n)

                    def act(self, x):
                        logits = [self.move_head(x), self.tool_head(x), self.mode_head(x)]
                        return [torch.distributions.Categorical(logits=logit).sample() for logit in logits]
            """,
                "storage.py": """
                from dataclasses import dataclass
                import torch

                @dataclass
                class RolloutStorage:
                    move_log_probs: torch.Tensor  # <- ESP504
                    tool_log_probs: torch.Tensor
            """,
                "trainer.py": """
                from network import Policy
                from storage import RolloutStorage

                def train():
                    return Policy(3), RolloutStorage
            """,
            }
        ),
    )


def _is_masked(net: NetworkClass, stem: str) -> bool:
    """Whether the network takes a mask for this head: one of its own, or one collection for all."""
    return any(mask.startswith(stem) for mask in net.masks) or not any("_mask" in mask for mask in net.masks)


def _families(net: NetworkClass) -> Iterable[tuple[ClassModel, dict[str, dict[str, cst.CSTNode]]]]:
    """Per buffer, the families of per-head fields that name at least two heads of the network."""
    heads = [head.stem for head in net.acting_heads]
    if len(heads) < 2:
        return
    for model in net.buffer_classes():
        fields = buffer_fields(model)
        families: dict[str, dict[str, cst.CSTNode]] = {}
        for family in _FAMILIES:
            found = {
                stem: fields[name]
                for stem in heads
                for name in (f"{stem}_{family}", f"{stem}_{family[:-1]}")
                if name in fields
            }
            # One match may be chance; for masks one is enough when the buffer stores several heads' actions.
            if len(found) >= 2 or (found and families):
                families[family] = found
        if families:
            yield model, families


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
