"""ESP110: a hot method prints, logs, or draws random numbers that torch knows nothing of."""

from __future__ import annotations

from collections.abc import Iterable

from esper_audit.rulekit import (
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    side_effects,
)

_WORDS = {
    "print": "printed or logged at every call",
    "dice": "random numbers come from outside of torch: `torch.manual_seed` does not repeat them",
}


class SideEffectInForward(Rule):
    """
    ## What it does
    Reports `print`, loggers, `np.random` and `random` in hot methods (forward, act, evaluate, value).

    ## Why it matters
    Output at every call of the network is mostly a leftover of debugging: it floods the log, and to show a tensor the
    host waits for the device. Random numbers of numpy or Python are not repeated by `torch.manual_seed`, are drawn on
    the host for all environments at once, and differ between acting and evaluating. Under `torch.compile` both end the
    graph.

    Medium where `torch.compile` is seen to cover the method, low elsewhere. Silent behind flags such as `debug` and
    `verbose`, right before a `raise`, and where a method that acts explores: `if random.random() < epsilon`.

    ## Example
    ```python
    import numpy as np
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs) + 0.1 * np.random.randn()
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            logits = self.action_head(obs)
            return logits + 0.1 * torch.randn_like(logits)
    ```

    ## Evidence
    On torch 2.13.0 under `torch.compile`, a `print`, a `logger.info`, a `np.random.rand()` and a `random.random()` each
    give 2 graphs instead of 1 and raise with `fullgraph=True`. Two calls after `torch.manual_seed(0)` give the same
    numbers for `torch.rand`, and others for `np.random.rand` and `random.random`. Reported in jaseci-labs/jac#8016.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/randomness.html
    """

    code = "ESP110"
    name = "side-effect-in-forward"
    summary = "a hot method prints, logs, or draws random numbers outside of torch"
    category = Category.COMPILE
    severity = Severity.LOW
    confidence = Confidence.HIGH
    probe = "graph-breaks"
    help = "take output out or put it behind a flag; draw with `torch.rand` and its kin"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Output and foreign dice; in compiled methods they weigh more."""
        for found in side_effects(net):
            yield Hit.at(
                found.event,
                _WORDS[found.what],
                severity=Severity.MEDIUM if found.site is not None else None,
                notes=(Note(*found.site, "it is compiled here"),) if found.site is not None else (),
            )

    VALID = (
        # Behind a flag, before a raise, exploring, seeding, torch's own dice, methods of that name on other things.
        """
        import logging
        import random

        import numpy as np
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, verbose=False):
                super().__init__()
                self.verbose = verbose
                self.action_head = nn.Linear(8, 4)
                print("made")

            def forward(self, obs):
                logits = self.action_head(obs)
                if self.verbose:
                    print(logits)
                if obs.shape[-1] != 8:
                    print(obs.shape)
                    raise ValueError
                elif obs.shape[0] == 0: print("no"); raise ValueError
                if torch.isnan(logits).any():
                    print("NaN")
                try:
                    logits = torch.linalg.solve(logits, obs)
                except RuntimeError:
                    print("singular")
                print(logits) if obs.shape[0] > 3 else None
                if not torch.compiler.is_compiling():
                    logging.info("eager")
                rng = np.random.default_rng(0)
                return logits + torch.rand(4) + logits.log()

            def act(self, obs, epsilon):
                coin = random.random()
                if coin < epsilon:
                    return random.randint(0, 3)
                return self.action_head(obs).argmax()

            def show(self, obs):
                print(self.action_head(obs))
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                return self.action_head(obs)
        """,
    )
    INVALID = (
        """
        import logging
        import random
        from random import gauss

        import numpy as np
        import torch
        from torch import nn

        log = logging.getLogger(__name__)

        def jitter(x):
            return x + np.random.normal()  # <- ESP110

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.logger = logging.getLogger("policy")
                self.action_head = nn.Linear(8, 4)

            def forward(self, obs):
                logits = jitter(self.action_head(obs))
                print(f"logits {logits.mean()}")  # <- ESP110
                log.debug("forward")  # <- ESP110
                if obs.shape[0] > 3:
                    obs = obs + gauss(0, 1)  # <- ESP110
                return logits

            def get_action(self, obs):
                self.logger.info("act")  # <- ESP110
                return self.action_head(obs) + random.random()  # <- ESP110

            @torch.compile
            def get_value(self, obs):
                logging.info("value")  # <- ESP110
                return obs * np.random.rand()  # <- ESP110
        """,
    )
