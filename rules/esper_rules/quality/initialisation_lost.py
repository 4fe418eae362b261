"""ESP607: an initialisation of which nothing is left when the constructor is done."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import Category, Confidence, Hit, ModuleModel, NetworkClass, Note, Rule, Severity, lost_writes


class InitialisationLost(Rule):
    """
    ## What it does
    Follows what a constructor writes into whole weights, in order: `nn.init.orthogonal_(self.head.weight, 0.01)`, a
    layer made by a helper of the file that initialises it, and loops over `self.named_parameters()` or `self.modules()`
    that initialise whatever they meet. It reports a write that a later one replaces.

    ## Why it matters
    The careful write is the one that is lost. A policy head that was given a gain of 0.01, so that exploration begins
    uniform, has a gain of 1 again after the loop; where one name was pasted twice, the other head keeps torch's
    default. Nothing fails, and a sharper first policy shows only as less entropy in the first updates.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.policy_head = nn.Linear(obs_dim, num_actions)
            self.value_head = nn.Linear(obs_dim, 1)
            nn.init.orthogonal_(self.policy_head.weight, gain=0.01)
            for name, parameter in self.named_parameters():
                if "weight" in name:
                    nn.init.orthogonal_(parameter)

        def forward(self, obs):
            return self.policy_head(obs), self.value_head(obs)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.policy_head = nn.Linear(obs_dim, num_actions)
            self.value_head = nn.Linear(obs_dim, 1)
            for name, parameter in self.named_parameters():
                if "weight" in name:
                    nn.init.orthogonal_(parameter)
            nn.init.orthogonal_(self.policy_head.weight, gain=0.01)

        def forward(self, obs):
            return self.policy_head(obs), self.value_head(obs)
    ```

    ## Evidence
    Both forms were reported: a wrapper whose loop over all parameters gave a policy head of gain 0.01 a gain of 1 again
    (PufferAI/PufferLib#459), and a constructor that initialised the value head twice and the policy head never
    (ToruOwO/minimal-stable-PPO#3). Andrychowicz et al. found that the scale of the last policy layer matters.

    ## References
    - Andrychowicz et al., What Matters In On-Policy Reinforcement Learning?, arXiv:2006.05990
    """

    code = "ESP607"
    name = "initialisation-lost"
    summary = "a later initialisation replaces an earlier one"
    category = Category.QUALITY
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    help = "initialise in general first and in particular afterwards, each weight once"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Writes that a later one replaces."""
        for lost in lost_writes(net):
            by = (
                "the loop over all parameters" if lost.sweeps else "a second one, with nothing in between that reads it"
            )
            yield Hit(
                lost.first.node,
                f"this initialisation of `{lost.first.target}` is replaced by {by}",
                symbol=f"{net.name}.__init__",
                notes=(Note(module, lost.second, "nothing is left of it after this"),),
            )

    VALID = (
        """
        from torch import nn

        def layer_init(layer, gain):
            nn.init.orthogonal_(layer.weight, gain)
            return layer

        def plain(layer):
            return layer

        def no_parameters():
            nn.init.zeros_(None)

        class Policy(nn.Module):
            def __init__(self, obs_dim, num_actions, build, small):
                super().__init__()
                self.encoder = plain(nn.Linear(obs_dim, 8))
                self.made = layer_init(build(), 1.0)
                self.norm_in = layer_init(nn.Linear(obs_dim, 8), 1.0)
                self.policy_head = nn.Linear(obs_dim, num_actions)
                for name, parameter in self.named_parameters():
                    if "bias" in name:
                        nn.init.zeros_(parameter)
                for name, parameter in self.named_parameters():
                    if "norm" in name:
                        continue
                    if parameter.ndim >= 2:
                        nn.init.orthogonal_(parameter)
                for parameter in self.parameters():
                    if parameter.requires_grad:
                        nn.init.normal_(parameter)
                for parameter in self.encoder.parameters():
                    nn.init.normal_(parameter)
                for layer in [self.encoder]:
                    nn.init.normal_(layer.weight)
                nn.init.orthogonal_(self.policy_head.weight, 0.01)
                nn.init.zeros_(self.policy_head.bias)
                if small:
                    nn.init.zeros_(self.policy_head.weight)
                nn.init.xavier_uniform_(self.policy_head.weight)
                self.count = len(list(self.parameters()))

            def forward(self, obs):
                return self.policy_head(obs)
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, num_actions, name):
                super().__init__()
                self.policy_head = nn.Linear(4, num_actions)
                nn.init.orthogonal_(self.policy_head.weight, 0.01)
                for layer in self.modules():
                    if isinstance(layer, nn.Conv2d):
                        nn.init.normal_(layer.weight)
                for key, parameter in self.named_parameters():
                    if name in key or key.startswith("lstm") or parameter.ndim > 3 or not parameter:
                        nn.init.normal_(parameter)
                    elif parameter.ndim == 1:
                        nn.init.zeros_(parameter)

            def forward(self, obs):
                return self.policy_head(obs)
        """,
        """
        from torch import nn

        class Inherits(nn.Linear):
            def forward(self, obs):
                nn.init.zeros_(self.bias)
                return super().forward(obs)
        """,
    )
    INVALID = (
        """
        from torch import nn

        def layer_init(layer, gain):
            nn.init.orthogonal_(layer.weight, gain)
            return layer

        class Recurrent(nn.Module):
            def __init__(self, obs_dim, num_actions):
                super().__init__()
                self.lstm = nn.LSTM(obs_dim, 8)
                self.policy_head = layer_init(nn.Linear(8, num_actions), 0.01)  # <- ESP607
                for name, parameter in self.named_parameters():
                    if "layer_norm" in name:
                        continue
                    if "bias" in name:
                        nn.init.constant_(parameter, 0)
                    elif "weight" in name and parameter.ndim >= 2:
                        nn.init.orthogonal_(parameter, 1.0)

            def forward(self, obs, hidden):
                core, hidden = self.lstm(obs, hidden)
                return self.policy_head(core), hidden
        """,
        """
        import torch.nn as nn
        import torch.nn.init as init

        class Twice(nn.Module):
            def __init__(self, obs_dim, num_actions):
                super().__init__()
                self.policy_head = nn.Linear(obs_dim, num_actions)
                self.value_head = nn.Linear(obs_dim, 1)
                init.orthogonal_(self.value_head.weight, gain=0.01)  # <- ESP607
                init.orthogonal_(self.value_head.weight, gain=1.0)
                init.zeros_(self.value_head.bias)  # <- ESP607
                init.constant_(self.value_head.bias, 1.0)

            def forward(self, obs):
                return self.policy_head(obs), self.value_head(obs)
        """,
        """
        from torch import nn

        class Modules(nn.Module):
            def __init__(self, obs_dim, num_actions):
                super().__init__()
                self.policy_head = nn.Linear(obs_dim, num_actions)
                nn.init.zeros_(self.policy_head.weight)  # <- ESP607
                nn.init.zeros_(self.policy_head.bias)
                for layer in self.modules():
                    if isinstance(layer, nn.Conv2d) or isinstance(layer, nn.Linear):
                        nn.init.kaiming_normal_(layer.weight)

            def forward(self, obs):
                return self.policy_head(obs)
        """,
        """
        from torch import nn

        class Ranks(nn.Module):
            def __init__(self, obs_dim, num_actions):
                super().__init__()
                self.policy_head = nn.Linear(obs_dim, num_actions)
                nn.init.zeros_(self.policy_head.weight)  # <- ESP607
                for parameter in self.parameters():
                    if parameter.dim() == 1:
                        nn.init.zeros_(parameter)
                    else:
                        nn.init.orthogonal_(parameter)

            def forward(self, obs):
                return self.policy_head(obs)
        """,
    )
