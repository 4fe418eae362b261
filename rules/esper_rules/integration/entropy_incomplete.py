"""ESP524: the entropy of a factored policy lacks heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from esper_audit.rulekit import (
    ELEMENTWISE,
    LEFT_OUT,
    Category,
    Confidence,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    acting,
    means_over_heads,
    returns,
    scored,
)


def _fewer_heads(net: NetworkClass, method: Method) -> Iterator[Hit]:
    """An entropy that depends on fewer heads than the log-prob; that of a Gaussian depends on no mean."""
    event, mine = returns(method.frame), method.named("entropy")
    gaussian = any(each.kind == "dist" and each.name in ELEMENTWISE for each, _ in method.frame.walk())
    if event is None or gaussian or len(net.policy_heads) < 2 or not all(output.is_known for output in mine):
        return
    has = method.heads(net, "entropy")
    trained = frozenset[str]().union(*(output.trained for output in method.named("log_prob")))
    lacks = method.heads(net, "log_prob") & trained - has
    if has and lacks:
        names = ", ".join(f"`{name[1:]}`" for name in sorted(lacks))
        yield Hit.at(event, f"the entropy that `{method.name}` returns lacks {names}, which its log-prob has")


class EntropyIncomplete(Rule):
    """
    ## What it does
    Reports an acting or evaluating method whose entropy covers only some of the heads that it has at hand: a loop over
    the heads that assigns where it should add, a slice that cuts one off, a filter by a literal, the last head alone.
    A mean of the heads' entropies in place of their sum is told at low severity: it is the sum, scaled.

    ## Why it matters
    The heads are independent given the features, so the entropy of the action is the sum of theirs. What the bonus does
    not see collapses first: those heads become deterministic early, while the reported entropy looks healthy.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, sizes):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(obs_dim, size) for size in sizes])

        def evaluate_actions(self, obs, actions):
            dists = [Categorical(logits=head(obs)) for head in self.heads]
            log_prob = sum(dist.log_prob(action) for dist, action in zip(dists, actions))
            for dist in dists:
                entropy = dist.entropy()
            return log_prob, entropy
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, sizes):
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(obs_dim, size) for size in sizes])

        def evaluate_actions(self, obs, actions):
            dists = [Categorical(logits=head(obs)) for head in self.heads]
            log_prob = sum(dist.log_prob(action) for dist, action in zip(dists, actions))
            entropy = sum(dist.entropy() for dist in dists)
            return log_prob, entropy
    ```

    ## Evidence
    On torch 2.13.0, two heads of four and three actions, the first loss above with an entropy bonus: the gradient of
    the entropy with respect to the first head is None; with the sum, it is finite and not zero for both. That the joint
    entropy of a MultiDiscrete action is the sum over its parts is how Huang et al. (2022) describe it.

    ## References
    - Huang et al., The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track 2022: independent
      components of a MultiDiscrete action
    """

    code = "ESP524"
    name = "entropy-incomplete"
    summary = "the entropy of a factored policy covers only some of its heads"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "entropy-consistent"
    help = "add up the entropies of all heads, as the log-probs are"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Entropies of methods that leave heads out."""
        for method in (*scored(net), *acting(net)):
            event = returns(method.frame)
            for output in method.named("entropy") if event is not None else ():
                lacks = next((says for atom, says in LEFT_OUT.items() if atom in output.sources), None)
                if lacks is not None and event is not None:
                    yield Hit.at(event, f"the entropy that `{method.name}` returns {lacks}")
                    break
            else:
                yield from _fewer_heads(net, method)
            for mean in means_over_heads(method.frame, "entropy"):
                says = f"`{method.name}` averages the entropies of the heads; the joint one is their sum"
                yield Hit.at(mean, says, severity=Severity.LOW)

    VALID = (
        # named heads, all of them
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, n), nn.Linear(4, n)

            def evaluate_actions(self, obs, actions):
                move, aim = self.move_head(obs).log_softmax(-1), self.aim_head(obs).log_softmax(-1)
                log_prob = move.gather(-1, actions[..., :1]) + aim.gather(-1, actions[..., 1:])
                entropy = -(move.exp() * move).sum(-1) - (aim.exp() * aim).sum(-1)
                return log_prob, entropy
        """,
        # a Gaussian's entropy does not depend on its mean
        """
        from torch import nn
        from torch.distributions import Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mean_head, self.action_spread = nn.Linear(4, n), nn.Linear(4, n)

            def evaluate_actions(self, obs, actions):
                dist = Normal(self.mean_head(obs), self.action_spread(obs).exp())
                log_prob = dist.log_prob(actions).sum(-1)
                return log_prob, dist.entropy().sum(-1)
        """,
        # sums in all spellings, one after another too; a choice by data; parts that are added elsewhere
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleList([nn.Linear(4, size) for size in sizes])

            def _dists(self, obs):
                return [Categorical(logits=head(obs)) for head in self.heads]

            def act(self, obs):
                entropy = 0
                for dist in self._dists(obs):
                    entropy = entropy + dist.entropy()
                return entropy

            def evaluate(self, obs, actions, used):
                dists = self._dists(obs)
                entropy = dists[0].entropy()
                for dist in dists[1:]:
                    entropy += dist.entropy()
                return entropy

            def evaluate_actions(self, obs, actions):
                parts = []
                for dist in self._dists(obs):
                    part_entropy = dist.entropy()
                    parts.append(part_entropy)
                entropy = torch.stack(parts).sum(0)
                return entropy

            def eval_actions(self, obs, actions, used):
                entropy = sum(dist.entropy() for dist, name in zip(self._dists(obs), used) if name in used)
                return entropy
        """,
    )
    INVALID = (
        # named heads: one is not in the sum, or the sum is written over
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.move_head, self.aim_head = nn.Linear(4, n), nn.Linear(4, n)

            def _entropy(self, log_probs):
                return -(log_probs.exp() * log_probs).sum(-1)

            def evaluate_actions(self, obs, actions):
                move, aim = self.move_head(obs).log_softmax(-1), self.aim_head(obs).log_softmax(-1)
                log_prob = move.gather(-1, actions[..., :1]) + aim.gather(-1, actions[..., 1:])
                entropy = self._entropy(move)
                return log_prob, entropy  # <- ESP524

            def evaluate(self, obs, actions):
                move, aim = self.move_head(obs).log_softmax(-1), self.aim_head(obs).log_softmax(-1)
                log_prob = move.gather(-1, actions[..., :1]) + aim.gather(-1, actions[..., 1:])
                for part in (move, aim):
                    entropy = self._entropy(part)
                return log_prob, entropy  # <- ESP524
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleList([nn.Linear(4, size) for size in sizes])

            def _dists(self, obs):
                return [Categorical(logits=head(obs)) for head in self.heads]

            def act(self, obs):
                for dist in self._dists(obs):
                    entropy = dist.entropy()
                return entropy  # <- ESP524

            def evaluate(self, obs, actions):
                entropy = sum(dist.entropy() for dist in self._dists(obs)[:-1])
                return entropy  # <- ESP524

            def evaluate_actions(self, obs, actions):
                entropy = self._dists(obs)[-1].entropy()
                return entropy  # <- ESP524

            def eval_actions(self, obs, actions):
                entropy = 0
                for i, dist in enumerate(self._dists(obs)):
                    if i == 0:
                        continue
                    entropy = entropy + dist.entropy()
                return entropy  # <- ESP524

            def get_log_prob(self, obs, actions):
                dists = self._dists(obs)
                entropy = torch.stack([d.entropy() for i, d in enumerate(dists) if i != 1]).sum(0)
                return entropy  # <- ESP524

            def get_log_probs(self, obs, actions):
                return torch.stack([dist.entropy() for dist in self._dists(obs)]).mean(0)  # <- ESP524
        """,
    )
