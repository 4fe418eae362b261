"""ESP511: what lies between a head and its distribution differs between acting and evaluating."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Scoring,
    Severity,
    act_and_evaluate,
    acting,
    head_name,
    returns,
    scored,
)

_VERBS = {"mask": "masks", "scale": "scales", "clamp": "clamps"}


class ActEvaluateDiffer(Rule):
    """
    ## What it does
    Compares the method that acts with the method that scores recorded actions. Reports a head whose output is masked,
    scaled (a temperature), clamped, squashed or dropped out on the way to the log-prob in one of them and not in the
    other, and two methods that take log-probs of different heads. A helper that both call is the same in both.

    ## Why it matters
    PPO and its kin divide the new probability of an action by the stored one. With unchanged weights the ratio must be
    1. When the two methods do not build the same distribution it is something else before any update: clipping cuts off
    gradients that it should not, and what remains pushes the policy towards a distribution that never acted. Nothing
    raises, and training still learns a little.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            logits = self.action_head(obs).masked_fill(~action_mask, -1e4)
            dist = Categorical(logits=logits)
            action = dist.sample()
            return action, dist.log_prob(action)

        def evaluate_actions(self, obs, actions):
            dist = Categorical(logits=self.action_head(obs))
            return dist.log_prob(actions), dist.entropy()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def distribution(self, obs, action_mask):
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask, -1e4))

        def act(self, obs, action_mask):
            dist = self.distribution(obs, action_mask)
            action = dist.sample()
            return action, dist.log_prob(action)

        def evaluate_actions(self, obs, actions, action_mask):
            dist = self.distribution(obs, action_mask)
            return dist.log_prob(actions), dist.entropy()
    ```

    ## Evidence
    On torch 2.13.0, 256 rows of six standard-normal logits, weights unchanged: with a mask that lets 60 % through while
    acting and is left out while evaluating, the mean ratio is 0.69 and 59 % of the rows lie outside [0.8, 1.2]; with a
    temperature of 0.5 in acting alone, ratios reach 6.6 and 81 % lie outside; with a clamp in acting alone, 88 %.
    AgileRL/AgileRL#487 repaired a PPO that left the mask out when it evaluated; in hill-a/stable-baselines#453 the
    mismatch is named in review of the same plan.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP511"
    name = "act-evaluate-differ"
    summary = "act and evaluate build different distributions from the same heads"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "act-evaluate"
    help = "build the distribution in one helper that both methods call, masks and temperature included"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Heads that are treated in one of the two methods as they are not in the other."""
        told: set[str] = set()
        for acted, evaluated in act_and_evaluate(net):
            for hit in self._differences(net, acted, evaluated):
                told.add(evaluated.name)
                yield hit
        yield from self._mask_dropped(net, told)

    def _differences(self, net: NetworkClass, acted: Scoring, evaluated: Scoring) -> Iterator[Hit]:
        shared = acted.steps.keys() & evaluated.steps.keys()
        if not shared and acted.complete and evaluated.complete:
            yield self._other_head(net, acted, evaluated)
        for head in evaluated.steps:
            if head in shared:
                yield from self._compare(net, head, acted, evaluated)

    def _mask_dropped(self, net: NetworkClass, told: set[str]) -> Iterator[Hit]:
        """Evaluating methods that are given masks which reach no log-prob, where acting ones mask."""
        acted = [method for method in acting(net) if method.is_masked] if net.speaks_of_masks else []
        for method in scored(net) if acted else ():
            masks, event = method.params("mask"), returns(method.frame)
            known = [output for output in method.named("log_prob") if output.is_known and output.layers]
            if method.name in told or not masks or event is None or not known or method.discarded & set(masks):
                continue
            if not any(output.sources & set(masks) for output in known):
                yield Hit.at(
                    event,
                    f"the log-prob that `{method.name}` returns does not depend on `{masks[0]}`; "
                    f"what `{acted[0].name}` returns depends on its masks",
                )

    def _compare(self, net: NetworkClass, head: cst.CSTNode, acted: Scoring, evaluated: Scoring) -> Iterable[Hit]:
        if "?" in acted.steps[head].keys() ^ evaluated.steps[head].keys():
            return
        for does, lacks in ((acted, evaluated), (evaluated, acted)):
            alone = sorted(does.steps[head].keys() - lacks.steps[head].keys())
            if not alone:
                continue
            event = lacks.events[head]
            verbs = " and ".join(_VERBS.get(kind, f"applies {kind} to") for kind in alone)
            yield Hit.at(
                event,
                f"`{does.name}` {verbs} the output of {head_name(net, head)} before it takes the log-prob, "
                f"`{lacks.name}` does not",
                notes=tuple(
                    Note(function.module, node, "what only one of them does")
                    for node, function in (does.steps[head][kind] for kind in alone)
                ),
            )

    def _other_head(self, net: NetworkClass, acted: Scoring, evaluated: Scoring) -> Hit:
        (mine, event), (theirs, other) = next(iter(evaluated.events.items())), next(iter(acted.events.items()))
        return Hit.at(
            event,
            f"`{evaluated.name}` takes the log-prob of {head_name(net, mine)}, `{acted.name}` of "
            f"{head_name(net, theirs)}",
            notes=(Note(other.module, other.node, f"`{acted.name}` takes it here"),),
        )

    VALID = (
        # one helper builds it for both
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.temperature = n / 2
                self.pi = nn.Linear(4, n)

            def forward(self, obs, mask=None):
                logits = self.pi(obs) / self.temperature
                if mask is not None:
                    logits = logits.masked_fill(~mask, -1e4)
                return Categorical(logits=logits)

            def act(self, obs, mask=None):
                dist = self(obs, mask)
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate_actions(self, obs, actions, mask=None):
                dist = self.forward(obs, mask)
                return dist.log_prob(actions), dist.entropy()
        """,
        # the same in other spellings; a temperature that nobody sets is none, and a maximum is nothing to a softmax
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)

            def act(self, obs, action_mask, temperature=1.0, sharpen=None):
                logits = self.pi(obs)
                logits = logits - logits.logsumexp(-1, keepdim=True)
                logits = logits / temperature
                if sharpen is not None:
                    logits = logits * sharpen
                logits[~action_mask] = -1e8
                dist = Categorical(probs=F.softmax(logits, dim=-1))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs, actions, action_mask):
                logits = torch.where(action_mask, self.pi(obs), -1e4)
                return torch.log_softmax(logits, -1).gather(-1, actions)
        """,
        # what only samples may sample as it likes: nothing is stored of it
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)

            def predict(self, obs, mask):
                return Categorical(logits=self.pi(obs).masked_fill(~mask, -1e4) / 0.5).sample()

            def evaluate_actions(self, obs, actions):
                return Categorical(logits=self.pi(obs)).log_prob(actions)
        """,
        # what an unknown helper does may be the mask; a foreign distribution may be anything
        """
        from elsewhere import Masked, apply_mask
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)
                self.other = nn.Linear(4, n)

            def act(self, obs, mask):
                dist = Categorical(logits=self.pi(obs).masked_fill(~mask, -1e4))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs, actions, mask):
                return Categorical(logits=apply_mask(self.other(obs), mask)).log_prob(actions)

            def evaluate_actions(self, obs, actions, bias):
                return Categorical(logits=self.pi(obs) + bias).log_prob(actions)

            def get_log_prob(self, obs, actions, mask):
                return Masked(self.pi(obs), mask).log_prob(actions)
        """,
        # scores no recorded actions: draws its own
        """
        import torch
        from torch import nn
        from torch.distributions import Normal

        class Actor(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mu = nn.Linear(4, n)

            def act(self, obs):
                dist = Normal(torch.tanh(self.mu(obs)), 1.0)
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs):
                dist = Normal(self.mu(obs), 1.0)
                action = dist.rsample()
                return action, dist.log_prob(action)
        """,
        # the layers come out of one helper: which is which is unknown
        """
        from torch import nn
        from torch.distributions import Categorical

        def head(n):
            return nn.Linear(4, n)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.first, self.second = head(n), head(n)

            def act(self, obs):
                dist = Categorical(logits=self.first(obs))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs, actions):
                return Categorical(logits=self.second(obs)).log_prob(actions)
        """,
    )
    INVALID = (
        # what evaluating is given and does not use, in dicts and through a distribution of the project's own
        """
        import torch
        from torch import nn

        class Masked:
            def __init__(self, logits, mask):
                self.logits = logits.masked_fill(~mask, -1e9).log_softmax(-1)

            def sample(self):
                return self.logits.exp().multinomial(1)

            def log_prob(self, action):
                return self.logits.gather(-1, action)

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: nn.Linear(4, n) for name, n in sizes.items()})

            def _dists(self, x, masks):
                return {name: Masked(head(x), masks[name]) for name, head in self.heads.items()}

            def act(self, x, masks):
                dists = self._dists(x, masks)
                actions = {name: dist.sample() for name, dist in dists.items()}
                return actions, sum(dist.log_prob(actions[name]) for name, dist in dists.items())

            def evaluate_actions(self, x, masks, actions):
                dists = self._dists(x, {name: torch.ones_like(mask) for name, mask in masks.items()})
                log_prob = sum(dist.log_prob(actions[name]) for name, dist in dists.items())
                return log_prob  # <- ESP511

            def evaluate(self, x, masks, actions):
                logits = {name: head(x) for name, head in self.heads.items()}
                return sum(each.log_softmax(-1).gather(-1, actions[k]) for k, each in logits.items())  # <- ESP511
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)

            def act(self, obs, avail_actions):
                logits = self.pi(obs)
                logits[avail_actions == 0] = -1e10
                dist = Categorical(logits=logits)
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate_actions(self, obs, actions):
                log_probs = torch.log_softmax(self.pi(obs), dim=-1)
                return log_probs.gather(-1, actions)  # <- ESP511
        """,
        # the helper takes the mask, but one of the two does not hand it over
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, n))

            def forward(self, obs, mask=None):
                logits = self.pi(obs)
                if mask is not None:
                    logits = logits + (1 - mask.float()) * -1e9
                return logits

            def step(self, obs, mask):
                dist = Categorical(logits=self.forward(obs, mask))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs, act, mask):
                dist = Categorical(logits=self.forward(obs))
                return dist.log_prob(act), dist.entropy()  # <- ESP511
        """,
        # a constant temperature, a clamp and a squash on one side only, in a base class, too
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Base(nn.Module):
            def act(self, obs):
                dist = self.dist(obs)
                action = dist.sample()
                return action, dist.log_prob(action).sum(-1)

        class Gaussian(Base):
            def __init__(self, n):
                super().__init__()
                self.mean = nn.Linear(4, n)

            def dist(self, obs):
                return Normal(torch.tanh(self.mean(obs)), 1.0)

            def evaluate_actions(self, obs, actions):
                dist = Normal(self.mean(obs), 1.0)
                return dist.log_prob(actions).sum(-1)  # <- ESP511

        class Discrete(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def get_action(self, obs):
                logits = self.action_head(obs).clamp(-10, 10) / 0.5
                dist = Categorical(logits=logits)
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate_actions(self, obs, actions):
                return Categorical(F.softmax(self.action_head(obs), -1)).log_prob(actions)  # <- ESP511
        """,
        # another head; and a mask that only the scoring knows, by a product
        """
        from torch import nn
        from torch.distributions import Categorical

        class Two(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)
                self.target = nn.Linear(4, n)

            def act(self, obs):
                dist = Categorical(logits=self.pi(obs))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate_actions(self, obs, actions):
                return Categorical(logits=self.target(obs)).log_prob(actions)  # <- ESP511

        class Product(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.heads = nn.ModuleList([nn.Linear(4, n), nn.Linear(4, n)])

            def act(self, obs):
                dist = Categorical(probs=self.heads[0](obs).softmax(-1))
                action = dist.sample()
                return action, dist.log_prob(action)  # <- ESP511

            def evaluate_actions(self, obs, actions, action_mask):
                return Categorical(probs=self.heads[0](obs).softmax(-1) * action_mask).log_prob(actions)
        """,
        # made elsewhere: the head has no name here
        """
        from torch import nn
        from torch.distributions import Categorical

        class Inner(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.out = nn.Linear(4, n)

            def forward(self, obs):
                return self.out(obs)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = Inner(n)

            def act(self, obs, mask):
                dist = Categorical(logits=self.actor(obs).masked_fill(~mask, -1e4))
                action = dist.sample()
                return action, dist.log_prob(action)

            def evaluate(self, obs, actions):
                return Categorical(logits=self.actor(obs)).log_prob(actions)  # <- ESP511
        """,
    )
