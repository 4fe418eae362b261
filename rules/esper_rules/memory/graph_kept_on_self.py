"""ESP404: a result is left on self together with the graph that it came out of."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    kept_graphs,
)


class GraphKeptOnSelf(Rule):
    """
    ## What it does
    Reports an attribute of self that `forward`, an acting, an evaluating or a value method leaves with a tensor that
    gradients flow back from: a latent, a hidden state, the last distributions. Detached results are left alone, and so
    is what is stored without gradients. Where another method of the class reads the attribute, it is told as
    information only: libraries hand on their last distribution this way.

    ## Why it matters
    The graph lives as long as the attribute points to it, with all activations that were saved for the backward pass,
    also while acting. `copy.deepcopy` of the network raises from then on: for a target network, an average of the
    weights, a worker. And what is read later belongs to the last call, whoever made that.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs):
            self.latent = self.trunk(obs).relu()
            return self.action_head(self.latent)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)

        def forward(self, obs):
            latent = self.trunk(obs).relu()
            return self.action_head(latent), latent
    ```

    ## Evidence
    On torch 2.13.0, after one forward of a network that keeps its latent, `copy.deepcopy(network)` raises "Only Tensors
    created explicitly by the user (graph leaves) support the deepcopy protocol at the moment". For five layers of 512
    units and a batch of 4,096, the graph that stays holds 77 MiB of saved activations. Reported in
    pytorch/pytorch#54580, skorch-dev/skorch#833 (a policy that keeps its inference state) and sktime/sktime#10928.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html (saved tensors)
    """

    code = "ESP404"
    name = "graph-kept-on-self"
    summary = "a result is left on self with its graph"
    category = Category.MEMORY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "graph-kept"
    help = "return what a later call needs, or keep it detached"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Attributes whose last value in a hot method surely has a graph."""
        for kept in kept_graphs(net):
            yield Hit.at(
                kept.event,
                f"`self.{kept.event.name}` keeps its graph alive after `{kept.event.function.name}` has returned, and "
                "the network cannot be copied",
                severity=Severity.INFO if kept.used else None,
            )

    VALID = (
        # detached, a number, without gradients, overwritten before the end, of a part that learns nothing
        """
        import torch
        from torch import nn

        class Positions(nn.Module):
            def forward(self, x):
                return x.sin()

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.trunk = nn.Linear(4, 8)
                self.head = nn.Linear(8, n)
                self.scale = 2.0
                self.latent = None
                self.positions = Positions()

            def forward(self, x):
                latent = self.trunk(x)
                self.last_latent = latent.detach()
                self.norm = latent.norm().item()
                self.mean = float(latent.mean())
                self.shape = latent.shape
                self.inputs = x
                self.choice = self.head(latent).argmax(-1)
                self.latent = latent
                logits = self.head(self.latent)
                self.latent = None
                self.scale = self.scale * 2
                self.strange = elsewhere(latent)
                best, self.place = torch.max(latent, 1)
                worst, self.places = latent.min(dim=1)
                ordered, self.order = latent.sort(-1)
                top, self.top = latent.topk(2)
                self.ahead = self.positions(x)
                return logits

            @torch.no_grad()
            def act(self, x):
                self.acted = self.head(self.trunk(x))
                return self.acted.argmax(-1)

            def evaluate(self, x, actions):
                with torch.no_grad():
                    self.value = self.head(self.trunk(x))
                return self.value

            def cold(self, x):
                self.other = self.head(x)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Agent(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.trunk = nn.Linear(4, 8)
                self.core = nn.LSTM(8, 8)
                self.action_head = nn.Linear(8, n)

            def features(self, x, hidden):
                out, self.hidden = self.core(self.trunk(x), hidden)  # <- ESP404
                return out

            def act(self, x, hidden):
                self.dist = Categorical(logits=self.action_head(self.features(x, hidden)))  # <- ESP404
                return self.dist.sample()

            def entropy(self):
                return self.dist.entropy()

            def evaluate_actions(self, x, hidden, actions):
                core = self.latent = self.features(x, hidden)  # <- ESP404
                self.outputs = {"core": core, "logits": self.action_head(core)}  # <- ESP404
                return self.outputs["logits"].log_softmax(-1).gather(-1, actions)
        """,
        """
        from torch import nn

        class Scores:
            def __init__(self, logits):
                self.log_probs = logits.log_softmax(-1)
                self.parts = {"a": [(logits, {"b": [logits]})]}

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.trunk = nn.Linear(4, 8)
                self.head = nn.Linear(8, n)

            def get_value(self, x):
                value = self.head(self.trunk(x))
                self.last_value: object = value.squeeze(-1)  # <- ESP404
                return value

            def forward(self, x):
                self.scores = Scores(self.head(self.trunk(x)))  # <- ESP404
                return self.scores.log_probs
        """,
        Case(
            {
                "base.py": """
                from torch import nn

                class Base(nn.Module):
                    def remember(self, latent):
                        self.latent = latent  # <- ESP404
                """,
                "network.py": """
                from torch import nn
                from base import Base

                class Policy(Base):
                    def __init__(self):
                        super().__init__()
                        self.trunk = nn.Linear(4, 8)

                    def forward(self, x):
                        latent = self.trunk(x)
                        self.remember(latent)
                        return latent
                """,
            }
        ),
    )
