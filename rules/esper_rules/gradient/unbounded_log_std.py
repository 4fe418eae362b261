"""ESP306: nothing bounds the standard deviation of a Gaussian policy."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    UNKNOWN,
    Case,
    Category,
    Event,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    Val,
)

_NORMALS = ("torch.distributions.Normal", "torch.distributions.normal.Normal")
_BOUNDS_LATER = (b"clamp_(", b"clip_(", b"clamp_min_(", b"clamp_max_(")
_FOUND = {
    "raw_output": ("the output of a linear layer, which is negative as often as not", Severity.HIGH),
    "raw_parameter": ("a parameter as it is, which training may push below zero", Severity.HIGH),
    "exp_raw_output": ("the exponential of an output that nothing bounds", Severity.MEDIUM),
    "exp_raw_parameter": ("the exponential of a parameter that nothing bounds", Severity.INFO),
}


class UnboundedLogStd(Rule):
    """
    ## What it does
    Reports a `Normal` whose scale is an output of a linear layer or a parameter as it is (`high`), or the exponential
    of one: of an output `medium`, of a parameter `info`. A clamp, a softplus, a squashing function on the way, or any
    arithmetic that may be one, silences it.

    ## Why it matters
    A scale below zero raises, and where validation is off its log-prob is NaN. An optimiser reaches that without
    warning: after hours, or with many environments at the first step. An exponential cannot be negative, but it
    underflows to zero or overflows, and log-probs become NaN. Reference code for PPO takes the risk with a parameter,
    which moves slowly; outputs move with every observation.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Normal

    class Policy(nn.Module):
        def __init__(self, obs_dim, action_dim):
            super().__init__()
            self.mean_head = nn.Linear(obs_dim, action_dim)
            self.log_std_head = nn.Linear(obs_dim, action_dim)

        def act(self, obs):
            return Normal(self.mean_head(obs), self.log_std_head(obs).exp()).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Normal

    class Policy(nn.Module):
        def __init__(self, obs_dim, action_dim):
            super().__init__()
            self.mean_head = nn.Linear(obs_dim, action_dim)
            self.log_std_head = nn.Linear(obs_dim, action_dim)

        def act(self, obs):
            return Normal(self.mean_head(obs), self.log_std_head(obs).clamp(-20, 2).exp()).sample()
    ```

    ## Evidence
    On torch 2.13.0, `Normal(0, -0.1)` raises, and without validation its log-prob is NaN and `sample` raises; 47 % of
    the outputs of a fresh linear layer of 64 inputs are negative. With a log-std of 50 the log-prob of the sample
    itself is NaN, with -120 the scale is zero and refused. Reports: leggedrobotics/rsl_rl#33,
    unitreerobotics/unitree_rl_mjlab#8 (a raw parameter), mujocolab/mjlab#765.

    ## References
    - Haarnoja et al., Soft Actor-Critic, arXiv:1801.01290, whose code clamps the log-std
    """

    code = "ESP306"
    name = "unbounded-log-std"
    summary = "nothing bounds the standard deviation of the policy"
    category = Category.GRADIENT
    severity = Severity.MEDIUM
    probe = "extreme-inputs"
    help = "clamp the log-std (to -20 and 2, say), or use softplus plus a small constant"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Normals whose scale comes straight out of a layer or a parameter."""
        if any(net.project.mentions(path, *_BOUNDS_LATER) for path in net.caller_files):
            return
        told: set[cst.CSTNode] = set()
        for _, event, stack in net.events("dist"):
            found = _found(_scale(event)) if event.name in _NORMALS else ""
            call = net.in_network(event, stack)
            handed = call is not event
            if not found or event.node in told or (handed and not _hands_over(call, found)):
                continue
            told.add(event.node)
            says, severity = _FOUND[found]
            yield Hit.at(
                call,
                f"`{call.name}` makes a `Normal` whose scale is {says}"
                if handed
                else f"the scale of this `Normal` is {says}",
                severity=severity,
                notes=(Note(event.module, event.node, "the `Normal` is made here"),) if handed else (),
            )

    VALID = (
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical, Normal

        class Policy(nn.Module):
            def __init__(self, n, std):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.head = nn.Linear(8, n)
                self.log_std = nn.Parameter(torch.zeros(n))
                self.fixed = nn.Parameter(torch.ones(n), requires_grad=False)
                self.positive = nn.Sequential(nn.Linear(8, n), nn.Softplus())
                self.std = std

            def act(self, x):
                raw = self.head(x)
                return (
                    Normal(self.mean(x), torch.clamp(raw, -20, 2).exp()),
                    Normal(self.mean(x), raw.exp().clamp(1e-3, 1.0)),
                    Normal(self.mean(x), F.softplus(raw) + 1e-4),
                    Normal(self.mean(x), torch.tanh(raw).exp()),
                    Normal(self.mean(x), raw.sigmoid()),
                    Normal(self.mean(x), torch.exp(-5 + 3.5 * (torch.tanh(raw) + 1))),
                    Normal(self.mean(x), self.log_std.clamp(min=-5).exp()),
                    Normal(self.mean(x), self.fixed.expand_as(raw)),
                    Normal(self.mean(x), self.positive(x)),
                    Normal(self.mean(x), self.std),
                    Normal(self.mean(x), 1.0),
                    Normal(loc=self.mean(x), scale=torch.full_like(raw, 0.5)),
                    Categorical(logits=raw),
                )
        """,
        # bounded where the configuration wants it
        """
        from torch import nn
        from torch.distributions import Normal

        class Policy(nn.Module):
            def __init__(self, n, clip):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.log_std = nn.Linear(8, n)
                self.clip = clip

            def act(self, x):
                log_std = self.log_std(x)
                if self.clip:
                    log_std = log_std.clamp(-5, 2)
                return Normal(self.mean(x), log_std.exp()).sample()
        """,
        # another network makes it: that one is told; and whether there is a second layer, the configuration says
        """
        from torch import nn
        from torch.distributions import Normal

        class Model(nn.Module):
            def __init__(self, n, std):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.std = nn.Linear(8, n)
                self.mode = std

            def get_dist(self, state):
                return Normal(state["mean"], state["std"])

            def act(self, x):
                if self.mode == "learned":
                    std = self.std(x)
                else:
                    std = self.fixed
                return Normal(self.mean(x), std)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.model = Model(n, "fixed")
                self.mean = nn.Linear(8, n)
                self.log_std = nn.Linear(8, n)

            def act(self, x):
                return self.model.get_dist({"mean": self.mean(x), "std": self.log_std(x)}).sample()

            def evaluate(self, x):
                return self.model(x).log_prob(x)
        """,
        # bounded after each step
        """
        import torch
        from torch import nn
        from torch.distributions import Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.std = nn.Parameter(torch.ones(n))

            def act(self, x):
                return Normal(self.mean(x), self.std).sample()

        def update(policy, loss, optimizer):
            optimizer.step()
            policy.std.data.clamp_(min=1e-3)
        """,
    )
    INVALID = (
        # the function that is handed the scale makes the Normal
        """
        import torch
        from torch import nn
        from torch.distributions import Normal

        def log_likelihood(x, mean, scale):
            return Normal(mean, scale).log_prob(x).sum(-1)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.log_std = nn.Linear(8, n)

            def evaluate_actions(self, x, actions):
                return log_likelihood(actions, self.mean(x), self.log_std(x).exp())  # <- ESP306
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Independent, Normal

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.mean = nn.Linear(8, n)
                self.kind = n.kind
                self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2 * n))
                self.log_std = nn.Parameter(torch.zeros(1, n))
                self.std = nn.Parameter(torch.ones(n))

            def act(self, x):
                mean, std = self.head(x).chunk(2, -1)
                return Normal(mean, std).sample()  # <- ESP306

            def evaluate_actions(self, x, actions):
                dist = Normal(self.mean(x), self.log_std.expand_as(self.mean(x)).exp())  # <- ESP306
                return Independent(dist, 1).log_prob(actions)

            def get_dist(self, x):
                std = self.std if self.kind == "one" else self.std[:1]
                if self.kind == "other":
                    std = self.std.expand_as(std)
                return Normal(loc=self.mean(x), scale=std)  # <- ESP306

            def forward(self, x):
                return Normal(self.mean(x), torch.exp(self.head(x)[..., 4:]))  # <- ESP306
        """,
        Case(
            {
                "gaussian.py": """
                from torch.distributions.normal import Normal

                def make(mean, log_std):
                    return Normal(mean, log_std.exp())
                """,
                "network.py": """
                from gaussian import make
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.mean = nn.Linear(8, n)
                        self.log_std = nn.Linear(8, n)

                    def act(self, x):
                        return make(self.mean(x), self.log_std(x)).sample()  # <- ESP306
                """,
            }
        ),
    )


def _scale(event: Event) -> Val:
    return event.args[1] if len(event.args) > 1 else event.kwargs.get("scale", UNKNOWN)


def _found(scale: Val) -> str:
    """What is known of the scale's making."""
    return next((tag for tag in _FOUND if tag in scale.tags and "bounded" not in scale.tags), "")


def _hands_over(call: Event, found: str) -> bool:
    """Whether a call hands the scale, or its logarithm, to a function or an object that is no network itself.

    A network that makes the `Normal` out of what it is given is told where it is defined.
    """
    owner = call.callee.owner if isinstance(call.callee, Function) else None
    if not isinstance(call.callee, Function) or (owner is not None and owner.is_network):
        return False
    given = (part for value in (*call.args, *call.kwargs.values()) for part in value.flat())
    return any(found.removeprefix("exp_") in part.tags or found in part.tags for part in given)
