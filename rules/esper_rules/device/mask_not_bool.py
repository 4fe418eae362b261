"""ESP207: a mask is inverted in a way that its dtype does not allow."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    Insert,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Rule,
    Severity,
    descendants,
    find,
)

_SIMPLE = (cst.Name, cst.Attribute, cst.Call, cst.Subscript)  # a `.bool()` behind them belongs to all of it


class MaskNotBool(Rule):
    """
    ## What it does
    Reports `~mask` where the mask certainly is of integers or of floats, because of the call that made it
    (`torch.ones(n)` without a dtype, `.float()`, `.long()`, a buffer), and `1 - mask` where it certainly is bool. Masks
    that callers in the project pass count, too. A mask whose dtype is not known is left alone, and so is `1 - mask` of
    floats, which is right; but `(~mask).bool()` and `~mask != 0` are `medium` then: they do nothing for a bool mask,
    and for any other they come too late.

    ## Why it matters
    `~` flips the bits of an integer: ~1 is -2 and ~0 is -1, and as truth values both are True. With
    `.bool()` behind it, the whole row is masked; as an index of integers it picks rows; times a constant it
    adds where it should subtract. None of them raises. For floats `~` raises, and so does `1 - mask` for bools: then
    the branch that does it was never run.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            mask = action_mask.long()
            return self.action_head(obs).masked_fill((~mask).bool(), -1e4).argmax(-1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            mask = action_mask.bool()
            return self.action_head(obs).masked_fill(~mask, -1e4).argmax(-1)
    ```

    ## Fix
    Unsafe: `.bool()` between `~` and the mask. What is masked changes, or what raised does not any more.

    ## Evidence
    On torch 2.13.0, `(~torch.tensor([1, 0, 1])).bool()` is True everywhere; `x[~mask] = -1e9` with such a mask fills
    rows -2 and -1; `~` of a float mask raises TypeError, `1 - mask` of a bool mask RuntimeError. That `~` of uint8
    changed its meaning is pytorch/pytorch#24180, and what this broke elsewhere is mended in
    lvzhaoyang/DeeperInverseCompositionalAlgorithm#5.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.bitwise_not.html
    """

    code = "ESP207"
    name = "mask-not-bool"
    summary = "a mask is inverted in a way that its dtype does not allow"
    category = Category.DEVICE
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "mask-kinds"
    fixable = "unsafe"
    help = "convert masks with `.bool()` where they come in, and invert them with `~`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Inversions of masks of the wrong dtype, whether made here or by a caller."""
        open_ones: set[cst.CSTNode] = set()
        told: set[cst.CSTNode] = set()
        late: dict[cst.CSTNode, Event] = {}
        for _, event, _ in net.events("invert"):
            if event.name == "~ before bool":
                late.setdefault(event.node, event)
            elif _is_wrong(event) and event.node not in told:
                told.add(event.node)
                yield _hit(event)
            elif event.target.dtype is None:
                open_ones.add(event.node)
        for caller in net.callers("mask", "masks", "action_mask", "action_masks") if open_ones else ():
            for event, stack in caller.frame.walk():
                if event.kind == "invert" and event.node in open_ones - told and _is_wrong(event):
                    told.add(event.node)
                    yield _hit(event, (Note(stack[0].module, stack[0].node, "this caller passes such a mask"),))
        for node, event in late.items():
            if not any(inner in told for inner in descendants(node)):
                says = "a mask becomes bool after `~`: all of it is True for integers, and for bools it is in vain"
                yield Hit.at(event, says, severity=Severity.MEDIUM, repair=_earlier(event))

    VALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.register_buffer("all_actions_mask", torch.ones(n, dtype=torch.bool))

            def act(self, x, mask):
                return self.head(x).masked_fill(~mask, -1e9).argmax(-1)

            def sample(self, x, mask):
                mask = mask.float()
                return (self.head(x) - (1 - mask) * 1e9).argmax(-1)

            def predict(self, x):
                mask = torch.ones(4) > 0
                other = torch.ones(4).logical_not()
                return ~mask, ~other, ~self.all_actions_mask, ~(torch.ones(4).bool())

            def step(self, x, mask, floats):
                mask = mask.float() if floats else mask.bool()
                return ~mask, 1 - mask

            def forward(self, mask: torch.BoolTensor, index: torch.LongTensor):
                return (~mask).bool(), ~index, (~index).bool()

            def explore(self, x, mask):
                self.head(x).masked_fill((~mask.bool()).bool(), -1e9)
                self.head(x).masked_fill(~mask, -1e9)
                return ~(mask != 0) != 0, mask.bool(), (mask == 0).bool()
        """,
        Case(
            {
                "network.py": """
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    return self.head(x).masked_fill(~mask, -1e9).argmax(-1)
            """,
                "train.py": """
            import torch
            from network import Policy

            def train(x, masks):
                policy = Policy(3)
                mask = torch.ones(3, dtype=torch.bool)
                policy.act(x, mask)
                policy.act(x, masks)
                return ~mask
            """,
            }
        ),
    )
    INVALID = (
        """
        import torch
        from torch import nn

        def inverse(mask):
            return ~mask  # <- ESP207

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.register_buffer("legal_mask", torch.ones(n))

            def hidden(self):
                return ~self.legal_mask  # <- ESP207

        class Policy(Base):
            def act(self, x, mask):
                return self.head(x).masked_fill(inverse(mask.long()).bool(), -1e9).argmax(-1)

            def sample(self, x):
                return self.head(x).masked_fill(self.hidden(), -1e9).argmax(-1)

            def predict(self, x, mask: torch.LongTensor):
                logits = self.head(x)
                logits[(~mask).bool()] = -1e9  # <- ESP207
                return logits.argmax(-1)

            def step(self, x, mask):
                allowed = (mask > 0).reshape(-1)
                return self.head(x) - (1 - allowed) * 1e9  # <- ESP207

            def explore(self, x, mask=None):
                if mask is None:
                    mask = torch.zeros(4, dtype=torch.uint8)
                    return ~(+mask)  # <- ESP207
                return self.head(x), ~(mask.float())  # <- ESP207
        """,
        Case(
            {
                "network.py": """
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, mask):
                    return self.head(x).masked_fill(~mask, -1e9).argmax(-1)  # <- ESP207
            """,
                "train.py": """
            import torch
            from network import Policy

            def train(x):
                policy = Policy(3)
                mask = torch.ones(3)
                return policy.act(x, mask)
            """,
            }
        ),
        Case(
            """
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, action_mask):
                    mask = action_mask.int()
                    return self.head(x).masked_fill((~mask).bool(), -1e9).argmax(-1)  # <- ESP207

                def sample(self, x, action_mask):
                    mask = action_mask.float()
                    return ~-mask  # <- ESP207
            """,
            fixed="""
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, action_mask):
                    mask = action_mask.int()
                    return self.head(x).masked_fill((~mask.bool()).bool(), -1e9).argmax(-1)  # <- ESP207

                def sample(self, x, action_mask):
                    mask = action_mask.float()
                    return ~-mask  # <- ESP207
            """,
        ),
        Case(
            """
            import torch
            from torch import nn

            class Masked:
                def __init__(self, logits, mask):
                    self.logits = logits.masked_fill((~mask).bool(), -1e9)  # <- ESP207
                    self.other = torch.where(~mask != 0, -1e9, logits)  # <- ESP207

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, action_mask):
                    return Masked(self.head(x), action_mask).logits.argmax(-1)

                def sample(self, x, mask):
                    invalid = ~mask
                    logits = self.head(x)
                    logits[invalid.bool()] = -1e9  # <- ESP207
                    return logits.masked_fill((~-mask).to(torch.bool), -1e9).argmax(-1)  # <- ESP207
            """,
            fixed="""
            import torch
            from torch import nn

            class Masked:
                def __init__(self, logits, mask):
                    self.logits = logits.masked_fill((~mask.bool()).bool(), -1e9)
                    self.other = torch.where(~mask.bool() != 0, -1e9, logits)

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, action_mask):
                    return Masked(self.head(x), action_mask).logits.argmax(-1)

                def sample(self, x, mask):
                    invalid = ~mask
                    logits = self.head(x)
                    logits[invalid.bool()] = -1e9
                    return logits.masked_fill((~-mask).to(torch.bool), -1e9).argmax(-1)
            """,
        ),
    )


def _is_wrong(event: Event) -> bool:
    return event.name == "1 -" or event.target.dtype not in (None, "bool")


def _hit(event: Event, notes: tuple[Note, ...] = ()) -> Hit:
    dtype = event.target.dtype
    integers = dtype is not None and "int" in dtype
    if event.name == "1 -":
        says = "`1 - mask` raises for a bool mask"
    elif integers:
        says = f"`~` flips the bits of an {dtype} mask: neither ~1 nor ~0 is 0"
    else:
        says = "`~` raises for a mask of floats"
    return Hit.at(event, says, notes=notes, repair=_repair(event))


def _earlier(event: Event) -> Repair | None:
    """`.bool()` behind the mask, where the inversion stands in the same expression."""
    inverted = [node for node in find(event.node, cst.UnaryOperation) if isinstance(node.operator, cst.BitInvert)]
    if len(inverted) != 1 or not isinstance(inverted[0].expression, _SIMPLE):
        return None
    return Repair("convert the mask first", (Insert(inverted[0].expression, ".bool()"),), "what is masked changes")


def _repair(event: Event) -> Repair | None:
    """`.bool()` behind what `~` stands before."""
    node = event.node
    if not isinstance(node, cst.UnaryOperation) or not isinstance(node.expression, _SIMPLE):
        return None
    why = "what is masked changes, or what raised does not any more"
    return Repair("convert the mask first", (Insert(node.expression, ".bool()"),), why)
