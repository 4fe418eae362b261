"""ESP509: sampling masks the logits, and the deterministic branch takes the argmax of the raw ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    Category,
    Confidence,
    Event,
    Frame,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    Val,
    acting,
    bare,
    choice_of,
    choosing,
    descendants,
    find,
    has_layers,
    is_known,
    masked_logits,
    sources_of,
    tensor_role,
)

_CHOOSES = frozenset({".argmax", "torch.argmax", ".max", "torch.max"})


class DeterministicPathUnmasked(Rule):
    """
    ## What it does
    Reports an `argmax` over what a policy head gave, or over its softmax, in a method that masks the same head's output
    on another path. Branches that depend on whether there is a mask are left alone, and so is masking in place, after
    which there are no raw logits any more.

    ## Why it matters
    The policy is trained on masked logits: nothing ever pushes down the logits of invalid actions, so any of them may
    be the largest. Training runs well, and the agent that is evaluated or deployed greedily takes invalid actions.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask, deterministic=False):
            logits = self.action_head(obs)
            dist = Categorical(logits=logits.masked_fill(~action_mask, -1e4))
            return logits.argmax(-1) if deterministic else dist.sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask, deterministic=False):
            logits = self.action_head(obs)
            dist = Categorical(logits=logits.masked_fill(~action_mask, -1e4))
            return dist.logits.argmax(-1) if deterministic else dist.sample()
    ```

    ## Evidence
    On torch 2.13.0, for 10000 rows of 8 normal logits of which half are masked, the argmax of the raw logits is an
    invalid action in 43 % of the rows, that of the masked ones in none; and the gradient of the log-prob with respect
    to a masked logit is exactly 0, so training leaves it where it is. Masked training and invalid actions in
    prediction: Stable-Baselines-Team/stable-baselines3-contrib#212.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP509"
    name = "deterministic-path-unmasked"
    summary = "the deterministic branch takes the argmax of unmasked logits"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "mask-semantics"
    help = "take the argmax of the masked logits: `dist.logits.argmax(-1)` or `dist.probs.argmax(-1)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Argmax over the output of a head that the same method masks elsewhere."""
        masking = {step.event.node for step in masked_logits(net) if not _in_place(step.event)}
        told: set[cst.CSTNode] = set()
        masks: list[tuple[Frame, Event]] = []
        choices: list[tuple[Frame, Event]] = []
        for frame, event, _ in net.events("mask", "call") if masking else ():
            if event.node in masking and event.kind == "mask":
                masks.append((frame, event))
            elif event.name in (".argmax", "torch.argmax"):
                choices.append((frame, event))
        for frame, choice in choices:
            raw = choice.target if choice.name == ".argmax" else choice.args[0] if choice.args else choice.target
            step = next((event for other, event in masks if other is frame and _of_one_head(raw, event)), None)
            if step is None or choice.node in told or _depends_on_mask(choice):
                continue
            told.add(choice.node)
            yield Hit.at(
                choice,
                "the argmax is taken of raw logits, which are masked only for sampling",
                notes=(Note(step.module, step.node, "here the logits of the same head are masked"),),
            )

        for hit in self._by_dependence(net):
            if hit.node not in told:
                told.add(hit.node)
                yield hit

    def _by_dependence(self, net: NetworkClass) -> Iterator[Hit]:
        """Actions that an argmax chose from what no mask reaches, where what else the method gives depends on masks."""
        methods = [each for each in choosing(net) if each.params("mask")] if net.speaks_of_masks else []
        if not methods or not any(method.is_masked for method in acting(net)):
            return  # masks are taken and done away with: no policy that knows them
        for method in methods:
            masks = set(method.params("mask"))
            chosen = method.sources("action")
            events = [event for event, _ in method.frame.walk()]
            if any(event.kind == "mask" and _in_place(event) for event in events):
                continue
            masked = frozenset[str]().union(*(bare(sources_of(net, e.target)) for e in events if e.kind == "mask"))
            for event in events:
                if event.name not in _CHOOSES or choice_of(net, event) not in chosen:
                    continue
                raw = event.target if event.name[0] == "." else event.args[0] if event.args else event.target
                atoms = sources_of(net, raw)
                same_heads = has_layers(atoms) and {atom for atom in bare(atoms) if atom[0] == "@"} <= masked
                if same_heads and is_known(atoms) and not masks & bare(atoms) and not _depends_on_mask(event):
                    yield Hit.at(event, "the argmax is taken of what no mask reaches, and samples are masked")

    VALID = (
        # an agent without masks, whatever it is given: a control
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, masks):
                masks = torch.ones_like(masks)
                action = self.head(x).masked_fill(~masks, -1e9).argmax(-1)
                return action
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.aux = nn.Linear(4, n)

            def act(self, x, mask, deterministic=False):
                logits = self.head(x).masked_fill(~mask, -1e9)
                if deterministic:
                    return logits.argmax(-1)
                return Categorical(logits=logits).sample()

            def sample(self, x, mask, deterministic=False):
                dist = Categorical(logits=self.head(x).masked_fill(~mask, -1e9))
                return torch.argmax(dist.probs, dim=-1) if deterministic else dist.sample()

            def get_action(self, x, mask=None):
                logits = self.head(x)
                if mask is None:
                    return logits.argmax(-1)
                return Categorical(logits=logits.masked_fill(~mask, -1e9)).sample()

            def predict(self, x, mask=None):
                logits = self.head(x)
                if mask is not None:
                    return Categorical(logits=logits.masked_fill(~mask, -1e9)).sample()
                return torch.argmax(input=logits, dim=-1), logits.argmax(-1)

            def step(self, x, mask=None):
                logits = self.head(x)
                dist = Categorical(logits=logits.masked_fill(~mask, -1e9))
                return dist.sample() if mask is not None else logits.argmax(-1)

            def choose_action(self, x, mask, deterministic=False):
                logits = self.head(x)
                same = logits
                same[~mask] = -1e9
                return logits.argmax(-1) if deterministic else Categorical(logits=same).sample()

            def select_action(self, x, mask, deterministic=False):
                dist = Categorical(logits=self.head(x).masked_fill(~mask, -1e9))
                return dist.sample(), self.aux(x).argmax(-1)

            def explore(self, x, mask, deterministic=False):
                logits = self.head(x)
                same = logits
                same.masked_fill_(~mask, -1e9)
                return logits.argmax(-1) if deterministic else Categorical(logits=same).sample()
        """,
        """
        from torch import nn

        class QNet(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x):
                return self.head(x).argmax(-1)
        """,
    )
    INVALID = (
        # what a distribution of unmasked logits thinks best, the first of the largest, one helper for both branches
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, n), nn.Linear(4, n)

            def _pick(self, logits, masks, greedy):
                if greedy:
                    return {k: Categorical(logits=each).probs.argmax(-1) for k, each in logits.items()}  # <- ESP509
                masked = {k: each.masked_fill(~masks[k], -1e9) for k, each in logits.items()}
                return {k: Categorical(logits=each).sample() for k, each in masked.items()}

            def act(self, x, masks, greedy=False):
                actions = self._pick({"move": self.move_head(x), "aim": self.aim_head(x)}, masks, greedy)
                return actions

            def step(self, x, masks, greedy=False):
                move, aim = self.move_head(x), self.aim_head(x)
                if greedy:
                    action = [each.softmax(-1).max(dim=-1).indices for each in (move, aim)]  # <- ESP509
                else:
                    dists = [Categorical(logits=each.masked_fill(~masks, -1e9)) for each in (move, aim)]
                    action = [dist.sample() for dist in dists]
                return action

            def predict(self, x, masks, greedy=False):
                actions = self._pick({"move": self.move_head(x)}, masks, greedy)
                return actions
        """,
        # heads and masks in dicts, distributions of the project's own
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask):
                self.raw = logits
                self.logits = logits.masked_fill(~mask, -1e9).log_softmax(-1)

            def sample(self):
                return self.logits.exp().multinomial(1)

            def mode(self):
                return self.raw.argmax(-1)  # <- ESP509

            def log_prob(self, action):
                return self.logits.gather(-1, action)

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: nn.Linear(4, n) for name, n in sizes.items()})

            def act(self, x, masks, deterministic=False):
                dists = {name: Masked(head(x), masks[name]) for name, head in self.heads.items()}
                actions = {name: dist.mode() if deterministic else dist.sample() for name, dist in dists.items()}
                return actions, sum(dist.log_prob(actions[name]) for name, dist in dists.items())
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, n))

            def forward(self, x):
                return self.actor(x)

            def _dist(self, logits, mask):
                return Categorical(logits=torch.where(mask, logits, -1e9))

            def _greedy(self, logits):
                return logits.argmax(-1)  # <- ESP509

        class Policy(Base):
            def act(self, x, mask, deterministic=False):
                logits = self(x)
                if deterministic:
                    return self._greedy(logits)
                return self._dist(logits, mask).sample()

            def get_action(self, x, mask=None, deterministic=False):
                logits = masked = self.forward(x)
                if mask is not None:
                    masked = logits.masked_fill(~mask, -1e9)
                if deterministic:
                    action = torch.argmax(torch.softmax(logits, -1), dim=-1)  # <- ESP509
                else:
                    action = Categorical(logits=masked).sample()
                return action

            def sample(self, x, mask, greedy):
                raw = self(x)
                dist = Categorical(logits=raw + (1 - mask) * -1e9)
                return raw.argmax(-1) if greedy else dist.sample()  # <- ESP509
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, avail_actions, evaluate):
                out = self.head(x)
                probs = Categorical(logits=out.masked_fill(avail_actions == 0, -1e10))
                return out.argmax(dim=-1) if evaluate else probs.sample()  # <- ESP509
        """,
    )


def _in_place(event: Event) -> bool:
    """Whether the masked tensor is the raw one: then other names for it are masked, too."""
    call = event.node
    return event.name == "index assignment" or (
        isinstance(call, cst.Call) and isinstance(call.func, cst.Attribute) and call.func.attr.value.endswith("_")
    )


def _of_one_head(raw: Val, step: Event) -> bool:
    """Whether a value is the unmasked output of the head whose output a step masks."""
    return bool(raw.from_layers & step.target.from_layers and raw.tags & {"affine", "squashed"} and not raw.masked)


def _depends_on_mask(choice: Event) -> bool:
    """Whether a test of a mask decides that the choice is made: then there may be nothing to mask with."""
    for branch in choice.branches:
        if not any(tensor_role(name.value) == "mask" for name in find(branch.test, cst.Name)):
            continue
        leaves = isinstance(branch, cst.If) and any(True for _ in find(branch.body, cst.Return))
        if leaves or any(node is choice.node for node in descendants(branch)):
            return True
    return False
