"""ESP307: the method that scores recorded actions hands out a log-prob, value or entropy without gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    returns,
    scored,
)

_WORTH = {"log_prob": "the policy loss", "value": "the value loss", "entropy": "the entropy bonus"}


class DetachedInEvaluate(Rule):
    """
    ## What it does
    Follows the log-prob, the value and the entropy that an evaluating method returns back to the layers they come from.
    Reports one of them when no gradient reaches any layer (`detach`, `.data`, a `no_grad` block, a tensor rebuilt from
    numbers) while another output of the same method does pass a gradient.

    ## Why it matters
    The update still runs: the loss has a gradient through the other terms, the optimiser steps, losses move. With a
    detached log-prob the policy is never trained; with a detached value the critic is not, and advantages stay noise.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.value_head = nn.Linear(obs_dim, 1)

        def evaluate_actions(self, obs, actions):
            log_prob = Categorical(logits=self.action_head(obs)).log_prob(actions).detach()
            value = self.value_head(obs).squeeze(-1)
            return log_prob, value
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.value_head = nn.Linear(obs_dim, 1)

        def evaluate_actions(self, obs, actions):
            log_prob = Categorical(logits=self.action_head(obs)).log_prob(actions)
            value = self.value_head(obs).squeeze(-1)
            return log_prob, value
    ```

    ## Evidence
    On torch 2.13.0, the second network above and the first, one step of Adam on `-(log_prob * advantage).mean() +
    value.pow(2).mean()`: the first raises nothing, changes the value head, and leaves the weights of the action head as
    they were, `grad` None. In kengz/SLM-Lab#133 a whole family of agents is reported not to have trained for a
    log-prob without gradient.

    ## References
    - Schulman et al., Proximal Policy Optimization Algorithms, arXiv:1707.06347: the gradient goes through
      the numerator of the ratio
    """

    code = "ESP307"
    name = "detached-in-evaluate"
    summary = "what scores recorded actions returns a log-prob, value or entropy without gradient"
    category = Category.GRADIENT
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "gradient-flow"
    help = "return it with its gradient; take the old log-prob from the rollout buffer, where nothing is differentiated"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Outputs of evaluating methods that no gradient connects with a layer, where another one is connected."""
        for method in scored(net):
            if any(output.trained for outputs in method.outputs.values() for output in outputs):
                yield from self._cut(method)

    def _cut(self, method: Method) -> Iterator[Hit]:
        for part, loss in _WORTH.items():
            outputs = method.named(part)
            event = returns(method.frame)
            if not outputs or event is None or any(output.trained for output in outputs):
                continue
            layers = sorted(name[1:] for name in outputs[0].layers)
            if layers:
                yield Hit.at(
                    event,
                    f"`{method.name}` returns {part.replace('_', '-')} without gradient: {loss} trains none of "
                    f"{', '.join(f'`{name}`' for name in layers)}",
                    severity=Severity.MEDIUM if part == "entropy" else None,
                )

    VALID = (
        # gradients all around; a detached copy beside; act may be without; nothing is known
        """
        import torch
        from elsewhere import head
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi, self.v = nn.Linear(4, n), nn.Linear(4, 1)

            @torch.no_grad()
            def act(self, obs):
                dist = Categorical(logits=self.pi(obs))
                action = dist.sample()
                return action, dist.log_prob(action), self.v(obs)

            def evaluate_actions(self, obs, actions):
                dist = Categorical(logits=self.pi(obs))
                log_prob, entropy, value = dist.log_prob(actions), dist.entropy(), self.v(obs)
                self.last_entropy = entropy.detach().mean()
                return log_prob, entropy, value

            def evaluate(self, obs, actions):
                log_prob = head(obs).log_prob(actions).detach()
                return log_prob, self.v(obs)
        """,
        # all of it without gradient: a method that recomputes old log-probs
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)

            @torch.no_grad()
            def get_log_prob(self, obs, actions):
                log_prob = Categorical(logits=self.pi(obs)).log_prob(actions)
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
                with torch.no_grad():
                    log_prob = Categorical(logits=self.pi(z)).log_prob(actions)
                return log_prob, self.v(z).squeeze(-1)  # <- ESP307

            def evaluate(self, obs, actions):
                z = self.trunk(obs)
                log_prob = Categorical(logits=self.pi(z)).log_prob(actions)
                log_prob = torch.tensor(log_prob.tolist())
                return dict(log_prob=log_prob, value=self.v(z))  # <- ESP307

            def eval_actions(self, obs, actions):
                z = self.trunk(obs)
                dist = Categorical(logits=self.pi(z))
                value = self.v(z)
                return dist.log_prob(actions), value.data, dist.entropy()  # <- ESP307
        """,
        # an entropy alone, and what a helper cuts
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.pi = nn.Linear(4, n)

            def _frozen(self, x):
                return x.detach()

            def evaluate_actions(self, obs, actions):
                logits = self.pi(obs)
                log_prob = Categorical(logits=logits).log_prob(actions)
                return log_prob, Categorical(logits=self._frozen(logits)).entropy()  # <- ESP307
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Base(nn.Module):
                    def evaluate_actions(self, obs, actions):
                        log_prob = self.dist(obs).log_prob(actions)
                        return log_prob.detach(), self.v(obs).squeeze(-1)  # <- ESP307
                """,
                "network.py": """
                from base import Base
                from torch import nn
                from torch.distributions import Categorical

                class Policy(Base):
                    def __init__(self, n):
                        super().__init__()
                        self.pi, self.v = nn.Linear(4, n), nn.Linear(4, 1)

                    def dist(self, obs):
                        return Categorical(logits=self.pi(obs))
                """,
            }
        ),
    )
