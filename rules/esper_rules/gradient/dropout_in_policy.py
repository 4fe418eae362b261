"""ESP310: dropout stands between what a policy sees and its actions."""

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


class DropoutInPolicy(Rule):
    """
    ## What it does
    Reports dropout with a probability above 0 on the way to the action distribution of a network that acts and
    evaluates its actions again, as PPO does: a layer, the function, dropout between recurrent layers, and the 0.1 that
    a transformer layer has by default. Dropout on the way to a value only is left alone, and so is dropout whose
    probability is not known, that a branch may leave out, or that a project which only ever calls `.eval()` switches
    off.

    ## Why it matters
    The ratio of PPO compares the log-prob of an action now with the one it was drawn with, and takes every difference
    for a change of the policy. With dropout each of the two comes from a random network of its own. The ratio is not 1
    before the first step of an update, so clipping and KL limits act on noise; eval mode for the rollout alone does not
    help, since then the two networks differ for certain.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.Dropout(0.1), nn.Tanh())
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
            self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh())
            self.action_head = nn.Linear(64, num_actions)

        def act(self, obs):
            return Categorical(logits=self.action_head(self.body(obs))).sample()

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(self.body(obs))).log_prob(actions)
    ```

    ## Evidence
    On torch 2.13.0, a tanh network of 64 units, its log-probs taken twice in training mode: with p=0.1 the ratio of a
    fresh network is off by up to 0.72, and by more than 0.2 for 10 % of the actions; with tenfold weights in the head
    for 59 %. With p=0.5 it is off by more than 0.2 for 53 % from the start. DLR-RM/stable-baselines3#535 asks why
    dropout stays on in prediction; huggingface/trl#3234 switches it off for this reason.

    ## References
    - Huang et al., The N+ Implementation Details of RLHF with PPO, arXiv:2403.17031
    """

    code = "ESP310"
    name = "dropout-in-policy"
    summary = "dropout makes log-probs random"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "randomness"
    help = "set p=0, or leave the layer out: regularise with weight decay or an entropy bonus"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Steps that drop at random on the way to the actions."""
        for step in on_the_way_to_actions(net, "dropped"):
            yield Hit.at(
                step,
                "dropout on the way to the actions: act and evaluate see two random networks, and the ratio is noise",
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
                self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.Tanh())
                self.head = nn.Linear(4, n)
                self.value_head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 1))

            def forward(self, x):
                features = self.body(x)
                self.value = self.value_head(features)
                return self.head(F.dropout(features, 0.5, training=False))

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
                self.drop = nn.Dropout(flag)
                self.maybe = nn.Dropout(0.1) if flag else nn.Identity()
                self.rnn = nn.LSTM(4, 4, dropout=0.5)
                layers = [nn.Linear(4, 4)]
                if flag:
                    layers.append(nn.Dropout(0.5))
                self.body = nn.Sequential(*layers)
                self.head = nn.Linear(4, n)
                self.late = nn.Dropout(0.5)
                self.given = nn.Dropout(**flag)

            def forward(self, x):
                x = self.maybe(self.drop(self.given(self.body(x))))
                if self.flag:
                    x = self.late(x)
                x, _ = self.rnn(x)
                return self.head(F.dropout(x, 0.0))

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
                self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
                self.head = nn.Linear(4, n)

            def forward(self, x):
                return self.head(self.body(x))

            def act(self, x):
                return Categorical(logits=self(x)).sample()

         """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        def play(policy, x):
            policy = Policy(4, False)
            policy.eval()
            return policy.act(x)

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.body = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
                self.head = nn.Linear(4, n)

            def forward(self, x):
                return self.head(self.body(x))

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
    )
    INVALID = (
        """
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Base(nn.Module):
            def trunk(self, x):
                return F.dropout(self.body(x), 0.3, training=self.training)  # <- ESP310

        class Policy(Base):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 4)
                self.head = nn.Linear(4, n)

            def get_action(self, x):
                return Categorical(logits=self.head(self.trunk(x))).sample()

            def evaluate(self, x, action):
                return Categorical(logits=self.head(self.trunk(x))).log_prob(action)
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
                self.body = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(p=0.1), nn.Tanh()))
                self.drop = nn.Dropout()
                self.head = nn.Linear(4, n)
                self.value_head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 1))

            def forward(self, x):
                features = self.body(x)  # <- ESP310
                features = self.drop(features)  # <- ESP310
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
                self.rnn = nn.LSTM(4, 4, num_layers=2, batch_first=True, dropout=0.2)
                self.actor = nn.Linear(4, n)

            def forward(self, x):
                x, _ = self.rnn(x)  # <- ESP310
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

        class Encoder(nn.Module):
            def __init__(self, d, dropout=0.1):
                super().__init__()
                layer = nn.TransformerEncoderLayer(d, 2)
                self.encoder = nn.TransformerEncoder(layer, 2)
                self.drop = nn.Dropout(dropout)

            def forward(self, x):
                x = self.encoder(x)  # <- ESP310
                x = self.drop(x)  # <- ESP310
                return F.dropout(x, training=self.training)

        class Policy(nn.Module):
            def __init__(self, n, flag):
                super().__init__()
                self.flag = flag
                self.actor = nn.Linear(4, n)
                self.encoder = Encoder(4)

            def forward(self, x):
                both = torch.cat([self.encoder(x), x], dim=-1)
                return self.actor(both) / 2.0

            def act(self, x):
                return Categorical(logits=self(x)).sample()

            def evaluate_actions(self, x, action):
                return Categorical(logits=self(x)).log_prob(action)
        """,
    )
