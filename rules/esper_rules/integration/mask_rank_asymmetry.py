"""ESP501: one method lifts 2-D masks to the rank of its logits, another takes them as they come."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    FORWARD,
    Case,
    Category,
    Confidence,
    Event,
    Frame,
    Hit,
    InsertLines,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Rule,
    Severity,
    axis_of_lift,
    lifted_in,
)


class MaskRankAsymmetry(Rule):
    """
    ## What it does
    Reports a method that brings a mask to the right rank (`if mask.dim() == 2: mask = mask.unsqueeze(1)`) while a
    sister method applies the mask of the same name without lifting or checking it.

    ## Why it matters
    Callers learn from the tolerant method that both ranks are fine. Given `[B, A]` against logits of `[B, T, A]`, the
    other method broadcasts: for B == T it applies the masks of other environments without a word, for T == 1 it returns
    `[B, B, A]`, and B == 1 happens to be right; only in the other cases does it raise. Illegal actions then enter the
    update with probability, and legal ones without.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, action_mask):
            logits = self.action_head(obs)  # [batch, seq, num_actions]
            return logits.masked_fill(~action_mask, -1e4)

        def get_action(self, obs, action_mask):
            if action_mask.dim() == 2:
                action_mask = action_mask.unsqueeze(1)
            return Categorical(logits=self.forward(obs, action_mask)).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, action_mask):
            logits = self.action_head(obs)  # [batch, seq, num_actions]
            if action_mask.shape != logits.shape:
                raise ValueError(f"expected a mask of shape {tuple(logits.shape)}, got {tuple(action_mask.shape)}")
            return logits.masked_fill(~action_mask, -1e4)

        def get_action(self, obs, action_mask):
            if action_mask.dim() == 2:
                action_mask = action_mask.unsqueeze(1)
            return Categorical(logits=self.forward(obs, action_mask)).sample()
    ```

    ## Fix
    Unsafe: each method that lacks it gets the same lift at its head, `if mask.dim() == 2: mask = mask.unsqueeze(1)`,
    where all stand in one file. Masks of rank 2 are taken from every caller then, those that lack another axis, too.

    ## Evidence
    Measured on torch 2.13.0 on the founding audit's network (tachyon-beep/esper-lite 1bfd94a9) with a 2-D mask at B ==
    T == 4: 9 of 28 illegal actions open, no error. Masks of the wrong rank or width are the question users of masked
    PPO ask most: Stable-Baselines-Team/stable-baselines3-contrib#249, #80 and #102.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/broadcasting.html
    """

    code = "ESP501"
    name = "mask-rank-asymmetry"
    summary = "one method lifts masks to the rank of the logits, another neither lifts nor checks them"
    category = Category.INTEGRATION
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "mask-rank"
    fixable = "unsafe"
    help = "check rank and size of each mask where it is applied, in one helper that all methods use"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Masks that one method lifts and another applies as they come."""
        if not net.speaks_of_masks:
            return
        frames = list(net.frames(FORWARD, ACT, EVALUATE))
        bare = {frame.function.name: _applied_unchecked(frame) for frame in frames}
        for frame in frames:
            if frame.function.module is not module:
                continue
            lifts = _lifts(frame)
            aliases = _aliases(frame)
            sisters = {method: masks for method, masks in bare.items() if method != frame.function.name}
            lifted = {
                name: lift
                for name, lift in lifts.items()
                if any(
                    name in masks or aliases.get(name, set()) & {f"{method}/{mask}" for mask in masks}
                    for method, masks in sisters.items()
                )
            }
            if not lifted:
                continue
            known = lifted.keys() | {alias for name in lifted for alias in aliases.get(name, ())}
            careless = sorted(
                method
                for method, masks in sisters.items()
                if masks and known & (masks.keys() | {f"{method}/{mask}" for mask in masks})
            )
            names = ", ".join(f"`{name}`" for name in lifted)
            others = " and ".join(f"`{method}`" for method in careless)
            verbs = "lifts nor checks" if len(careless) == 1 else "lift nor check"
            first, last = next(iter(lifted.values())), list(lifted.values())[-1]
            notes = [
                Note(e.module, e.node, f"`{method}` applies it as it comes")
                for method in careless
                for e in [next(iter(bare[method].values()))]
            ]
            yield Hit(
                first.node,
                f"`{frame.function.name}` lifts {names} from rank 2, but {others} neither {verbs} "
                f"{'it' if len(lifted) == 1 else 'them'}",
                module=first.module,
                symbol=frame.function.qualified,
                notes=tuple(notes),
                end=last.node if last.module is first.module else None,
                repair=_checks(net, first.module, lifted, bare, careless),
            )

    VALID = (
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def _lift(self, mask):
                return mask.unsqueeze(1) if mask.ndim == 2 else mask

            def forward(self, obs, mask):
                return self.action_head(obs).masked_fill(~self._lift(mask), -1e4)

            def act(self, obs, mask):
                if mask.dim() == 2:
                    mask = mask[:, None]
                return Categorical(logits=self.forward(obs, mask)).sample()
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, obs):
                return self.action_head(obs)

            def act(self, obs):
                if obs.dim() == 2:
                    obs = obs.unsqueeze(1)
                return self.forward(obs).argmax(-1)
        """,
    )
    INVALID = (
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, obs, mask):
                return self.action_head(obs).masked_fill(~mask, -1e4)

            def act(self, obs, action_mask):
                action_mask = action_mask if action_mask.dim() == 3 else action_mask.unsqueeze(1)  # <- ESP501
                return Categorical(logits=self.forward(obs, action_mask)).sample()
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.heads = nn.ModuleDict({"a": nn.Linear(4, n)})

            def act(self, obs, masks):
                for name, mask in masks.items():
                    if mask.dim() != 3:
                        masks[name] = mask.unsqueeze(1)  # <- ESP501
                logits = {k: head(obs).masked_fill(~masks[k], -1e4) for k, head in self.heads.items()}
                return {k: Categorical(logits=x).sample() for k, x in logits.items()}

            def evaluate_actions(self, obs, masks):
                return {k: Categorical(logits=h(obs).masked_fill(~masks[k], -1e4)) for k, h in self.heads.items()}
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def act(self, obs, avail_actions=None):
                if avail_actions is not None and avail_actions.ndim < 3:
                    avail_actions = avail_actions[:, None, :]  # <- ESP501
                logits = self.action_head(obs)
                return Categorical(logits=logits.masked_fill(avail_actions == 0, -1e4)).sample()

            def evaluate_actions(self, obs, actions, avail_actions=None):
                logits = self.action_head(obs)
                if avail_actions is not None:
                    logits = logits.masked_fill(avail_actions == 0, -1e4)
                return Categorical(logits=logits).log_prob(actions)
        """,
        Case(
            {
                "base.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Actor(nn.Module):
                    def forward(self, obs, mask):
                        return self.action_head(obs).masked_fill(~mask, -1e4)

                    def act(self, obs, mask):
                        if mask.dim() == 2:
                            mask = mask.unsqueeze(1)  # <- ESP501
                        return Categorical(logits=self.forward(obs, mask)).sample()
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
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(self, obs, mask):
                    'Logits.'
                    # no check
                    logits = self.action_head(obs)
                    return logits.masked_fill(~mask, -1e4)

                def act(self, obs, mask):
                    if mask.dim() == 2:
                        mask = mask[:, None, :]  # <- ESP501
                    return Categorical(logits=self.forward(obs, mask)).sample()
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(self, obs, mask):
                    'Logits.'
                    if mask.dim() == 2:
                        mask = mask.unsqueeze(1)
                    # no check
                    logits = self.action_head(obs)
                    return logits.masked_fill(~mask, -1e4)

                def act(self, obs, mask):
                    if mask.dim() == 2:
                        mask = mask[:, None, :]  # <- ESP501
                    return Categorical(logits=self.forward(obs, mask)).sample()
            """,
        ),
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(self, obs, masks):
                    return self.action_head(obs).masked_fill(~masks[:, :], -1e4)

                def act(self, obs, masks):
                    masks = masks.unsqueeze(-2) if masks.dim() == 2 else masks  # <- ESP501
                    return Categorical(logits=self.forward(obs, masks)).sample()
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)

                def forward(self, obs, masks):
                    return self.action_head(obs).masked_fill(~masks[:, :], -1e4)

                def act(self, obs, masks):
                    masks = masks.unsqueeze(-2) if masks.dim() == 2 else masks  # <- ESP501
                    return Categorical(logits=self.forward(obs, masks)).sample()
            """,
        ),
    )


def _lifts(frame: Frame) -> dict[str, Event]:
    """Parameters of the method that are masks and are lifted under a test of their rank, in source order."""
    masks = {origin for event, _ in frame.walk() if event.kind == "mask" for origin in event.other.origins}
    found: dict[str, Event] = {}
    for event, _ in frame.walk():
        if event.kind == "lift":
            for origin in sorted(event.value.origins & masks):
                found.setdefault(origin, event)
    return found


def _aliases(frame: Frame) -> dict[str, set[str]]:
    """Under which parameters of which other methods (`forward/mask`) each mask parameter is handed on."""
    found: dict[str, set[str]] = {}
    for event, _ in frame.walk():
        if event.kind == "mask":
            passed = {origin for origin in event.other.origins if "/" in origin}
            for origin in event.other.origins & frame.params.keys():
                found.setdefault(origin, set()).update(passed)
    return found


def _applied_unchecked(frame: Frame) -> dict[str, Event]:
    """Mask parameters that reach a masking step while the method neither lifts nor checks them."""
    careful: set[str] = set()
    applied: dict[str, Event] = {}
    for event, _ in frame.walk():
        if event.kind in ("lift", "rank_check"):
            careful |= event.value.origins
        elif event.kind == "mask" and "mask" in event.other.roles:
            for origin in sorted(event.other.origins):
                applied.setdefault(origin, event)
    jaxtyped = any(decorator.endswith("jaxtyped") for decorator in frame.function.decorators)
    return (
        {}
        if jaxtyped
        else {name: event for name, event in applied.items() if name not in careful and name in frame.params}
    )


def _checks(
    net: NetworkClass,
    module: ModuleModel,
    lifted: dict[str, Event],
    bare: dict[str, dict[str, Event]],
    careless: list[str],
) -> Repair | None:
    """The same lift at the head of each method that lacks it, where all of them stand in one file."""
    axes = {axis_of_lift(event) for event in lifted.values()}
    axis = axes.pop() if len(axes) == 1 else None
    methods = [net.model.methods[name] for name in careless if name in net.model.methods]
    if axis is None or len(methods) != len(careless) or any(method.module is not module for method in methods):
        return None
    changes = [
        lifted_in(method, [param.name for param in method.params if param.name in bare[method.name]], axis, 3)
        for method in methods
    ]
    made = tuple(change for change in changes if isinstance(change, InsertLines))
    if len(made) != len(changes):
        return None
    names = " and ".join(f"`{name}`" for name in careless)
    why = "masks of rank 2 are taken from every caller then, those that lack another axis, too"
    return Repair(f"give masks of rank 2 an axis in {names}", made, why)
