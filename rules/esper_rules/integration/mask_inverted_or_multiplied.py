"""ESP507: a mask forbids what it should allow, or is multiplied into logits or probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Event,
    Hit,
    Insert,
    MaskStep,
    ModuleModel,
    NetworkClass,
    Note,
    Repair,
    Rule,
    Severity,
    masked_logits,
    rows_say,
    true_is_valid,
)

_LEAVES_LOGIT = "logits times a mask: an invalid action keeps the logit 0, and with it a probability"
_NOT_ONE = "probabilities times a mask go into log-probs: they do not sum to 1 any more"


class MaskInvertedOrMultiplied(Rule):
    """
    ## What it does
    Reports three ways to mask that do not. *Inverted*: the large negative constant goes where the mask is True, though
    its name (`legal_actions`), the comment beside it or the docstring says that True means valid; or two methods of the
    network read a mask of the same name the opposite way. *Multiplied logits*: `logits * mask` reaches a distribution.
    *Multiplied probabilities*: `probs * mask` reaches the log-probs without being divided by its sum. A mask that says
    nowhere what True means is left alone, and so is a product that another step masks, or that `probs=` renormalises.

    ## Why it matters
    An inverted mask forbids exactly the valid actions. A logit of 0 is no small logit: it is what a fresh head gives to
    every action, and where the valid ones have negative logits the invalid ones are likelier than they. Probabilities
    that sum to 0.5 give log-probs that are too low by log 2, by another amount in each state, and the ratio of PPO
    compares them with log-probs of a distribution that was normalised.

    ## Example
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            return Categorical(logits=self.action_head(obs) * action_mask).sample()
    ```

    ## Use instead
    ```python
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def act(self, obs, action_mask):
            return Categorical(logits=self.action_head(obs).masked_fill(~action_mask.bool(), -1e4)).sample()
    ```

    ## Fix
    Unsafe: `.logical_not()` behind a mask that is the inverted argument of `masked_fill`. The policy becomes another
    one.

    ## Evidence
    On torch 2.13.0, logits (-2, -1, -3) of which the second action is invalid give it a probability of 0.84 when they
    are multiplied, and 0 when they are masked. Over 10000 rows of 8 normal logits, half of them invalid, 37 % of the
    probability lay on invalid actions, and argmax took one in 7 % of the rows; a softmax that was multiplied by a mask
    summed to 0.47 to 0.86. Invalid actions that are sampled under a mask:
    Farama-Foundation/MicroRTS-Py#8; masks of the wrong polarity are reported in ray-project/ray#24055.

    ## References
    - Huang and Ontanon, A Closer Look at Invalid Action Masking in Policy Gradient Algorithms, arXiv:2006.14171
    """

    code = "ESP507"
    name = "mask-inverted-or-multiplied"
    summary = "a mask is inverted, or multiplied into logits or probabilities"
    category = Category.INTEGRATION
    severity = Severity.CRITICAL
    confidence = Confidence.HIGH
    probe = "mask-semantics"
    fixable = "unsafe"
    help = "replace the logits of invalid actions by a large negative constant: `logits.masked_fill(~mask, -1e4)`"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Steps of the wrong polarity, and products that reach the actions."""
        steps = {step.event.node: step for step in masked_logits(net) if _forbids(step)}
        yield from _inverted(net, steps)
        yield from _multiplied(net)

    VALID = (
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, legal_actions):
                return Categorical(logits=self.head(x).masked_fill(~legal_actions, -1e9)).sample()

            def sample(self, x, avail_actions):
                logits = self.head(x)
                logits[avail_actions == 0] = -1e10
                return Categorical(logits=logits).sample()

            def get_action(self, x, invalid_actions):
                logits = self.head(x)
                return Categorical(logits=logits.masked_fill(invalid_actions, -1e9)).sample()

            def predict(self, x, available_actions):
                logits = torch.where(available_actions, self.head(x), -1e9)
                return Categorical(logits=logits).sample()

            def choose_action(self, x, mask):
                # nothing says what True means
                return Categorical(logits=self.head(x).masked_fill(mask, -1e9)).sample()

            def step(self, x, legal_mask, flip):
                if flip:
                    legal_mask = ~legal_mask
                return Categorical(logits=self.head(x).masked_fill(legal_mask, -1e9)).sample()

            def select_action(self, x, legal_mask):
                bias = torch.zeros_like(legal_mask).masked_fill(~legal_mask, -1e9)
                return Categorical(logits=self.head(x) + bias).sample()

            def explore(self, x, legal_mask):
                logits = self.head(x) + (1 - legal_mask) * -1e9
                logits = logits + (legal_mask - 1) * 1e9 + torch.log(legal_mask)
                return Categorical(logits=logits + torch.where(legal_mask, 0.0, -1e9)).sample()
        """,
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.head(x) * mask + (1 - mask) * -1e9
                return Categorical(logits=logits).sample()

            def sample(self, x, mask):
                logits = (self.head(x) * mask).masked_fill(mask == 0, -1e9)
                return Categorical(logits=logits).sample()

            def get_action(self, x, mask):
                return Categorical(self.head(x).softmax(-1) * mask).sample()

            def predict(self, x, mask):
                probs = self.head(x).softmax(-1) * mask
                return torch.multinomial(probs, 1), Categorical(logits=torch.log(probs + 1e-9)).sample()

            def choose_action(self, x, mask):
                p = torch.softmax(self.head(x) * mask, -1) * mask
                return Categorical(p / p.sum(-1, keepdim=True)).sample()

            def evaluate(self, x, mask, action):
                p = self.head(x).softmax(-1) * mask
                p = p / p.sum(-1, keepdim=True)
                return torch.log(p + 1e-9).gather(-1, action), self.head(x).gather(-1, action).gather(-1, action)
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def forward(self, x, mask):
                return self.head(x).masked_fill(mask, -1e9)

            def act(self, x, mask):
                return Categorical(logits=self(x, ~mask)).sample()

            def sample(self, x, mask):
                logits = self.head(x).masked_fill(~mask, -1e9)
                other = self.head(x).masked_fill(mask, -1e9)
                return Categorical(logits=logits).sample(), Categorical(logits=other).sample()
        """,
        """
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.rnn = nn.GRUCell(4, 4)
                self.head = nn.Linear(4, n)

            def act(self, x, h, masks):
                h = self.rnn(x, h * masks)
                return self.head(h), h
        """,
    )
    INVALID = (
        # a row is asked whether any of its actions is valid, in a helper of another file
        Case(
            {
                "masks.py": """
                import torch

                def log_probs(logits, mask):
                    torch._assert_async(mask.any(dim=-1).all())
                    masked = logits.masked_fill(mask, -1e8)  # <- ESP507
                    return masked.log_softmax(-1)
                """,
                "network.py": """
                from masks import log_probs
                from torch import nn

                class Policy(nn.Module):
                    def __init__(self, n):
                        super().__init__()
                        self.head = nn.Linear(4, n)

                    def act(self, x, mask):
                        return log_probs(self.head(x), mask).exp().multinomial(1)
                """,
            }
        ),
        """
        import torch
        from torch import nn
        from torch.distributions import Categorical

        def hide(logits, mask):
            return torch.masked_fill(logits, mask, -1e9)  # <- ESP507

        class Base(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def _logits(self, x, avail_actions):
                logits = self.head(x)
                logits[avail_actions == 1] = -1e10  # <- ESP507
                return logits

        class Policy(Base):
            def act(self, x, legal_actions):
                return Categorical(logits=hide(self.head(x), legal_actions)).sample()

            def sample(self, x, avail_actions):
                return Categorical(logits=self._logits(x, avail_actions)).sample()

            def predict(self, x, illegal_actions):
                logits = torch.where(illegal_actions, self.head(x), -1e9)  # <- ESP507
                return Categorical(logits=logits).sample()

            def step(self, x, legal_actions):
                return Categorical(logits=self.head(x).masked_fill(legal_actions.bool(), -1e9)).sample()  # <- ESP507

            def get_action(
                self,
                x,
                mask,  # True = valid action
            ):
                return Categorical(logits=self.head(x) + mask * -1e9).sample()  # <- ESP507

            def choose_action(self, x, masks):
                '''
                Args:
                    x: what is seen
                    masks: 1 for valid actions, 0 for all others
                '''
                logits = self.head(x).masked_fill(masks.bool(), torch.finfo(x.dtype).min)  # <- ESP507
                return Categorical(logits=logits).sample()
        """,
        """
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def act(self, x, mask):
                logits = self.head(x).masked_fill(~mask, -1e9)
                return Categorical(logits=logits).sample()

            def evaluate(self, x, mask, action):
                logits = self.head(x).masked_fill(mask, -1e9)  # <- ESP507
                return Categorical(logits=logits).log_prob(action)
        """,
        """
        import torch
        import torch.nn.functional as F
        from torch import nn
        from torch.distributions import Categorical

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, n))

            def forward(self, x, action_mask):
                return self.actor(x) * action_mask  # <- ESP507

            def act(self, x, action_mask):
                return Categorical(logits=self.forward(x, action_mask) / 2).sample()

            def sample(self, x, avail):
                logits = self.actor(x)
                logits *= avail  # <- ESP507
                return Categorical(F.softmax(logits, dim=-1)).sample()

            def evaluate(self, x, action_mask, action):
                logits = torch.mul(self.actor(x), action_mask)  # <- ESP507
                return F.log_softmax(logits, dim=-1).gather(-1, action)

            def get_log_prob(self, x, action_mask, action):
                probs = F.softmax(self.actor(x), dim=-1) * action_mask  # <- ESP507
                return torch.log(probs + 1e-8).gather(-1, action)

            def compute_log_probs(self, x, action_mask, action):
                probs = action_mask * F.softmax(self.actor(x), dim=-1)  # <- ESP507
                return torch.gather(probs.log(), -1, action)
        """,
        Case(
            """
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, legal_actions):
                    return Categorical(logits=self.head(x).masked_fill(legal_actions, -1e9)).sample()  # <- ESP507
            """,
            fixed="""
            from torch import nn
            from torch.distributions import Categorical

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)

                def act(self, x, legal_actions):
                    return Categorical(logits=self.head(x).masked_fill(legal_actions.logical_not(), -1e9)).sample()
            """,
        ),
    )


def _forbids(step: MaskStep) -> bool:
    """Whether what is replaced is made impossible, as far as the constant says."""
    return step.constant == "finfo.min" or (isinstance(step.constant, float) and step.constant <= -10)


def _inverted(net: NetworkClass, steps: dict[cst.CSTNode, MaskStep]) -> Iterable[Hit]:
    """Steps that replace the logits of valid actions, by what is said of their mask or by another method's reading."""
    told: set[cst.CSTNode] = set()
    read: dict[str, dict[str, dict[bool, Event]]] = {}  # by parameter, method, and what is replaced
    for frame, event, _ in net.events("mask") if steps else ():
        if event.node not in steps or event.fills_true is None or event.node in told:
            continue
        meaning = true_is_valid(frame.function, event.other)
        if meaning is None:
            meaning = rows_say(net, event.other)
        if meaning is event.fills_true:
            told.add(event.node)
            says = "the logits of valid actions are replaced: True in this mask means" + (
                " valid" if event.fills_true else " invalid"
            )
            yield _hit(event, says, repair=_negated(event))
        elif frame.function.name not in net.called_inside:
            for name in event.other.origins & {param.name for param in frame.function.params}:
                methods = read.setdefault(name, {})
                methods.setdefault(frame.function.name, {})[event.fills_true] = event
    for name, methods in read.items() if not told else ():
        found = {fills_true: event for reading in methods.values() for fills_true, event in reading.items()}
        if len(found) == 2 and all(len(reading) == 1 for reading in methods.values()):
            note = Note(found[False].module, found[False].node, "here True means that an action is valid")
            says = f"True in `{name}` means that an action is invalid here, and valid in another method"
            yield _hit(found[True], says, (note,))


def _multiplied(net: NetworkClass) -> Iterable[Hit]:
    """Products with a mask whose outcome reaches the actions unmended."""
    told: set[cst.CSTNode] = set()
    frame_now, products = None, list[Event]()
    for frame, event, _ in net.events("mask_product", "dist", "call"):
        if frame is not frame_now:
            frame_now, products = frame, []
        if event.kind == "mask_product":
            products.append(event)
            continue
        if event.kind == "dist":
            wrong, says = "times_mask" in event.target.tags, _LEAVES_LOGIT
        else:
            gathered = event.target if event.name == ".gather" else event.args[0] if event.args else event.target
            wrong, says = event.name.endswith(".gather") and "p_times_mask" in gathered.tags, _NOT_ONE
        if wrong and products and products[-1].node not in told:
            told.add(products[-1].node)
            yield _hit(products[-1], says)


def _hit(event: Event, says: str, notes: tuple[Note, ...] = (), repair: Repair | None = None) -> Hit:
    return Hit.at(event, says, notes=notes, repair=repair)


def _negated(event: Event) -> Repair | None:
    """The mask negated, where it is the first argument of `masked_fill` and a plain name."""
    call = event.node
    if event.name != "masked_fill" or not isinstance(call, cst.Call) or len(call.args) < 2:
        return None
    mask = call.args[-2].value  # in `x.masked_fill(mask, value)` and in `torch.masked_fill(x, mask, value)`
    if not isinstance(mask, cst.Name):
        return None
    return Repair(
        "negate the mask", (Insert(mask, ".logical_not()"),), "the policy becomes another one: train it again"
    )
