"""ESP102: a function that opts out of torch.compile is called by forward, act or evaluate: a graph break each time."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Praise,
    Rule,
    Severity,
)
from esper_audit.semantics.roles import FORWARD
from esper_audit.semantics.torch_facts import COMPILER_DISABLED


class DisabledFunctionInHotPath(Rule):
    """
    ## What it does
    Follows the calls of `forward`, act, evaluate and value methods, through helpers, distributions and other files of
    the project, and reports each call that ends in a function under `@torch.compiler.disable` (or
    `torch._dynamo.disable`).

    ## Why it matters
    Dynamo must leave the compiled graph, run the function in Python, and start a new graph: one break per call, so a
    network with four action heads that validates each mask this way breaks four times. A break inside a loop over heads
    makes Dynamo give the whole method back to eager. Such functions mostly hold a `.any()` truth test, which also
    makes the GPU wait.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    @torch.compiler.disable
    def check_mask(mask):
        if not mask.any(-1).all():
            raise ValueError("a row without a valid action")

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def get_action(self, obs, action_mask):
            check_mask(action_mask)
            logits = self.action_head(obs).masked_fill(~action_mask, -1e4)
            return Categorical(logits=logits).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def get_action(self, obs, action_mask):
            logits = self.action_head(obs).masked_fill(~action_mask, -1e4)
            return Categorical(logits=logits).sample()

    # validate masks once, where the environment makes them
    ```

    ## Evidence
    On torch 2.13.0, `torch._dynamo.explain` counts one break per call of such a function between tensor operations; a
    call that opens the method, as above, splits no graph, though `fullgraph=True` refuses it. The founding audit's
    network (tachyon-beep/esper-lite 1bfd94a9) lost 12 to 45 % of its compiled speed to it when its methods were really
    compiled, and nothing as shipped, since only `forward` was (see ESP103). Reports: pytorch/pytorch#145618,
    pytorch/vision#9314.

    ## References
    - https://docs.pytorch.org/docs/stable/generated/torch.compiler.disable.html
    """

    code = "ESP102"
    name = "disabled-function-in-hot-path"
    summary = "a function disabled for torch.compile is called on the hot path"
    category = Category.COMPILE
    severity = Severity.MEDIUM
    confidence = Confidence.MEDIUM
    probe = "graph-breaks"
    help = (
        "validate once where the masks are made, "
        "or write the check without a tensor truth test so that it can be traced"
    )

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Calls that reach a disabled function, placed at the call in the network's own file."""
        if not net.mentions(b"compiler", b"dynamo"):
            return
        for frame, event, stack in net.hot_events("call"):
            callee = event.callee
            if "eager_only" in event.contexts or COMPILER_DISABLED.intersection(frame.function.decorators):
                continue  # somebody has taken this out of the compiled graph on purpose
            if event.name in COMPILER_DISABLED:
                yield self._hit(net, (*stack, event), f"`{frame.function.name}` calls `{event.name}`", ())
            if not isinstance(callee, Function) or not COMPILER_DISABLED.intersection(callee.decorators):
                continue
            decorators = zip(callee.node.decorators, callee.decorators, strict=True)
            where = next(decorator for decorator, name in decorators if name in COMPILER_DISABLED)
            notes = (Note(callee.module, where, f"`{callee.name}` opts out of compilation here"),)
            yield self._hit(net, (*stack, event), f"`{frame.function.name}` calls `{callee.qualified}`", notes)

    def _hit(self, net: NetworkClass, calls: tuple[Event, ...], says: str, notes: tuple[Note, ...]) -> Hit:
        event = calls[-1]
        call = net.in_network(event, calls[:-1])
        via = f" through `{call.name}`" if call is not event else ""
        return Hit.at(
            call,
            f"{says}{via}, which torch.compile must not trace: where this is compiled, the graph ends there",
            notes=notes,
        )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """A forward that returns a plain dict of tensors."""
        for frame in net.frames(FORWARD) if net.is_policy else ():
            returns = [event for event in frame.events if event.kind == "return"]
            if len(returns) == 1 and returns[0].module is module and _is_plain_dict(returns[0].node):
                yield Praise(
                    returns[0].node,
                    "`forward` returns a plain dict with fixed keys, which torch.compile traces",
                    symbol=frame.function.qualified,
                )

    VALID = (
        """
        import torch
        from torch import nn

        @torch.compiler.disable
        def log_weights(net):
            print(net)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, x):
                return self.action_head(x)

            def summary(self):
                log_weights(self)
        """,
        Case(
            """
            import torch
            from torch import nn

            @torch.compiler.disable
            def validate(mask):
                assert mask.any(dim=-1).all()

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.action_head = nn.Linear(4, n)
                    self.value_head = nn.Linear(4, 1)

                def forward(self, x, mask):
                    if not torch.compiler.is_compiling():
                        validate(mask)
                    return {"logits": self.action_head(x).masked_fill(~mask, -1e4), "value": self.value_head(x)}
            """,
            praised=True,
        ),
        Case(
            {
                "base.py": """
                from torch import nn

                class Base(nn.Module):
                    def forward(self, x):
                        return {"logits": self.action_head(x)}
                """,
                "network.py": """
                import torch
                from base import Base
                from torch import nn

                class Policy(Base):
                    def __init__(self, n):
                        super().__init__()
                        self.action_head = nn.Linear(4, n)

                    @torch.compiler.disable
                    def summary(self):
                        print(self)
                """,
            }
        ),
    )
    INVALID = (
        Case(
            {
                "masks.py": """
                import torch
                from torch.distributions import Categorical

                @torch._dynamo.disable
                def validate(mask):
                    assert mask.any()

                class Masked:
                    def __init__(self, logits, mask):
                        validate(mask)
                        self.dist = Categorical(logits=logits.masked_fill(~mask, -1e4))
            """,
                "network.py": """
                from torch import nn
                import masks as m

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.action_head = nn.Linear(4, n)

                    def _dist(self, x, mask):
                        return m.Masked(self.action_head(x), mask)  # <- ESP102

                    def act(self, x, mask):
                        return self._dist(x, mask).dist.sample()
            """,
            }
        ),
        """
        import torch
        from torch import nn

        def _validate(mask):
            assert mask.any(dim=-1).all()

        validate = torch.compiler.disable(_validate)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.action_head = nn.Linear(4, n)

            def forward(self, x, mask):
                validate(mask)  # <- ESP102
                return self.action_head(x).masked_fill(~mask, -1e4)
        """,
    )


def _is_plain_dict(node: cst.CSTNode) -> bool:
    """Whether a return statement gives a dict display whose keys are all literal strings."""
    return (
        isinstance(node, cst.Return)
        and isinstance(node.value, cst.Dict)
        and bool(node.value.elements)
        and all(isinstance(e, cst.DictElement) and isinstance(e.key, cst.SimpleString) for e in node.value.elements)
    )
