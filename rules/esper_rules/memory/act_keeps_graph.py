"""ESP405: acting builds a graph that nobody uses, and its callers keep what it returns."""

from __future__ import annotations

import re
from collections.abc import Iterable

from esper_audit.rulekit import (
    GRADIENT_FREE,
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    Method,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    acting,
    called_without_gradient,
    scored,
)


class ActKeepsGraph(Rule):
    """
    ## What it does
    Reports an acting method that returns a log-prob with its gradient, on a network that has another method to score
    recorded actions, where the project calls the acting method outside `no_grad` and `inference_mode`.

    ## Why it matters
    Each step of the rollout keeps its graph alive for as long as the buffer keeps the log-prob or the hidden state:
    memory grows with the number of steps, and with a recurrent core each step's graph hangs on the one before. A loss
    that takes the stored log-prob for the new one back-propagates through it, and the policy ratio is 1 forever.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs):
            dist = Categorical(logits=self.action_head(obs))
            action = dist.sample()
            log_prob = dist.log_prob(action)
            return action, log_prob

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    def rollout(obs):
        policy = Policy(4, 2)
        return policy.act(obs)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        @torch.no_grad()
        def act(self, obs):
            # no gradient flows through the log-prob
            dist = Categorical(logits=self.action_head(obs))
            action = dist.sample()
            log_prob = dist.log_prob(action)
            return action, log_prob

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    def rollout(obs):
        policy = Policy(4, 2)
        return policy.act(obs)
    ```

    ## Evidence
    On torch 2.13.0, 1000 steps of an LSTM of 64 units that carry the state and keep the log-probs: without `no_grad`
    the last state has a graph of several thousand nodes behind it, with it none. Metta-AI/metta#1139 is a report of
    memory that grows with the state.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "ESP405"
    name = "act-keeps-graph"
    summary = "acting returns log-probs with a graph, and callers take them outside no_grad"
    category = Category.MEMORY
    severity = Severity.INFO
    confidence = Confidence.MEDIUM
    probe = "act-graph"
    help = "decorate the method with `torch.no_grad()`, or call it under `torch.no_grad()`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Acting methods with a graph, and the first caller that keeps it."""
        if not scored(net):
            return
        for method in acting(net):
            if not any(output.trained for output in method.named("log_prob")):
                continue
            call = _graph_kept_by(net, method)
            if call is not None:
                yield Hit(
                    method.function.node,
                    f"`{method.name}` returns a log-prob with its graph, which no update needs",
                    module=method.function.module,
                    symbol=method.function.qualified,
                    notes=(Note(call.module, call.node, "called here with gradients on"),),
                )

    VALID = (
        # without gradient, here or in the callers; no caller is known; its log-prob is the one that is trained
        Case(
            {
                "network.py": """
                import torch
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.pi = nn.Linear(4, n)

                    @torch.no_grad()
                    def act(self, obs):
                        dist = Categorical(logits=self.pi(obs))
                        action = dist.sample()
                        log_prob = dist.log_prob(action)
                        return action, log_prob

                    def step(self, obs):
                        dist = Categorical(logits=self.pi(obs))
                        action = dist.sample()
                        log_prob = dist.log_prob(action)
                        return action, log_prob

                    def explore(self, obs):
                        return self.step(obs)

                    def choose_action(self, obs):
                        dist = Categorical(logits=self.pi(obs))
                        action = dist.sample()
                        log_prob = dist.log_prob(action)
                        return action, log_prob

                    def evaluate_actions(self, obs, actions):
                        return Categorical(logits=self.pi(obs)).log_prob(actions)

                class Reinforce(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.pi = nn.Linear(4, n)

                    def act(self, obs):
                        dist = Categorical(logits=self.pi(obs))
                        action = dist.sample()
                        log_prob = dist.log_prob(action)
                        return action, log_prob
                """,
                "train.py": """
                import torch
                from network import Policy, Reinforce

                def rollout(obs):
                    policy = Policy(2)
                    with torch.no_grad():
                        policy.step(obs)
                    with torch.set_grad_enabled(False):
                        policy.choose_action(obs)
                    return policy.act(obs), Reinforce(2).act(obs)
                """,
            }
        ),
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.pi = nn.Linear(4, n)

                    def act(self, obs):  # <- ESP405
                        dist = Categorical(logits=self.pi(obs))
                        action = dist.sample()
                        log_prob = dist.log_prob(action)
                        return action, log_prob

                    def evaluate_actions(self, obs, actions):
                        return Categorical(logits=self.pi(obs)).log_prob(actions)
                """,
                "train.py": """
                from network import Policy

                class Trainer:
                    def __init__(self):
                        self.policy = Policy(2)

                    def rollout(self, obs):
                        return self.policy.act(obs)
                """,
            }
        ),
    )


def _graph_kept_by(net: NetworkClass, method: Method) -> Event | None:
    """A call of the method with gradients on; none where no call is known, or one of them is made without."""
    if called_without_gradient(net, method.name):
        return None  # running a training script to learn that would be dear
    words = re.compile(rb"\b" + re.escape(method.name.encode()) + rb"\b")
    found: Event | None = None
    for caller in net.callers_saying(words):
        for event, stack in caller.frame.walk():
            if event.callee is not method.function or event.function.owner in net.model.lineage:
                continue
            if any(each.contexts & GRADIENT_FREE for each in (event, *stack)):
                return None
            found = found or event
    return found
