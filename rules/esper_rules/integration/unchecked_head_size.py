"""ESP503: head sizes are free arguments, and no method compares masks or actions with them."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    FORWARD,
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
)


class UncheckedHeadSize(Rule):
    """
    ## What it does
    Reports a network whose head sizes are constructor arguments with defaults taken from constants elsewhere, and whose
    methods apply masks without ever comparing a mask's (or an action's) size with them.

    ## Why it matters
    The sizes live twice, in the network and in whatever builds the masks. Most mismatches raise somewhere in torch; two
    do not: a mask whose last axis is 1 broadcasts over all actions, and a head that is larger than the action space
    samples actions that do not exist as long as no mask is given.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    NUM_ACTIONS = 6

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions, action_mask=None):
            logits = self.action_head(obs)
            if action_mask is not None:
                logits = logits.masked_fill(~action_mask, -1e4)
            return Categorical(logits=logits).log_prob(actions)
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    NUM_ACTIONS = 6

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
            super().__init__()
            self.num_actions = num_actions
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions, action_mask=None):
            logits = self.action_head(obs)
            if action_mask is not None:
                if action_mask.shape[-1] != self.num_actions:
                    raise ValueError(f"expected {self.num_actions} actions in the mask, got {action_mask.shape[-1]}")
                logits = logits.masked_fill(~action_mask, -1e4)
            return Categorical(logits=logits).log_prob(actions)
    ```

    ## Evidence
    On torch 2.13.0, a `[B, 1]` mask is accepted by `masked_fill` on `[B, A]` logits and masks whole rows. Mismatched
    mask widths: Stable-Baselines-Team/stable-baselines3-contrib#249, Denys88/rl_games#264, pytorch/rl#3242.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/broadcasting.html
    """

    code = "ESP503"
    name = "unchecked-head-size"
    summary = "masks and actions are never compared with the head sizes"
    category = Category.INTEGRATION
    severity = Severity.LOW
    confidence = Confidence.MEDIUM
    probe = "mask-width"
    help = "compare `mask.shape[-1]` with the head's size where masks come in, and name expected and got in the error"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Networks with head sizes from elsewhere and masks that are applied unchecked."""
        init = net.model.own_methods.get("__init__")
        if init is None or not net.speaks_of_masks:
            return
        sizes = {head.size: head for head in net.policy_heads}
        params = [
            param
            for param in init.params
            if param.name in sizes and param.default is not None and not _literal(param.default)
        ]
        if not params:
            return
        applied: list[Event] = []
        for frame in net.frames(FORWARD, ACT, EVALUATE):
            for event, _ in frame.walk():
                if _compares_sizes(event) and event.value.roles & {"mask", "action", "logits"}:
                    return
                if event.kind == "mask" and "mask" in event.other.roles:
                    applied.append(event)
        if not applied:
            return
        where = self._entry(net, module) or applied[0]
        heads = ", ".join(f"`{param.name}`" for param in params)
        yield Hit.at(
            where,
            f"masks and actions are used without comparing them with the head sizes {heads}, "
            "whose defaults live elsewhere",
            notes=tuple(Note(module, param.node, f"size of `{sizes[param.name].name}`") for param in params),
        )

    def _entry(self, net: NetworkClass, module: ModuleModel) -> Event | None:
        """The first call of the evaluate method that hands masks on, or its first use of one."""
        for frame in net.frames(EVALUATE):
            if frame.function.module is module:
                for event in frame.events:
                    values = (*event.args, *event.kwargs.values(), event.other)
                    if event.kind in ("call", "mask") and any("mask" in value.roles for value in values):
                        return event
        return None

    VALID = (
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions=6):
                super().__init__()
                self.action_head = nn.Linear(obs_dim, num_actions)

            def act(self, obs, mask):
                return Categorical(logits=self.action_head(obs).masked_fill(~mask, -1e4)).sample()
        """,
        """
        from torch import nn

        NUM_ACTIONS = 6

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
                super().__init__()
                self.action_head = nn.Linear(obs_dim, num_actions)

            def forward(self, obs, mask):
                logits = self.action_head(obs)
                assert mask.shape == logits.shape
                return logits.masked_fill(~mask, -1e4)
        """,
        """
        from torch import nn

        NUM_ACTIONS = 6

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
                super().__init__()
                self.action_head = nn.Linear(obs_dim, num_actions)

            def forward(self, obs):
                return self.action_head(obs)
        """,
        """
        from torch import nn

        NUM_ACTIONS = 6

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
                super().__init__()
                self.action_head = nn.Linear(obs_dim, num_actions)

            def forward(self, obs, mask=None):
                return self.action_head(obs), mask  # the distribution of the caller masks
        """,
    )
    INVALID = (
        """
        from torch import nn
        import config

        class Policy(nn.Module):
            def __init__(self, obs_dim, *, n_moves=config.MOVES):
                super().__init__()
                self.move_head = nn.Sequential(nn.Linear(obs_dim, 8), nn.ReLU(), nn.Linear(8, n_moves))

            def forward(self, obs, mask):
                return self.move_head(obs).masked_fill(~mask, -1e4)  # <- ESP503
        """,
        Case(
            {
                "base.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Actor(nn.Module):
                    def evaluate_actions(self, obs, actions, mask):
                        logits = self.action_head(self.trunk(obs)).masked_fill(~mask, -1e4)  # <- ESP503
                        return Categorical(logits=logits).log_prob(actions)
                """,
                "network.py": """
                from base import Actor
                from torch import nn

                NUM_ACTIONS = 6

                class Policy(Actor):
                    def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
                        super().__init__()
                        self.trunk = nn.Linear(obs_dim, 64)
                        self.action_head = nn.Linear(64, num_actions)
                """,
            }
        ),
        """
        from torch import nn
        from torch.distributions import Categorical

        NUM_ACTIONS = 6

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions=NUM_ACTIONS):
                super().__init__()
                self.action_head = nn.Linear(obs_dim, num_actions)

            def act(self, obs, mask):
                return Categorical(logits=self.action_head(obs).masked_fill(~mask, -1e4)).sample()  # <- ESP503

            def evaluate_actions(self, obs, actions):
                return Categorical(logits=self.action_head(obs)).log_prob(actions)
        """,
    )


def _literal(node: cst.BaseExpression) -> bool:
    return isinstance(node, (cst.Integer, cst.SimpleString, cst.Float))


def _compares_sizes(event: Event) -> bool:
    """Whether a size is checked, alone or as a part of a whole shape."""
    if event.kind == "rank_check":
        return isinstance(event.node, cst.Comparison) and ".shape" in event.module.code(event.node)
    return event.kind == "size_check"
