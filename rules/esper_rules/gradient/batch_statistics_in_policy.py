"""ESP311: a policy normalises with statistics of the batch it happens to see."""

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
    on_the_way_to_actions,
)


class BatchStatisticsInPolicy(Rule):
    """
    ## What it does
    Reports batch norm, and differences from the mean over the first axis, on the way to the action distribution of a
    network that acts and evaluates its actions again, as PPO does; as `medium` also a running mean that the forward
    pass itself moves before it subtracts it. Off-policy critics, where batch norm can be the method, are left alone,
    and so are layer norm, running statistics that are updated elsewhere, and norms that a branch may leave out.

    ## Why it matters
    What such a network computes for one observation depends on the others beside it. The rollout sees one step of all
    environments, the update a minibatch of many steps: the same weights give the same observation other log-probs, and
    the ratio of PPO takes that for a change of the policy. With a single environment batch norm raises, and a
    handwritten standard deviation over one row is NaN. A running mean that moves with each call is another one when the
    update looks at the observations again than it was when the actions were drawn.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.BatchNorm1d(64), nn.Tanh())
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs):
            return Categorical(logits=self.action_head(self.body(obs))).sample()

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(self.body(obs))).log_prob(actions)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.LayerNorm(64), nn.Tanh())
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs):
            return Categorical(logits=self.action_head(self.body(obs))).sample()

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(self.body(obs))).log_prob(actions)
    ```

    ## Evidence
    On torch 2.13.0, a network with one `BatchNorm1d` acts for 128 steps of 16 environments whose observations drift,
    and evaluates all at once: the ratio is off by up to 2.45, by more than 0.2 for 46 % of the actions, before any
    update. With one row `BatchNorm1d` raises ("Expected more than 1 value per channel when training"). Where `forward`
    moves a running mean by a tenth at each call, the ratio of the same kind of rollout lies between 0.20 and 4.3, and
    8.5 % of the actions are off by more than 0.2.
    DLR-RM/stable-baselines3#535 reports predictions that depend on training mode; google-research/seed_rl#28 explains
    that actors and learner then differ in their statistics.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
    """

    code = "ESP311"
    name = "batch-statistics-in-policy"
    summary = "log-probs depend on the other rows of the batch"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "batch-independence"
    help = "use `nn.LayerNorm`, or normalise observations with running statistics that only the rollout updates"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Steps that mix the batch on the way to the actions."""
        for step in on_the_way_to_actions(net, "batch_mixed"):
            moving = step.kind == "centre" and "running" in step.other.tags
            yield Hit.at(
                step,
                "a mean that each call moves is subtracted on the way to the actions: log-probs depend on earlier calls"
                if moving
                else "statistics of the batch on the way to the actions: log-probs depend on the rows beside them",
                severity=Severity.MEDIUM if moving else None,
            )

    VALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh())
                self.head = nn.Linear(4, n)
                self.value_head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

            def forward(self, x):
                x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
                features = self.body(x)
                self.value = self.value_head(features)
                return self.head(features)

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.norm = nn.BatchNorm1d(4) if flag else nn.LayerNorm(4)
                self.head = nn.Linear(4, n)
                self.register_buffer('mean', torch.zeros(4))

            def forward(self, x):
                return self.head(self.norm(x - self.mean))

            def update(self, x):
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                self.mean.lerp_(x.mean(0), 0.1)

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)

            def loss(self, advantages, log_prob):
                advantages = advantages.float()
                advantages = (advantages - advantages.mean(0)) / advantages.std(0)
                return -(advantages * log_prob).mean()
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
                self.head = nn.Linear(4, n)

            def forward(self, x):
                return self.head(self.body(x))

            def act(self, x):
                return Categorical(logits=self(x)).sample()

         """,
        """
        import torch
        from torch import nn

        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.q = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

            def forward(self, obs, action):
                return self.q(torch.cat([obs, action], -1))
        """,
    )
    INVALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
                self.head = nn.Linear(4, n)

            def forward(self, x):
                return self.head(self.body(x))  # <- ESP311

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        def normalise(x):
            return (x - torch.mean(x, dim=0)) / (torch.std(x, dim=0) + 1e-8)  # <- ESP311

        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)
                self.norm = nn.BatchNorm2d(4)

            def forward(self, x):
                return self.norm(self.conv(x)).flatten(1)  # <- ESP311

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.actor = nn.Linear(4, n)
                self.encoder = Encoder()

            def forward(self, x):
                x = normalise(torch.relu(self.encoder(x)))
                return self.actor(x)

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.actor = nn.Linear(4, n)

            def forward(self, x: torch.Tensor):
                x = x.float()
                mean = x.mean(0, keepdim=True)
                x = (x - mean) / x.std(0, keepdim=True)  # <- ESP311
                return self.actor(x)

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
        # the forward pass moves a running mean, in three spellings
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class InPlace(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.register_buffer("mean", torch.zeros(4))

            def forward(self, x):
                if self.training:
                    self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
                return self.head(x - self.mean)  # <- ESP311

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)

        class Assigned(InPlace):
            def forward(self, x):
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
                return self.head(F.batch_norm(x - self.mean, None, None, training=True))  # <- ESP311

        class Moved(InPlace):
            def forward(self, x):
                with torch.no_grad():
                    self.mean += 0.1 * (x.mean(0) - self.mean)
                return self.head(F.batch_norm(x - self.mean, self.mean, None))  # <- ESP311
        """,
        # heads that one helper makes, in a container
        """
        import torch
        from typing import NamedTuple
        from torch import nn

        class Out(NamedTuple):
            logits: dict
            value: torch.Tensor

        def make_head(d, n):
            return nn.Sequential(nn.BatchNorm1d(d), nn.Linear(d, n))

        class Masked:
            def __init__(self, logits, mask):
                self.log_probs = torch.log_softmax(logits.masked_fill(~mask, -1e30), dim=-1)

            def log_prob(self, action):
                return self.log_probs.gather(-1, action)

            def sample(self):
                return torch.multinomial(self.log_probs.exp(), 1)

        class Policy(nn.Module):
            def __init__(self, d, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({name: make_head(d, size) for name, size in sizes.items()})
                self.value_head = make_head(d, 1)

            def forward(self, x):
                return Out({name: head(x) for name, head in self.heads.items()}, self.value_head(x))  # <- ESP311

            def act(self, x, masks):
                logits, value = self(x)
                return {name: Masked(logits[name], masks[name]).sample() for name in logits}

            def evaluate_actions(self, x, masks, actions):
                logits, value = self(x)
                dists = {name: Masked(logits[name], masks[name]) for name in self.heads}
                return torch.stack([dist.log_prob(actions[name]) for name, dist in dists.items()]).sum(0), value
        """,
    )
