"""Small things that experiments share: distances, gradients, and the operations that run inside a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from esper_audit.probes.arguments import unmasked
from esper_audit.probes.contract import NotComparable
from esper_audit.probes.nested import leaves, mapped

if TYPE_CHECKING:
    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.contract import MethodFacts
    from esper_audit.probes.replies import Reply
    from esper_audit.probes.subject import Subject

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


def tolerance(dtype: torch.dtype) -> float:
    """The largest difference that rounding explains, between two ways to compute the same in this dtype."""
    return _TOLERANCE.get(dtype, 1e-4)


def distance(left: Tensor | None, right: Tensor | None) -> float:
    """The largest absolute difference; infinite where one is not a number or the shapes differ."""
    if left is None or right is None:
        raise NotComparable("the value that would be compared is not returned")
    if left.shape != right.shape:
        return float("inf")
    if left.numel() == 0:
        return 0.0
    difference = (left.detach().double() - right.detach().double()).abs().max()
    return float("inf") if difference.isnan() else float(difference)


def disturbed(observations: Tensor, *where: int | slice) -> Tensor:
    """A copy with other numbers there. Not a shift: a network may subtract the mean of each observation first."""
    moved = observations.clone()
    generator = torch.Generator().manual_seed(13)
    part = moved[where]
    moved[where] = part + torch.randn(part.shape, generator=generator).mul(3.0).to(part.dtype)
    return moved


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Every tensor in a value in this dtype."""
    return mapped(value, lambda tensor: tensor.to(dtype))


def first(*values: Tensor | None) -> Tensor:
    """The first tensor that there is."""
    for value in values:
        if value is not None:
            return value
    raise NotComparable("neither log-prob nor value nor logits are returned")


def outputs(reply: Reply) -> dict[str, Tensor]:
    """Everything of a reply that is a number, the hidden state left out."""
    return {
        name: tensor for name, tensor in reply.tensors() if tensor.is_floating_point() and not name.startswith("hidden")
    }


def by_step(reply: Reply) -> dict[str, Tensor]:
    """Those of the outputs that have an axis of steps: a network may return what the last step gives, and no more."""
    return {name: tensor for name, tensor in outputs(reply).items() if tensor.shape[:2] == reply.shape}


def seeded(call: Callable[[nn.Module, Inputs], Reply], network: nn.Module, inputs: Inputs) -> Reply:
    """A call that draws the same random numbers each time: whether it should draw any is the question of one probe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return call(network, inputs)


def moved_by(before: Reply, after: Reply, *, first: int) -> float:
    """How far outputs from step `first` on move."""
    left, right = by_step(before), by_step(after)
    return max((distance(left[name][:, first:], right[name][:, first:]) for name in left), default=0.0)


def acted(subject: Subject, network: nn.Module, inputs: Inputs) -> Reply:
    """One step of act; with all actions valid where it refuses these masks for reasons of its own."""
    try:
        return subject.act(network, inputs)
    except NotComparable:
        raise
    except Exception:  # noqa: BLE001 - of the audited code; what it raises without masks is not caught
        return subject.act(network, unmasked(inputs))


def act_sequence(subject: Subject, network: nn.Module, inputs: Inputs) -> tuple[Inputs, list[Reply], list[Any]]:
    """Step through `inputs` with act: inputs with the actions taken, the replies, and the state before each step."""
    hidden, replies, states = inputs.hidden, [], []
    for t in range(inputs.starts.shape[1]):
        states.append(hidden)
        replies.append(subject.act(network, inputs.at(t).but(hidden=hidden)))
        if replies[-1].hidden is not None:
            # A clone, as a buffer would make: a state born in inference mode is another probe's question.
            hidden = mapped(replies[-1].hidden, lambda tensor: tensor.detach().clone())
    taken = {}
    if replies and replies[0].action:
        for head in replies[0].action:
            steps = [reply.action[head] for reply in replies]
            taken[head] = torch.cat([step.detach().clone() for step in steps], dim=1)
    if not taken:
        raise NotComparable("act returns no action that is understood")
    if set(taken) != set(inputs.actions) and len(taken) == len(inputs.actions) == 1:
        taken = dict(zip(inputs.actions, taken.values(), strict=True))
    return inputs.but(actions=taken), replies, states


def along_time(replies: list[Reply], name: str) -> Tensor | None:
    """One output of act over all steps, `[B, T]`, or `[B, T, 1]` where each step gave a column."""
    steps = [getattr(reply, name) for reply in replies]
    if any(step is None for step in steps):
        return None
    return torch.cat([step.detach().clone() for step in steps], dim=1)


def in_axes_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor without the last axis of 1 that `like` has not: `[B, T, 1]` says what `[B, T]` says."""
    return tensor[..., 0] if tensor.dim() == like.dim() + 1 and tensor.shape[-1] == 1 else tensor


def bad_gradients(network: nn.Module) -> list[str]:
    """The parameters whose gradient is not a finite number."""
    return [n for n, p in network.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]


_MAY_MIX = ("index", "index_put", "index_put_", "copy_", "_to_copy")  # an index may lie elsewhere, and a copy moves


class Operations(TorchDispatchMode):
    """The operations that run inside, each with the last dimension of what it gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, int]] = []
        self.mixed: list[str] = []  # operations on tensors of two devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the name and go on."""
        name = func.overloadpacket.__name__
        given = [*args, *(kwargs or {}).values()]
        devices = {leaf.device.type for leaf in leaves(given) if leaf.dim()}
        if len(devices) > 1 and name not in _MAY_MIX:
            self.mixed.append(name)
        result = func(*args, **(kwargs or {}))
        width = result.shape[-1] if isinstance(result, Tensor) and result.dim() else 0
        self.seen.append((name, width))
        return result

    def count(self, *names: str, widths: Iterable[int] | None = None) -> int:
        """How often one of these ran, and gave something of one of these widths."""
        allowed = None if widths is None else set(widths)
        return sum(name in names and (allowed is None or width in allowed) for name, width in self.seen)


class Overflow(TorchDispatchMode):
    """Where finite numbers become infinite or NaN, and the largest number that a matrix product gives."""

    PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
    _CONSTANT = re.compile(r"(new_)?(empty|full|zeros|ones).*|masked_fill_?|fill_?|where|copy_|_to_copy|index_put_?")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first = ""  # operation
        self.products = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what was given and at what came out, and go on."""
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not result.is_floating_point() or not result.numel():
            return result
        if name in self.PRODUCTS:
            largest = float(result.detach().abs().max())
            self.products = max(self.products, float("inf") if largest != largest else largest)  # noqa: PLR0124 - NaN
        if not self.first and not self._CONSTANT.fullmatch(name) and not _finite([result]) and _finite(leaves(args)):
            self.first = name
        return result


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


@contextmanager
def without_onednn() -> Iterator[None]:
    """Switch oneDNN off, which has other LSTM kernels for training than for inference: equal inputs, equal numbers.

    `torch.backends.mkldnn.flags` sets TF32 as well, and warns of that where there is no such device.
    """
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])


@contextmanager
def validation(*, on: bool) -> Iterator[None]:
    """Let `torch.distributions` check values, or not: it does so with `.item()`."""
    before = torch.distributions.Distribution._validate_args  # noqa: SLF001 - only the setter is public
    torch.distributions.Distribution.set_default_validate_args(on)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names in a sentence, at most so many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def sentence(error: BaseException, most: int = 140) -> str:
    """The first sentence of an error, cut between words where it is long."""
    text = re.split(r"(?<=[.!]) ", " ".join(str(error).split()))[0].rstrip(".")
    if len(text) > most:
        text = f"{text[: most - 3].rpartition(' ')[0] or text[: most - 3]}..."
    return f"{type(error).__name__}: {text}"


@dataclass(frozen=True)
class Scores:
    """What log-probs say about the distribution of each head."""

    base: Tensor  # [B, T], of the actions of the inputs
    heads: dict[
        str, Tensor
    ]  # {head: [B, T, n]}: log-prob with another action of this head, less `base`; -inf: forbidden
    entropy: Tensor | None


_MOST_ACTIONS = 400


def scorable(subject: Subject, inputs: Inputs) -> Inputs:
    """Inputs whose actions can be scored one by one; all of them valid where evaluate takes no masks."""
    facts = subject.method("evaluate", "act")
    if not inputs.actions:
        raise NotComparable("the network has no discrete head that is known")
    if sum(mask.shape[-1] for mask in inputs.masks.values()) > _MOST_ACTIONS:
        raise NotComparable("there are too many actions to score them all")
    if "mask" not in subject.roles(facts).values():
        inputs = unmasked(inputs)
    if subject.has("act"):
        try:
            taken = subject.act(subject.heated().eval(), inputs.at(0)).action or {}
        except Exception:  # noqa: BLE001 - it may not answer: then nothing says that actions are continuous
            taken = {}
        if any(action.is_floating_point() for action in taken.values()):
            raise NotComparable("actions are continuous")
    return inputs


def scored(subject: Subject, network: nn.Module, inputs: Inputs) -> Scores:
    """Score every action of every head beside the given actions of the others."""

    def score(actions: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        reply = seeded(subject.evaluate, network, inputs.but(actions=actions))
        log_prob = None if reply.log_prob is None else in_axes_of(reply.log_prob, inputs.starts)
        if log_prob is None or log_prob.shape != inputs.starts.shape:
            raise NotComparable("evaluate returns no joint log-prob of shape [B, T]")
        return log_prob, reply.entropy

    with torch.no_grad(), without_onednn():
        base, entropy = score(inputs.actions)
        if not bool(base.isfinite().all()):
            raise NotComparable("log-probs of valid actions are not finite")
        heads = {}
        for head, mask in inputs.masks.items():
            columns = []
            for number, allowed in enumerate(mask.unbind(-1)):
                action = torch.where(allowed, number, inputs.actions[head])
                other, _ = score({**inputs.actions, head: action})
                columns.append((other - base).masked_fill(~allowed, -torch.inf))
            heads[head] = torch.stack(columns, dim=-1)
        last = {head: (mask * torch.arange(1, mask.shape[-1] + 1)).argmax(-1) for head, mask in inputs.masks.items()}
        moved, _ = score(last)
        sums = torch.stack([heads[h].gather(-1, action.unsqueeze(-1)).squeeze(-1) for h, action in last.items()]).sum(0)
    if not any(bool((relative.isfinite() & (relative != 0)).any()) for relative in heads.values()):
        raise NotComparable("log-probs depend on no action")
    if distance(moved - base, sums) > 10 * tolerance(subject.dtype) * (1 + float(sums.abs().max())):
        raise NotComparable("the heads depend on each other")
    return Scores(base, heads, entropy)


def sequence_call(subject: Subject) -> tuple[str, Callable[[nn.Module, Inputs], Reply]]:
    """The method that takes whole sequences: evaluate, where there is one, else `forward`.

    A `forward` that draws random numbers, or goes on from what it keeps on `self`, answers no question that is asked
    twice: NotComparable.
    """
    if subject.has("evaluate") or subject.evaluates_through_act:
        return "evaluate", subject.evaluate
    steady(subject, "forward")
    return "forward", subject.forward


class Called(NamedTuple):
    """A method in one of the ways in which training calls it."""

    label: str
    facts: MethodFacts
    kind: str  # act or sequence

    def keywords(self, subject: Subject, network: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """Its arguments."""
        score = self.kind == "sequence" and self.facts.role != "forward"
        return subject.arguments(network, self.facts, inputs, self.kind, score=score)


def methods(subject: Subject) -> Iterator[Called]:
    """What training calls: act, and evaluate or else forward."""
    if subject.has("act"):
        yield Called(subject.method("act").name, subject.method("act"), "act")
    if subject.evaluates_through_act:
        yield Called(f"{subject.method('act').name}, scoring", subject.method("act"), "sequence")
    elif subject.has("evaluate") or subject.has("forward"):
        facts = subject.method("evaluate", "forward")
        yield Called(facts.name, facts, "sequence")


def steady(subject: Subject, role: str) -> None:
    """NotComparable where two calls of a method with the same arguments give different results."""
    network, inputs = subject.heated().eval(), subject.inputs(time=1 if role == "act" else 6)
    call = getattr(subject, role)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = outputs(call(network, inputs))
        torch.manual_seed(1)
        again = outputs(call(network, inputs))
        torch.manual_seed(2)
        after = outputs(call(network, inputs))
    name = subject.method(role).name
    if any(distance(before[key], again[key]) > 0.0 for key in before):
        raise NotComparable(f"`{name}` goes on from what it keeps on `self`: two equal calls differ")
    if any(distance(before[key], after[key]) > 0.0 for key in before):
        raise NotComparable(f"`{name}` draws random numbers")
