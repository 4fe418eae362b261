"""ESP314: a method that acts or evaluates changes a tensor that its caller handed in."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    EVALUATE,
    FORWARD,
    VALUE_METHOD,
    Case,
    Category,
    Confidence,
    Event,
    Frame,
    Hit,
    ModuleModel,
    NetworkClass,
    Rule,
    Severity,
    Val,
    dotted,
    find,
    hands_in_copies,
    tensor_role,
)

_IN_PLACE = frozenset(
    f".{name}_"
    for name in (
        "add sub mul div true_divide remainder pow neg abs exp log sqrt reciprocal clamp clip zero fill copy "
        "masked_fill masked_scatter index_fill index_copy index_add index_put scatter scatter_add lerp addcmul addcdiv "
        "relu tanh sigmoid nan_to_num bernoulli normal uniform logical_not logical_and logical_or sign floor ceil round"
    ).split()
)


class InputChangedInPlace(Rule):
    """
    ## What it does
    Reports in-place methods (`h.mul_(...)`, `obs.div_(255)`), assignments under subscripts and `+=` on a parameter of a
    policy's public method, or on a view of it.

    ## Why it matters
    The caller still holds the tensor: the rollout buffer stores observations that were divided twice, the state that is
    kept for the update is the one after the reset, and the second epoch evaluates other inputs than the first. Where
    the tensor takes part in a gradient, the backward pass raises.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.actor = nn.Linear(obs_dim, num_actions)

        def act(self, obs):
            obs.div_(255.0)
            return Categorical(logits=self.actor(obs)).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.actor = nn.Linear(obs_dim, num_actions)

        def act(self, obs):
            obs = obs / 255.0
            return Categorical(logits=self.actor(obs)).sample()
    ```

    ## Evidence
    On torch 2.13.0, a tensor of ones holds 0.1 after a function that was given it has called `obs.div_(10.0)`, and 0.01
    after the second call. A state that is expanded, `zeros(1, 1, H).expand(1, B, H)`, is cleared in all rows by
    `h[:, i] = 0`. In-place changes of states are reported in pytorch/rl#1742.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-operations-with-autograd
    """

    code = "ESP314"
    name = "input-changed-in-place"
    summary = "a tensor of the caller is changed in place"
    category = Category.GRADIENT
    severity = Severity.MEDIUM
    confidence = Confidence.HIGH
    probe = "inputs-changed"
    help = "compute a new tensor (`obs = obs / 255`, `h * keep`), or clone the input first"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """In-place changes of what a caller handed to a public method."""
        if not net.is_policy:
            return
        seen = set()
        for frame in net.frames(FORWARD, ACT, EVALUATE, VALUE_METHOD):
            for event, _ in frame.walk() if not frame.function.name.startswith("_") else ():
                name = _changed(frame, event)
                if name is None or event.node in seen:
                    continue
                if not hands_in_copies(net, frame.function, name):
                    seen.add(event.node)
                    yield Hit.at(event, f"`{name}`, which the caller still holds, is changed in place")

    VALID = (
        # entries of a dict; and a tensor that each caller has picked out for the call
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Linear(4, n)

            def act(self, obs):
                for key in obs.keys():
                    obs[key] = obs[key].to(self.actor.weight.device)
                return Categorical(logits=self.actor(obs["state"])).sample()

            def get_action(self, x, action_masks=None):
                action_masks[:] = True
                return Categorical(logits=self.actor(x).masked_fill(~action_masks, -1e4)).sample()

        def update(agent: Policy, obs, action_masks, minibatch_ind):
            agent.get_action(obs)
            return agent.get_action(obs[minibatch_ind], action_masks[minibatch_ind])
        """,
        # copies, new tensors, lists, and what is no input of a policy
        """
        import torch
        from torch import Tensor, nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.gru = nn.Linear(4, n), nn.GRU(4, n)
                self.register_buffer("seen", torch.zeros(4))

            def act(self, obs: Tensor, hidden: Tensor, done, info, inputs, count=0):
                obs = obs / 255.0
                obs.clamp_(-1, 1)
                hidden = hidden.clone()
                hidden[:, done] = 0
                rows = obs[done]
                rows.mul_(2)
                self.seen.add_(obs.mean(0))
                count += 1
                info["steps"] = 1
                inputs["obs"] = obs
                total = torch.stack([obs, obs])
                total += 1
                logits = self.actor(obs)
                logits[..., 0] = 0
                return Categorical(logits=logits).sample(), hidden, (-obs).add_(1), obs.float().mul_(2)

            def _predict(self, obs: Tensor):
                obs.mul_(2)
                return obs
        """,
        """
        from torch import Tensor, nn

        class Block(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.body = nn.Linear(n, n)

            def forward(self, x: Tensor):
                x += self.body(x)
                return x
        """,
    )
    INVALID = (
        # some caller keeps it, or may
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Linear(4, n)

            def act(self, obs):
                obs.div_(255.0)  # <- ESP314
                return Categorical(logits=self.actor(obs)).sample()

            def evaluate(self, obs):
                obs.mul_(2.0)  # <- ESP314
                return self.actor(obs)

        def update(agent: Policy, obs, batch, indices):
            agent.evaluate(obs=obs[indices])
            agent.evaluate(**batch)
            agent.act(obs[indices])
            return agent.act(obs)
        """,
        """
        import torch
        from torch import Tensor, nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor, self.lstm = nn.Linear(4, n), nn.LSTM(4, n)

            def _reset(self, h, c, keep):
                return h.mul_(keep), c.detach().mul_(keep)  # <- ESP314  # <- ESP314

            def forward(self, obs, hidden: tuple[Tensor, Tensor], keep):
                h, c = hidden
                out, hidden = self.lstm(obs, self._reset(h, c, keep))
                return Categorical(logits=self.actor(out)), hidden

            def act(self, obs):
                obs /= 255.0  # <- ESP314
                return Categorical(logits=self.actor(obs)).sample()

            def get_value(self, obs):
                row = obs.unsqueeze(0)[0]
                row.clamp_(-5, 5)  # <- ESP314
                return self.actor(row)

            def evaluate_actions(self, obs: Tensor, actions, masks):
                obs[:, 0] = 0.0  # <- ESP314
                torch.Tensor.div_(obs, 2)
                return Categorical(logits=self.actor(obs)).log_prob(actions)
        """,
        Case(
            {
                "scaling.py": """
                def scaled(x):
                    return x.sub_(0.5)  # <- ESP314
                """,
                "base.py": """
                from scaling import scaled
                from torch import nn
                from torch.distributions import Categorical

                class Base(nn.Module):
                    def act(self, obs):
                        return Categorical(logits=self.actor(scaled(obs))).sample()
                """,
                "network.py": """
                from base import Base
                from torch import nn

                class Policy(Base):
                    def __init__(self, n):
                        super().__init__()
                        self.actor = nn.Linear(4, n)

                    def predict(self, obs):
                        return self.act(obs)
                """,
            }
        ),
    )


def _changed(frame: Frame, event: Event) -> str | None:
    """The parameter of the method whose tensor an event changes, if any."""
    if event.kind != "write" and not (event.kind == "call" and event.name in _IN_PLACE):
        return None
    if any(isinstance(key.const, str) for key in event.args):
        return None  # an entry of a dict
    target: Val = event.target
    if "alias" not in target.tags or (target.kind != "tensor" and not target.roles):
        return None
    held = [name for name in frame.params if name in target.origins and not _is_dict(event, name)]
    return next((name for name in held if target.kind == "tensor" or tensor_role(name)), None)


def _is_dict(event: Event, name: str) -> bool:
    """Whether the function asks it for keys or items: then what changes is an entry of a dict, and no tensor."""
    owners = (
        dotted(call.func.value)
        for node in event.scope
        for call in find(node, cst.Call)
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in ("keys", "items", "values")
    )
    return name in owners
