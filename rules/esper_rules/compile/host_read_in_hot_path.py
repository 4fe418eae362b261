"""ESP107: a hot method reads numbers out of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    Interruption,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    host_reads,
)


class HostReadInHotPath(Rule):
    """
    ## What it does
    Reports where forward, evaluate and value methods turn a tensor into Python numbers or arrays: `.item()`,
    `.tolist()`, `.numpy()`, `float(t)`, `int(t)`, `bool(t)`, `torch.equal(a, b)`; and where such a number goes back
    into a tensor in methods that act.

    ## Why it matters
    The host waits until the device has computed all that the number needs, then sends it back: nothing is queued
    meanwhile. Gradients end there as well. Under `torch.compile` the graph ends, and a captured CUDA graph is refused.

    Medium where `torch.compile` is seen to cover the method, low elsewhere, and low for `.numpy()`, which it can
    trace. Silent for what a method returns or keeps on self as telemetry, for what acting methods convert for the
    environment, behind debug flags, and in functions kept out of graphs on purpose.

    ## Example
    ```python
    from torch import nn

    class Critic(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.value_head = nn.Linear(obs_dim, 1)

        def forward(self, obs):
            value = self.value_head(obs).squeeze(-1)
            return value - value.mean().item()
    ```

    ## Use instead
    ```python
    from torch import nn

    class Critic(nn.Module):
        def __init__(self, obs_dim):
            super().__init__()
            self.value_head = nn.Linear(obs_dim, 1)

        def forward(self, obs):
            value = self.value_head(obs).squeeze(-1)
            return value - value.mean().detach()
    ```

    ## Evidence
    On torch 2.13.0 under `torch.compile`, `y + y.mean().item()`, `y + float(y.mean())` and `y + sum(y.tolist())` each
    give 2 graphs instead of 1; `tolist()` and `torch.allclose` raise with `fullgraph=True`, while
    `y.detach().cpu().numpy()` stays in one graph. Reported in huggingface/lerobot#2159 and ray-project/ray#50440.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.Tensor.item.html
    """

    code = "ESP107"
    name = "host-read-in-hot-path"
    summary = "a hot method reads numbers out of tensors"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "graph-breaks"
    help = "keep it a tensor, `.detach()` where no gradient is wanted, and convert once, where the environment needs it"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Reads of tensors; those that cut the graph of a compiled method weigh more."""
        for found in host_reads(net):
            yield Hit.at(
                found.event,
                f"{_what(found)}: the host waits for the device at each call",
                severity=Severity.MEDIUM if found.site is not None and found.what != "traced" else None,
                notes=(Note(*found.site, "it is compiled here"),) if found.site is not None else (),
            )

    VALID = (
        # Handed out, kept as telemetry, converted for the environment, asked for by a flag, or of no tensor at all.
        """
        import numpy as np
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, log_every=0):
                super().__init__()
                self.log_every = log_every
                self.action_head = nn.Linear(8, 4)
                self.gain = np.ones(4).mean().item()

            def forward(self, obs, scale=1.0, device=None):
                if not isinstance(obs, torch.Tensor):
                    obs = torch.as_tensor(np.asarray(obs.float()))
                logits = self.action_head(obs) * float(scale) + int(obs.shape[0])
                self.norm = logits.detach().norm().item()
                self.mean, self.std = float(logits.mean()), float(logits.std())
                if self.log_every:
                    size = logits.abs().max().item()
                return logits, logits.mean().item()

            def act(self, obs):
                logits = self.action_head(obs)
                action = Categorical(logits=logits).sample()
                low, high = self.space.low, self.space.high
                action = action.cpu().numpy()
                scaled = low + 0.5 * (np.tanh(action) + 1.0) * (high - low)
                print(int(action), sum(action.tolist()) + 1)
                return scaled, action.item()
        """,
    )
    INVALID = (
        """
        import numpy as np
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)
                self.value_head = nn.Linear(8, 1)

            def forward(self, obs, lengths: torch.Tensor):
                logits = self.action_head(obs)
                steps = int(lengths.max())  # <- ESP107
                if torch.equal(obs, logits) or bool((logits > 3).any()):  # <- ESP107  # <- ESP107
                    steps = 1
                noise = np.sin(logits.detach().cpu().numpy())  # <- ESP107
                return logits[:steps] + torch.as_tensor(noise)

            def get_action(self, obs):
                value = self.value_head(obs)
                value = value + 0 * value.mean().item()  # <- ESP107
                value = value + sum(value.flatten().tolist())  # <- ESP107
                while value.max().item() > 3:  # <- ESP107
                    value = value / 2
                value = torch.tensor(np.mean(value.cpu().numpy()))  # <- ESP107
                return value

            def get_value(self, obs):
                value = self.value_head(obs)
                return self.shifted(value)

            def shifted(self, value):
                mean = float(value.mean())  # <- ESP107
                return value - mean
        """,
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            @torch.compile
            def evaluate_actions(self, obs):
                logits = self.action_head(obs)
                scale = logits.abs().max().item()  # <- ESP107
                table = logits.detach().numpy()  # <- ESP107
                return logits / scale, table
        """,
    )


def _what(found: Interruption) -> str:
    if found.what == "back":
        return "a number that was read from a tensor goes back into one"
    return "a tensor is read into Python"
