"""ESP316: two optimizers step the layers that the policy and the value share."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    shared_layers,
)


class SharedTrunkTwoOptimizers(Rule):
    """
    ## What it does
    Reports two optimizers of one network, one for its policy head and one for its value head, that were both given the
    layers below the heads.

    ## Why it matters
    The shared layers are stepped twice, with two learning rates, and each optimizer keeps averages of gradients that
    the other one makes as well. With Adam the layers go on moving in a direction of which the loss has lost sight: the
    averages of one optimizer push while only the other one's loss has a gradient.

    Silent where the parameters are filtered or picked by name, where an optimizer is made under an `if`, and where one
    of them has both heads: there the other one is an extra on purpose, as auxiliary phases have it.

    ## Example
    ```python
    import torch
    from torch import nn

    class ActorCritic(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            self.value_head = nn.Linear(64, 1)

        def act(self, obs):
            return self.action_head(self.trunk(obs)).argmax(-1)

    def make(lr):
        net = ActorCritic(8, 4)
        actor = torch.optim.Adam([*net.trunk.parameters(), *net.action_head.parameters()], lr=lr)
        critic = torch.optim.Adam([*net.trunk.parameters(), *net.value_head.parameters()], lr=lr)
        return net, actor, critic
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class ActorCritic(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            self.value_head = nn.Linear(64, 1)

        def act(self, obs):
            return self.action_head(self.trunk(obs)).argmax(-1)

    def make(lr):
        net = ActorCritic(8, 4)
        return net, torch.optim.Adam(net.parameters(), lr=lr)
    ```

    ## Evidence
    On torch 2.13.0, a trunk with two heads, one loss, lr 1e-3: the first step moves the trunk by 0.001 with one Adam
    over all parameters and by 0.002 with one for trunk and policy and one for trunk and value. After 20 steps of one
    Adam, five more with gradients of exactly zero move the same layer by another 0.0038, and five steps of a fresh Adam
    by 0. Whether an encoder should be stepped by both losses in turn is asked in huggingface/lerobot#2470; also
    reported in DLR-RM/stable-baselines3#787 and cpnota/autonomous-learning-library#61.

    ## References
    - https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options
    """

    code = "ESP316"
    name = "shared-trunk-two-optimizers"
    summary = "two optimizers step the layers that the policy and the value share"
    category = Category.GRADIENT
    severity = Severity.HIGH
    confidence = Confidence.MEDIUM
    help = "give one optimizer all parameters and add the losses, or leave the shared layers to one of the two"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Pairs of optimizers that hold the same layers."""
        for found in shared_layers(net):
            names = ", ".join(f"`{name}`" for name in found.names)
            yield Hit.at(
                found.second,
                f"{names}: stepped by two optimizers, one of the policy and one of the value",
                notes=(Note(found.first.module, found.first.node, "the first one"),),
            )

    VALID = (
        # Apart; with both heads in one; filtered; one or the other; of other things; parameters from elsewhere.
        """
        import torch
        from torch import nn

        class ActorCritic(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.critic_trunk = nn.Linear(8, 64)
                self.action_head = nn.Linear(64, 4)
                self.value_head = nn.Linear(64, 1)

            def act(self, obs):
                return self.action_head(self.trunk(obs)).argmax(-1)

        def apart():
            net = ActorCritic()
            actor = torch.optim.Adam([*net.trunk.parameters(), *net.action_head.parameters()])
            critic = torch.optim.Adam([*net.critic_trunk.parameters(), *net.value_head.parameters()])
            return actor, critic

        def auxiliary():
            net = ActorCritic()
            return torch.optim.Adam(net.parameters()), torch.optim.Adam(net.value_head.parameters())

        def filtered(params):
            net = ActorCritic()
            actor = torch.optim.Adam([p for n, p in net.named_parameters() if "value" not in n])
            critic = torch.optim.Adam([*net.trunk.parameters(), *net.value_head.parameters()])
            return actor, critic, torch.optim.Adam(params), torch.optim.Adam(), torch.ones(1)

        def either(kind):
            net = ActorCritic()
            both = [*net.trunk.parameters(), *net.action_head.parameters()]
            both = [*net.critic_trunk.parameters(), *net.action_head.parameters()]
            if kind:
                return torch.optim.Adam([*net.trunk.parameters(), *net.action_head.parameters()])
            return torch.optim.Adam([*net.trunk.parameters(), *net.value_head.parameters()]), torch.optim.Adam(both)
        """,
        """
        import torch
        from torch import nn

        class Actor(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.action_head = nn.Linear(64, 4)

            def forward(self, obs):
                return self.action_head(self.trunk(obs))
        """,
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn

                class ActorCritic(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
                        self.lstm = nn.LSTM(64, 64)
                        self.action_head = nn.Linear(64, 4)
                        self.value_head = nn.Linear(64, 1)

                    def act(self, obs, hidden):
                        out, hidden = self.lstm(self.trunk(obs), hidden)
                        return self.action_head(out).argmax(-1), hidden
                """,
                "agent.py": """
                import itertools
                from torch import optim
                from network import ActorCritic

                class Agent:
                    def __init__(self):
                        self.net = ActorCritic()
                        core = itertools.chain(self.net.lstm.parameters(), self.net.value_head.parameters())
                        self.critic_optimizer = optim.RMSprop(core)
                        self.actor_optimizer = optim.AdamW(  # <- ESP316
                            [
                                {"params": self.net.trunk.parameters()},
                                {"params": list(self.net.lstm.parameters()) + list(self.net.action_head.parameters())},
                            ]
                        )
                """,
            }
        ),
        """
        import torch
        from torch import nn

        class ActorCritic(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 64)
                self.action_head = nn.Linear(64, 4)
                self.value_head = nn.Linear(64, 1)
                actor = list(self.trunk.parameters()) + list(self.action_head.parameters())
                critic = list(self.trunk.parameters()) + list(self.value_head.parameters())
                self.actor_optimizer = torch.optim.Adam(actor)
                self.critic_optimizer = torch.optim.Adam(critic)  # <- ESP316

            def act(self, obs):
                return self.action_head(self.trunk(obs)).argmax(-1)
        """,
    )
