"""ESP403: a buffer that the outputs depend on is kept out of checkpoints."""

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
    Repair,
    Replace,
    Rule,
    Severity,
    Unsaved,
    unsaved,
)

_WHY = "checkpoints hold the buffer from now on, so those that were written before lack its key"
_SAYS = {
    "accumulated": "`{}` is accumulated while the network runs, and no checkpoint holds it",
    "neutral": "`{}` starts as ones or zeros, which do nothing; what anybody sets it to is lost with a checkpoint",
    "filtered": "`{}` is taken out of what is saved: a network that is restored has the one of its constructor",
}
_SEVERITY = {"neutral": Severity.INFO, "filtered": Severity.MEDIUM}


class BufferNotInCheckpoint(Rule):
    """
    ## What it does
    Reports a buffer that is registered with `persistent=False` although the network accumulates it (a running mean, a
    scale that is learnt by averaging) and computes with it; and a `state_dict` or a hook that takes a buffer or a
    parameter out again. A non-persistent buffer of ones or zeros that takes part in the computation is told as
    information. Constants that the constructor makes anew, hidden states and caches are left alone.

    ## Why it matters
    The restored network starts its statistics from nothing, and its policy sees inputs on another scale than the one it
    was trained on. With `persistent=False`, `load_state_dict` has nothing to complain about.

    ## Example
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.register_buffer("mean", torch.zeros(obs_dim), persistent=False)

        def update(self, obs):
            self.mean.lerp_(obs.mean(0), 0.01)

        def forward(self, obs):
            return self.action_head(obs - self.mean)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.register_buffer("mean", torch.zeros(obs_dim))

        def update(self, obs):
            self.mean.lerp_(obs.mean(0), 0.01)

        def forward(self, obs):
            return self.action_head(obs - self.mean)
    ```

    ## Fix
    Unsafe: `persistent=True`. Checkpoints hold the buffer from then on, so those from before lack its key.

    ## Evidence
    On torch 2.13.0, a linear policy with a running mean of 5 and a variance of 9 in non-persistent buffers:
    `load_state_dict` into a fresh network reports that all keys match, and the outputs differ by up to 5.7. Where
    `state_dict` leaves a registered buffer out, the strict load raises "Missing key(s) in state_dict". Normalisers that
    were not saved are reported in chainer/chainerrl#376 and hill-a/stable-baselines#228.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_buffer
    """

    code = "ESP403"
    name = "buffer-not-in-checkpoint"
    summary = "a buffer that the outputs depend on is not saved"
    category = Category.MEMORY
    severity = Severity.HIGH
    confidence = Confidence.HIGH
    probe = "state-roundtrip"
    fixable = "unsafe"
    help = "register it with `persistent=True`, the default, and let `state_dict` save it"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Buffers that checkpoints lack."""
        for found in unsaved(net):
            yield Hit(
                found.node,
                _SAYS[found.how].format(found.name),
                module=found.function.module,
                symbol=found.function.qualified,
                severity=_SEVERITY.get(found.how),
                notes=_notes(found),
                repair=_repair(found),
            )

    VALID = (
        # constants, caches, hidden states; saved ones; not computed with
        """
        import torch
        from torch import nn

        def waves(n):
            table = torch.zeros(n)
            table[0::2] = torch.arange(0, n, 2).sin()
            return table

        class Policy(nn.Module):
            def __init__(self, n, names):
                super().__init__()
                self.core = nn.GRUCell(n, 8)
                self.cell = nn.GRUCell(n, 8)
                self.register_buffer("mask", torch.ones(n, n).tril(), persistent=False)
                self.register_buffer("angles", torch.arange(n) / n, persistent=False)
                self.register_buffer("waves", waves(n), persistent=False)
                self.register_buffer("cache", torch.empty(4, n), persistent=False)
                self.register_buffer("hidden_state", torch.zeros(1, 8), persistent=False)
                self.register_buffer("last", torch.zeros(1, 8), persistent=False)
                self.register_buffer("calls", torch.zeros(()), persistent=False)
                self.register_buffer("device_of", torch.zeros(()), False)
                self.register_buffer("mean", torch.zeros(n))
                self.register_buffer("std", torch.ones(n), persistent=True)
                self.register_buffer("bias", torch.zeros(n), True)
                for name in names:
                    self.register_buffer(name, torch.zeros(n), persistent=False)
                torch.nn.Module.register_buffer(self, "later", torch.zeros(n))

            def reset(self):
                self.cache.copy_(torch.zeros(4))
                self.angles = torch.arange(3)

            def forward(self, x):
                self.cache[0] = x
                self.calls += 1
                self.mean.lerp_(x.mean(0), 0.1)
                self.last = self.core(x, self.last)
                x = (x - self.mean) / self.std + self.angles + self.waves + self.cache[0] * self.mask
                return self.cell(x, self.hidden_state).to(self.device_of.device) + (self.last == 0)
        """,
        # what is taken out is no buffer of the network, or nothing is
        """
        import torch
        from torch import nn

        def drop(module, state, prefix, metadata):
            state.pop(prefix + "teacher", None)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.register_buffer("scale", torch.ones(4))
                self._register_state_dict_hook(drop)
                self.register_state_dict_post_hook()

            def state_dict(self, *args, **kwargs):
                state = super().state_dict(*args, **kwargs)
                if 1 < len(state) < 3 or "scale" in state:
                    state.clear()
                return {name: value for name, value in state.items() if not name.startswith("teacher.")}

            def forward(self, x):
                return self.head(x * self.scale)
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(n, 2)
                self.register_buffer("scale", torch.ones(n), persistent=False)  # <- ESP403
                self.register_buffer("var", torch.ones(n), False)  # <- ESP403
                self.register_buffer("mean", torch.zeros(n), persistent=False)  # <- ESP403
                self.register_buffer("count", torch.zeros(()), persistent=False)  # <- ESP403
                self.register_buffer("best", torch.zeros(()), persistent=False)  # <- ESP403
                self.register_buffer("shift", torch.zeros(n), persistent=False)  # <- ESP403

            def update(self, x):
                self.count += len(x)
                self.mean = 0.99 * self.mean + 0.01 * x.mean(0)
                self.var.data.mul_(0.9)
                self.best.copy_(torch.maximum(self.best, x.max()))

            def normalised(self, x):
                x = (x - self.mean[None]) / torch.sqrt(-(self.var + 1))
                x -= self.shift
                return x.mul(self.scale) + 1 / self.count

            def act(self, x):
                return self.head(self.normalised(x) - self.best).argmax(-1)
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.register_buffer("scale", torch.ones(4))
                self.log_std = nn.Parameter(torch.zeros(n))
                self._register_state_dict_hook(
                    lambda module, state, prefix, _: state.pop(f"{prefix}scale")  # <- ESP403
                )
                self.register_state_dict_post_hook(self._drop)

                def hook(module, state, prefix, _):
                    del state[prefix + "scale"]  # <- ESP403

                self.register_state_dict_post_hook(hook)

            def _drop(self, module, state, prefix, metadata):
                state.pop(prefix + "log_std", None)  # <- ESP403

            def state_dict(self, *args, **kwargs):
                state = super().state_dict(*args, **kwargs)
                return {name: value for name, value in state.items() if "log_std" not in name}  # <- ESP403

            def forward(self, x):
                return self.head(x * self.scale) + self.log_std.exp()
        """,
        Case(
            {
                "base.py": """
                import torch
                from torch import nn

                class Normalised(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.register_buffer("mean", torch.zeros(n), persistent=False)  # <- ESP403

                    def track(self, x):
                        self.mean.add_(0.1 * (x.mean(0) - self.mean))

                    def forward(self, x):
                        self.track(x)
                        return x.sub(self.mean)
                """,
                "network.py": """
                from base import Normalised

                class Policy(Normalised):
                    pass
                """,
            },
            fixed={
                "base.py": """
                import torch
                from torch import nn

                class Normalised(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.register_buffer("mean", torch.zeros(n), persistent=True)

                    def track(self, x):
                        self.mean.add_(0.1 * (x.mean(0) - self.mean))

                    def forward(self, x):
                        self.track(x)
                        return x.sub(self.mean)
                """,
            },
        ),
    )


def _notes(found: Unsaved) -> tuple[Note, ...]:
    if found.changed is None:
        return ()
    node, function = found.changed
    return (Note(function.module, node, "it is changed here"),)


def _repair(found: Unsaved) -> Repair | None:
    if found.flag is None:
        return None
    return Repair("let checkpoints hold it", (Replace(found.flag.value, "True"),), _WHY)
