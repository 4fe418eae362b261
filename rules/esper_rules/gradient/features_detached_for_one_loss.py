"""ESP317: the value (or the policy) is computed from shared features that it does not train."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    returns,
    scored,
)


class FeaturesDetachedForOneLoss(Rule):
    """
    ## What it does
    Follows log-prob and value of an evaluating method back to the layers both come from. Reports layers that one of the
    two losses trains, while the other one reads them without gradient.

    ## Why it matters
    It may be meant: some agents let one loss shape the features. Where it is not, the features of the critic (or of the
    policy) are whatever the other loss needs, and value estimates stay poor however long one trains. Whoever reads the
    network should know which loss trains the trunk; this says it.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            self.value_head = nn.Linear(64, 1)

        def evaluate_actions(self, obs, actions):
            features = self.trunk(obs).relu()
            log_prob = Categorical(logits=self.action_head(features)).log_prob(actions)
            value = self.value_head(features.detach()).squeeze(-1)
            return log_prob, value
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            self.value_head = nn.Linear(64, 1)

        def evaluate_actions(self, obs, actions):
            features = self.trunk(obs).relu()
            log_prob = Categorical(logits=self.action_head(features)).log_prob(actions)
            value = self.value_head(features).squeeze(-1)
            return log_prob, value
    ```

    ## Evidence
    On torch 2.13.0, the gradient of the value above with respect to the weights of the trunk is None in the first
    network and not zero in the second; that of the log-prob is not zero in both. Who trains a shared extractor is asked
    again and again: DLR-RM/stable-baselines3#691 and #2006.

    ## References
    - Andrychowicz et al., What Matters in On-Policy Reinforcement Learning?, arXiv:2006.05990: shared against separate
      networks
    """

    code = "ESP317"
    name = "features-detached-for-one-loss"
    summary = "log-prob and value share features that only one of the two losses trains"
    category = Category.GRADIENT
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "shared-features"
    help = "drop the detach, or say in the docstring which loss trains the features"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Layers that log-prob and value both come from, and that only one of them trains."""
        heads = {f"@{head.name}" for head in net.heads}  # of one loss alone by design
        for method in scored(net):
            event = returns(method.frame)
            for output in method.named("value")[:1] if event is not None else ():
                for other in method.named("log_prob")[:1]:
                    for one, two, reads in ((output, other, "value"), (other, output, "policy")):
                        frozen = sorted(name[1:] for name in ((one.layers - one.trained) & two.trained) - heads)
                        if frozen and one.trained and event is not None:
                            yield Hit.at(
                                event,
                                f"the {reads} loss of `{method.name}` does not train "
                                f"{', '.join(f'`{name}`' for name in frozen)}, which the other loss does",
                            )

    VALID = (
        # both train it; neither; a network of its own for each
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.trunk, self.pi, self.v = nn.Linear(4, 8), nn.Linear(8, n), nn.Linear(8, 1)
                self.other = nn.Linear(4, 8)

            def evaluate_actions(self, obs, actions):
                z = self.trunk(obs)
                log_prob = Categorical(logits=self.pi(z)).log_prob(actions)
                value = self.v(z)
                return log_prob, value

            def evaluate(self, obs, actions):
                z = self.trunk(obs).detach()
                log_prob = Categorical(logits=self.pi(z)).log_prob(actions)
                value = self.v(z)
                return log_prob, value

            def eval_actions(self, obs, actions):
                log_prob = Categorical(logits=self.pi(self.trunk(obs))).log_prob(actions)
                value = self.v(self.other(obs))
                return log_prob, value

            @torch.no_grad()
            def get_log_prob(self, obs, actions):
                log_prob = Categorical(logits=self.pi(self.trunk(obs))).log_prob(actions)
                return log_prob
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.trunk, self.pi, self.v = nn.Linear(4, 8), nn.Linear(8, n), nn.Linear(8, 1)

            def evaluate_actions(self, obs, actions):
                z = self.trunk(obs)
                log_prob = Categorical(logits=self.pi(z)).log_prob(actions)
                value = self.v(z.data)
                return log_prob, value  # <- ESP317

            def evaluate(self, obs, actions):
                z = self.trunk(obs)
                with torch.no_grad():
                    frozen = z.clone()
                value = self.v(z)
                log_prob = Categorical(logits=self.pi(frozen)).log_prob(actions)
                return log_prob, value  # <- ESP317
        """,
    )
