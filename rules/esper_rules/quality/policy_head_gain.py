"""ESP606: the last layer of a policy head starts as large as a hidden layer, so the first policy has preferences."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    Case,
    Category,
    Confidence,
    HeadGain,
    Hit,
    Insert,
    ModuleModel,
    NetworkClass,
    Repair,
    Replace,
    Rule,
    Severity,
    dotted,
    head_gains,
)

_WHY = "training starts from another policy, one that is close to uniform"


class PolicyHeadGain(Rule):
    """
    ## What it does
    Reports a policy whose constructor makes weights orthogonal and leaves the last layer of an action head with a gain
    of 1 or more, or as `nn.Linear` makes it. Networks that choose no initialisation at all are left alone, and so are
    value heads, Q-networks, and policies that are trained through `rsample`.

    ## Why it matters
    With large last weights the first policy prefers some actions for no reason. What it prefers fills the first
    batches, and the entropy bonus has to undo it before anything is learnt. With a gain of 0.01 all valid actions are
    equally likely, and each observation is explored alike.

    ## Example
    ```python
    import math
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            for layer in (self.trunk, self.action_head):
                nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))

        def act(self, obs):
            return Categorical(logits=self.action_head(self.trunk(obs).relu())).sample()
    ```

    ## Use instead
    ```python
    import math
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.trunk = nn.Linear(obs_dim, 64)
            self.action_head = nn.Linear(64, num_actions)
            nn.init.orthogonal_(self.trunk.weight, gain=math.sqrt(2))
            nn.init.orthogonal_(self.action_head.weight, gain=0.01)

        def act(self, obs):
            return Categorical(logits=self.action_head(self.trunk(obs).relu())).sample()
    ```

    ## Fix
    Unsafe: 0.01 in place of the gain, where it is written for policy heads alone. Training takes another course.

    ## Evidence
    On torch 2.13.0, two tanh layers of 64 with a gain of sqrt(2), six actions, 2,000 observations, 20 seeds: with a
    gain of 0.01 the log-probs are 0.004 from uniform on average, and no observation gives an action more than 0.17.
    With a gain of 1 they are 0.43 away, with sqrt(2) 0.64, with nn.Linear's own initialisation 0.25; for one
    observation in twenty the most likely action has 0.44, 0.57 and 0.31. Reported in ToruOwO/minimal-stable-PPO#3 (the
    value head was initialised twice, the policy head never) and PufferAI/PufferLib#459.

    ## References
    - Andrychowicz et al., What Matters In On-Policy Reinforcement Learning?, arXiv:2006.05990 (last layer 100 times
      smaller)
    - Huang et al., The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track 2022
    """

    code = "ESP606"
    name = "policy-head-gain"
    summary = "the last layer of a policy head starts with large weights"
    category = Category.QUALITY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "init-policy"
    fixable = "unsafe"
    help = "initialise the last layer of each policy head with `orthogonal_(..., gain=0.01)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Policy heads that are left with a gain of 1 or more, one hit for each place."""
        if not net.is_policy or not {ACT, EVALUATE} & set(net.roles.values()):
            return
        if any(event.name == ".rsample" for _, event, _ in net.events("call")):
            return
        places: dict[tuple[cst.CSTNode, str], list[HeadGain]] = {}
        for found in head_gains(net):
            if found.how == "default" or (found.gain.value is not None and found.gain.value >= 1):
                places.setdefault((found.node, found.how), []).append(found)
        for (node, _), heads in places.items():
            first = heads[0]
            named = ", ".join(f"`{each.head}`" for each in heads)
            yield Hit(
                node,
                f"{_how(first)} {named}: the first policy has preferences",
                module=first.function.module,
                symbol=first.function.qualified,
                repair=_smaller(first),
            )

    VALID = (
        # one by one, out of a list
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.body = nn.Linear(4, 64)
                self.heads = nn.ModuleList(nn.Linear(64, size) for size in sizes)
                nn.init.orthogonal_(self.body.weight, gain=2**0.5)
                nn.init.orthogonal_(self.heads[0].weight, gain=0.01)
                nn.init.orthogonal_(self.heads[1].weight, gain=0.01)

            def act(self, x):
                x = self.body(x).relu()
                return Categorical(logits=self.heads[0](x)).sample(), Categorical(logits=self.heads[1](x)).sample()
        """,
        # small in many spellings
        """
        import math
        import torch
        from functools import partial
        from torch import nn
        from torch.distributions import Categorical

        def layer_init(layer, std=math.sqrt(2), bias=0.0):
            torch.nn.init.orthogonal_(layer.weight, std)
            torch.nn.init.constant_(layer.bias, bias)
            return layer

        class Agent(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.critic = nn.Sequential(layer_init(nn.Linear(4, 8)), layer_init(nn.Linear(8, 1), std=1.0))
                self.actor = nn.Sequential(layer_init(nn.Linear(4, 8)), layer_init(nn.Linear(8, n), std=0.01))

            def get_action(self, x):
                return Categorical(logits=self.actor(x)).sample()

        class Applied(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.action_net = nn.Linear(8, n)
                self.value_net = nn.Linear(8, 1)
                gains = {self.body: math.sqrt(2), self.action_net: 0.01, self.value_net: 1}
                for module, gain in gains.items():
                    module.apply(partial(self.init_weights, gain=gain))

            @staticmethod
            def init_weights(module, gain=1):
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    nn.init.orthogonal_(module.weight, gain=gain)

            def act(self, x):
                return Categorical(logits=self.action_net(self.body(x))).sample()

        class Swept(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
                self.action_heads = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Linear(8, k)) for k in n])
                self.logits_head = nn.Linear(8, 3)
                self.apply(self._init)
                for head in self.action_heads:
                    nn.init.orthogonal_(head[-1].weight, 0.01)
                self.logits_head.weight.data.mul_(0.01)
                self.pi_head = nn.Linear(8, 3)
                with torch.no_grad():
                    self.pi_head.weight *= 0.01

            def _init(self, m):
                if isinstance(m, nn.Linear):
                    nn.init.orthogonal_(m.weight, gain=2**0.5)
                    nn.init.zeros_(m.bias)
                elif isinstance(m, nn.LayerNorm):
                    m.reset_parameters()

            def act(self, x):
                return [Categorical(logits=head(self.body(x))).sample() for head in self.action_heads]
        """,
        # nothing is chosen, or not for Linear layers; not known; no policy; trained through its samples
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical, Normal
        from elsewhere import init_weights

        class Plain(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.LSTM(4, 8)
                self.actor = nn.Linear(8, n)
                nn.init.orthogonal_(self.body.weight_hh_l0)

            def act(self, x):
                return Categorical(logits=self.actor(self.body(x)[0])).sample()

        class Unknown(nn.Module):
            def __init__(self, n, gain, scheme):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.actor = nn.Linear(8, n)
                nn.init.orthogonal_(self.body.weight)
                nn.init.orthogonal_(self.actor.weight, gain)

            def act(self, x):
                return Categorical(logits=self.actor(self.body(x))).sample()

        class Settings(Unknown):
            def __init__(self, n, scheme):
                super().__init__(n, 1.0, scheme)
                if scheme == "orthogonal":
                    nn.init.orthogonal_(self.actor.weight, 1.0)

        class Elsewhere(Unknown):
            def __init__(self, n):
                super().__init__(n, 1.0, "")
                self.apply(init_weights)

        class QNetwork(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.q_head = nn.Linear(8, n)
                nn.init.orthogonal_(self.q_head.weight, 1.0)

            def act(self, x):
                return self.q_head(x).argmax(-1)

        class Actor(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.mu = nn.Linear(8, n)
                nn.init.orthogonal_(self.body.weight)

            def sample(self, x):
                return Normal(self.mu(self.body(x)), 1.0).rsample()

        class Scores(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.policy_head = nn.Linear(8, n)
                nn.init.orthogonal_(self.body.weight)

            def forward(self, x):
                return self.policy_head(self.body(x))

        class Hidden(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.policy_layer = nn.Linear(8, n)
                self.branches = nn.ModuleList([nn.Linear(n, 3)])
                nn.init.orthogonal_(self.policy_layer.weight)

            def act(self, x):
                h = torch.relu(self.policy_layer(x))
                return [Categorical(logits=branch(h)).sample() for branch in self.branches]
        """,
    )
    INVALID = (
        """
        import math
        import numpy as np
        import torch
        from torch import nn
        from torch.distributions.categorical import Categorical

        def layer_init(layer, std=np.sqrt(2), bias_const=0.0):
            torch.nn.init.orthogonal_(layer.weight, std)
            torch.nn.init.constant_(layer.bias, bias_const)
            return layer

        class Agent(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.network = nn.Sequential(layer_init(nn.Linear(4, 8)), nn.ReLU())
                self.actor = layer_init(nn.Linear(8, n))  # <- ESP606
                self.critic = layer_init(nn.Linear(8, 1), std=1)

            def get_action_and_value(self, x, action=None):
                hidden = self.network(x)
                probs = Categorical(logits=self.actor(hidden))
                action = probs.sample() if action is None else action
                return action, probs.log_prob(action), probs.entropy(), self.critic(hidden)
        """,
        """
        import math
        import torch
        from torch import nn
        from torch.distributions import Categorical

        def layer_init(layer, std=math.sqrt(2)):
            torch.nn.init.orthogonal_(layer.weight, std)
            return layer

        class Agent(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.network = nn.Sequential(layer_init(nn.Linear(4, 8)), nn.ReLU())
                self.actor = nn.Linear(8, n)  # <- ESP606
                self.critic = layer_init(nn.Linear(8, 1), std=1)

            def get_action(self, x):
                return Categorical(logits=self.actor(self.network(x))).sample()

        class Forgotten(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.action_head = nn.Linear(8, n)
                self.value_head = nn.Linear(8, 1)
                self.reset_parameters()

            def reset_parameters(self):
                for module in self.modules():
                    if isinstance(module, nn.Linear):
                        nn.init.orthogonal_(module.weight, gain=math.sqrt(2))  # <- ESP606
                nn.init.orthogonal_(self.value_head.weight, gain=1.0)

            def act(self, x):
                return Categorical(logits=self.action_head(self.body(x))).sample()

        class Reset(Forgotten):
            def reset_parameters(self):
                super().reset_parameters()
                for head in (self.action_head,):
                    head.reset_parameters()  # <- ESP606
        """,
        # the gain of a name; of a row in a table; of a head that is looked up
        """
        import torch
        from torch import nn
        from torch.nn import init
        from torch.distributions import Categorical

        GAIN = 1.0

        def last(head):
            return head[-1]

        class Policy(nn.Module):
            def __init__(self, sizes):
                super().__init__()
                self.heads = nn.ModuleDict({k: nn.Sequential(nn.ReLU(), nn.Linear(4, n)) for k, n in sizes.items()})
                self.body = nn.Linear(4, 8)
                self.value_head = nn.Linear(8, 1)
                for head in self.heads.values():
                    init.orthogonal_(last(head).weight, gain=GAIN)  # <- ESP606

            def act(self, x):
                return {k: Categorical(logits=head(self.body(x))).sample() for k, head in self.heads.items()}

        class Tabled(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(4, 8)
                self.action_net = nn.Linear(8, n)
                self.value_net = nn.Linear(8, 1)
                for layer, gain in [(self.body, 1.4), (self.action_net, init.calculate_gain("tanh"))]:
                    init.orthogonal_(layer.weight, gain=gain)  # <- ESP606

            def act(self, x):
                return Categorical(logits=self.action_net(self.body(x))).sample()
        """,
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            def scaled(layer, gain):
                nn.init.orthogonal_(layer.weight, gain=gain)
                return layer

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.body = nn.Linear(4, 8)
                    self.action_head = nn.Linear(8, n)
                    self.target_head = nn.Linear(8, n)
                    self.logits_head = scaled(nn.Linear(8, n), gain=1.5)  # <- ESP606
                    nn.init.orthogonal_(self.action_head.weight, gain=1.0)  # <- ESP606
                    nn.init.orthogonal_(self.target_head.weight)  # <- ESP606

                def act(self, x):
                    x = self.body(x)
                    dists = [Categorical(logits=f(x)) for f in (self.action_head, self.target_head, self.logits_head)]
                    return [dist.sample() for dist in dists]
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            def scaled(layer, gain):
                nn.init.orthogonal_(layer.weight, gain=gain)
                return layer

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.body = nn.Linear(4, 8)
                    self.action_head = nn.Linear(8, n)
                    self.target_head = nn.Linear(8, n)
                    self.logits_head = scaled(nn.Linear(8, n), gain=0.01)
                    nn.init.orthogonal_(self.action_head.weight, gain=0.01)  # <- ESP606
                    nn.init.orthogonal_(self.target_head.weight, gain=0.01)  # <- ESP606

                def act(self, x):
                    x = self.body(x)
                    dists = [Categorical(logits=f(x)) for f in (self.action_head, self.target_head, self.logits_head)]
                    return [dist.sample() for dist in dists]
            """,
        ),
    )


def _how(found: HeadGain) -> str:
    if found.how == "default":
        return "other layers are made orthogonal, and nn.Linear's own initialisation is left in"
    if found.how == "shared":
        return f"a gain of {found.gain.value:.3g} for all layers alike is left in"
    return f"a gain of {found.gain.value:.3g} is left in"


def _smaller(found: HeadGain) -> Repair | None:
    """0.01 where the gain of the head stands, if that is in the file of the hit."""
    gain, call = found.gain, found.node
    if found.how != "own":
        return None
    if gain.node is not None:
        written = gain.module is found.function.module and not isinstance(gain.node, cst.Name)
        return Repair("use a gain of 0.01", (Replace(gain.node, "0.01"),), _WHY) if written else None
    if isinstance(call, cst.Call) and len(call.args) == 1 and dotted(call.func).endswith("orthogonal_"):
        return Repair("use a gain of 0.01", (Insert(call.args[0].value, ", gain=0.01"),), _WHY)
    return None
