"""ESP505: training calls the module inside DistributedDataParallel, and gradients are never averaged."""

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
    unreduced_calls,
)


class DdpBypass(Rule):
    """
    ## What it does
    Follows networks that are wrapped in `DistributedDataParallel` and reports training calls on the module inside it:
    `ddp.module.evaluate_actions(...)`, `ddp.module(...)`, also through a helper that unwraps.

    ## Why it matters
    The wrapper averages gradients only after its own `forward` has armed it. A policy that is trained through
    `.module.evaluate_actions` never calls that forward: each process steps on the gradients of its own environments,
    the replicas drift apart, and the one that is saved has learnt from a fraction of the data. Nothing raises.

    Calls without gradients are fine, and so are files that reduce gradients by hand or disarm the wrapper on purpose.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical
    from torch.nn.parallel import DistributedDataParallel

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def evaluate_actions(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    class Trainer:
        def __init__(self, device):
            self.policy = DistributedDataParallel(Policy(8, 4).to(device))

        def update(self, obs, actions, advantages):
            log_probs = self.policy.module.evaluate_actions(obs, actions)
            (-log_probs * advantages).mean().backward()
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical
    from torch.nn.parallel import DistributedDataParallel

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs, actions):
            return Categorical(logits=self.action_head(obs)).log_prob(actions)

    class Trainer:
        def __init__(self, device):
            self.policy = DistributedDataParallel(Policy(8, 4).to(device))

        def update(self, obs, actions, advantages):
            log_probs = self.policy(obs, actions)
            (-log_probs * advantages).mean().backward()
    ```

    ## Evidence
    On torch 2.13.0, two processes over gloo with different data, three SGD steps: with `ddp(x)` the replicas are equal;
    with `ddp.module.evaluate_actions(x)`, `ddp.module(x)` and the network that was wrapped they differ by 0.17, also
    when `ddp(x)` was called under `no_grad` before. A `ddp(x)` with gradients before it arms the wrapper: equal again.
    Reports: jingyaogong/minimind#853 and #854; the same need is met with a wrapper module in HorizonRobotics/alf#950.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/ddp.html
    """

    code = "ESP505"
    name = "ddp-bypass"
    summary = "training calls the module inside DistributedDataParallel"
    category = Category.INTEGRATION
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    help = (
        "make the training call the network's `forward` and call the wrapper, "
        "or wrap a small module whose forward calls the method"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Training calls that no reducer sees."""
        for event in unreduced_calls(net):
            called = "the module inside" if event.name in ("__call__", "forward") else f"`{event.callee.name}` inside"
            yield Hit.at(
                event,
                f"training calls {called} DistributedDataParallel: "
                f"the gradients of {net.name} are not averaged, and each process trains alone",
                notes=(Note(event.callee.module, event.callee.node.name, "what is called"),),
            )

    VALID = (
        # Acting needs no gradients, and training goes through the wrapper.
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical
        from torch.nn.parallel import DistributedDataParallel as DDP

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs, actions):
                return Categorical(logits=self.action_head(obs)).log_prob(actions)

            def act(self, obs):
                return Categorical(logits=self.action_head(obs)).sample()

            @torch.no_grad()
            def evaluate_actions(self, obs, actions):
                return Categorical(logits=self.action_head(obs)).log_prob(actions)

        def train(obs, actions):
            policy = DDP(Policy())
            action = policy.module.act(obs)
            with torch.no_grad():
                old = policy.module(obs, actions)
            old = policy.module.evaluate_actions(obs, actions)
            policy.module.eval()
            policy.module.state_dict()
            (policy(obs, actions) - old).mean().backward()
        """,
        """
        import torch
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel as DDP

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)

            def act(self, obs):
                return self(obs).argmax(-1)

            @torch.no_grad()
            def evaluate(self, obs):
                return self(obs)

        def test(obs):
            policy = DDP(Policy())
            return policy.module(obs)

        def imitate(obs, loss):
            policy = DDP(Policy())
            policy.module.act(obs)
            policy.module.evaluate(obs)
            loss.backward()
        """,
        # Gradients are averaged by hand, here and in a helper.
        """
        import torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def evaluate_actions(self, obs, actions):
                return self.action_head(obs)

        def train(obs, actions):
            policy = DistributedDataParallel(Policy())
            policy.module.evaluate_actions(obs, actions).mean().backward()
            for parameter in policy.parameters():
                dist.all_reduce(parameter.grad)
        """,
        Case(
            {
                "network.py": """
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def evaluate_actions(self, obs, actions):
                        return self.action_head(obs)
                """,
                "sync.py": """
                import torch.distributed as dist

                def average(parameters):
                    for parameter in parameters:
                        dist.all_reduce(parameter.grad)
                """,
                "train.py": """
                from network import Policy
                from sync import average
                from torch.nn.parallel import DistributedDataParallel

                def train(obs, actions):
                    policy = DistributedDataParallel(Policy())
                    policy.module.evaluate_actions(obs, actions).mean().backward()
                    average(policy.parameters())
                """,
            }
        ),
        # A module around the network forwards to its method.
        """
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def evaluate_actions(self, obs, actions):
                return self.action_head(obs)

        class Evaluate(nn.Module):
            def __init__(self, policy):
                super().__init__()
                self.policy = policy

            def forward(self, obs, actions):
                return self.policy.evaluate_actions(obs, actions)

        def train(obs, actions):
            policy = Policy()
            evaluate = DistributedDataParallel(module=Evaluate(policy))
            evaluate(obs, actions).mean().backward()
            nn.DataParallel(policy).module.evaluate_actions(obs, actions).mean().backward()
        """,
    )
    INVALID = (
        # A helper unwraps, and the loss is computed in a method of its own; another sum over processes is no gradient.
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Base(nn.Module):
                    def get_action_and_value(self, obs, action=None):
                        dist = Categorical(logits=self.actor(obs))
                        action = dist.sample() if action is None else action
                        return action, dist.log_prob(action), self.critic(obs)

                class Policy(Base):
                    def __init__(self):
                        super().__init__()
                        self.actor = nn.Linear(8, 4)
                        self.critic = nn.Linear(8, 1)
                """,
                "wrapping.py": """
                from torch.nn.parallel import DistributedDataParallel as DDP

                def wrap(net, distributed):
                    return DDP(net) if distributed else net

                def unwrap(net):
                    return net.module if isinstance(net, DDP) else net
                """,
                "trainer.py": """
                import torch
                import torch.distributed as dist
                from network import Policy
                from wrapping import unwrap, wrap

                class Trainer:
                    def __init__(self, distributed):
                        self.policy = wrap(Policy(), distributed)

                    def rollout(self, obs):
                        with torch.no_grad():
                            return unwrap(self.policy).get_action_and_value(obs)

                    def loss(self, obs, actions):
                        _, log_prob, value = unwrap(self.policy).get_action_and_value(obs, actions)  # <- ESP505
                        return (value - log_prob).mean()

                    def update(self, obs, actions, kl):
                        self.loss(obs, actions).backward()
                        dist.all_reduce(kl)
                """,
            }
        ),
        """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.q_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.q_head(obs)

            def stats(self, obs):
                logits = self.q_head(obs)
                return logits

        if __name__ == "__main__":
            net = nn.parallel.DistributedDataParallel(module=Net())
            inner = net.module
            loss = inner(torch.zeros(1, 8)).mean()  # <- ESP505
            loss = loss + inner.forward(torch.zeros(1, 8)).mean()  # <- ESP505
            loss = loss + net.module.stats(torch.zeros(1, 8)).mean()  # <- ESP505
            loss.backward()
        """,
    )
