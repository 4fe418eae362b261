"""ESP303: hidden states, actions or observations born in inference mode leave toward a training forward."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    ACT,
    Case,
    Category,
    Confidence,
    Function,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Replace,
    Rule,
    Severity,
    dotted,
    find,
    gradient_free_block,
    leaves,
)

_SINKS = {"hidden": "the hidden state", "action": "the actions", "obs": "the observations"}


class InferenceTensorEscape(Rule):
    """
    ## What it does
    Reports an act method that returns a hidden state, actions or observations which were born under
    `torch.inference_mode`.

    ## Why it matters
    An inference tensor may not be saved for a backward pass. As the first hidden state of a training window, as the
    index of a `gather` or as the input of a layer it must be saved, and the update raises "Inference tensors cannot be
    saved for backward". A copy into a preallocated buffer or `.clone()` outside the block helps; `.detach()` does not.
    The fault therefore hides until somebody stores the tensor itself instead of a copy.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.gru = nn.GRU(obs_dim, 32)
            self.action_head = nn.Linear(32, num_actions)

        def get_action(self, obs, hidden):
            with torch.inference_mode():
                out, new_hidden = self.gru(obs, hidden)
                action = Categorical(logits=self.action_head(out)).sample()
                return action, new_hidden
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.gru = nn.GRU(obs_dim, 32)
            self.action_head = nn.Linear(32, num_actions)

        def get_action(self, obs, hidden):
            with torch.no_grad():
                out, new_hidden = self.gru(obs, hidden)
                action = Categorical(logits=self.action_head(out)).sample()
                return action, new_hidden
    ```

    ## Fix
    Unsafe: `torch.no_grad()` in place of the method's one `torch.inference_mode()`. Tensors made there are plain ones
    then: autograd refuses them nowhere, and they cost a little more.

    ## Evidence
    On torch 2.13.0, an LSTM called with a hidden state from inference mode raises in training, and so does
    `Categorical.log_prob` of an action from it; old log-probs that are only subtracted do not. Reports:
    huggingface/trl#2983, ai4co/rl4co#272, pytorch/pytorch#161164.

    ## References
    - https://docs.pytorch.org/docs/stable/notes/autograd.html#inference-mode
    """

    code = "ESP303"
    name = "inference-tensor-escape"
    summary = "tensors that training needs are born in inference mode"
    category = Category.GRADIENT
    severity = Severity.MEDIUM
    confidence = Confidence.MEDIUM
    probe = "inference-tensors"
    fixable = "unsafe"
    help = "use `torch.no_grad()` in act, or `.clone()` what leaves the block"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Act methods whose result holds inference tensors that a training forward would save."""
        if not net.mentions(b"inference_mode"):
            return
        for frame in net.frames(ACT):
            function = frame.function
            if function.module is not module:
                continue
            for event in frame.events:
                if event.kind != "return":
                    continue
                roles = {
                    role
                    for leaf in leaves(event.value, *_SINKS)
                    if "inference_mode" in leaf.tags
                    for role in leaf.roles & _SINKS.keys()
                }
                if not roles:
                    continue
                block = gradient_free_block(function)
                names = " and ".join(_SINKS[role] for role in _SINKS if role in roles)
                yield Hit(
                    event.node,
                    f"`{function.name}` returns {names} born in inference mode: "
                    "a training forward that has to save them raises",
                    symbol=function.qualified,
                    notes=(Note(module, block, "inference mode begins here"),) if block is not None else (),
                    repair=_no_grad(function),
                )

    VALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.action_head = nn.Linear(8, 4)

            def act(self, obs):
                with torch.inference_mode():
                    action = Categorical(logits=self.action_head(obs)).sample()
                return action.clone()

            @torch.inference_mode()
            def get_action(self, obs):
                action = Categorical(logits=self.action_head(obs)).sample()
                return action.cpu().numpy()
        """,
    )
    INVALID = (
        """
        import torch
        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = nn.LSTMCell(8, 8)
                self.action_head = nn.Linear(8, 4)

            @torch.inference_mode()
            def act(self, obs, state):
                h, c = self.cell(obs, state)
                action = self.action_head(h).argmax(dim=-1)
                return {"action": action, "state": (h, c)}  # <- ESP303
        """,
        Case(
            {
                "base.py": """
                import torch
                from torch import nn

                class Actor(nn.Module):
                    @torch.inference_mode()
                    def act(self, obs):
                        action = self.action_head(obs).argmax(dim=-1)
                        return action  # <- ESP303
                """,
                "network.py": """
                from base import Actor
                from torch import nn

                class Policy(Actor):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)
                """,
            }
        ),
        Case(
            """
            import torch
            from torch import inference_mode, nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.gru = nn.GRU(4, 8)
                    self.action_head = nn.Linear(8, 4)

                def act(self, obs, hidden):
                    with torch.autocast("cpu"), torch.inference_mode():
                        out, hidden = self.gru(obs, hidden)
                        return self.action_head(out).argmax(-1), hidden  # <- ESP303

                @torch.inference_mode(True)
                def predict(self, obs, hidden):
                    return self.action_head(self.gru(obs, hidden)[0]).argmax(-1)  # <- ESP303

                @inference_mode()
                def get_action(self, obs, hidden):
                    return self.action_head(self.gru(obs, hidden)[0]).argmax(-1)  # <- ESP303
            """,
            fixed="""
            import torch
            from torch import inference_mode, nn

            class Policy(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.gru = nn.GRU(4, 8)
                    self.action_head = nn.Linear(8, 4)

                def act(self, obs, hidden):
                    with torch.autocast("cpu"), torch.no_grad():
                        out, hidden = self.gru(obs, hidden)
                        return self.action_head(out).argmax(-1), hidden  # <- ESP303

                @torch.inference_mode(True)
                def predict(self, obs, hidden):
                    return self.action_head(self.gru(obs, hidden)[0]).argmax(-1)  # <- ESP303

                @inference_mode()
                def get_action(self, obs, hidden):
                    return self.action_head(self.gru(obs, hidden)[0]).argmax(-1)  # <- ESP303
            """,
        ),
    )


def _no_grad(function: Function) -> Repair | None:
    """`torch.no_grad()` for the one `torch.inference_mode()` of a method."""
    places = [decorator.decorator for decorator in function.node.decorators]
    places += [item.item for block in find(function.node, cst.With) for item in block.items]
    found: list[tuple[cst.Attribute, bool]] = []
    for place in places:
        called = place.func if isinstance(place, cst.Call) else place
        if function.module.qualify(dotted(called)) == "torch.inference_mode":
            plain = not isinstance(place, cst.Call) or not place.args
            if not isinstance(called, cst.Attribute) or function.module.qualify(dotted(called.value)) != "torch":
                return None
            found.append((called, plain))
    if len(found) != 1 or not found[0][1]:
        return None
    return Repair(
        "use `torch.no_grad()` instead of `torch.inference_mode()`",
        (Replace(found[0][0].attr, "no_grad"),),
        "tensors made there are plain ones then: autograd refuses them nowhere, and they cost a little more",
    )
