"""Which methods of a network torch.compile covers, and what in them Dynamo does not trace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.values import Val

_SETTER = re.compile(r"torch\.distributions\.(\w+\.)+set_default_validate_args")
# These leave the check of their parameters to what they are made of.
_MADE_OF_OTHERS = frozenset({"Independent", "TransformedDistribution", "MixtureSameFamily"})
# Who says one of these looks at numbers, or has decided what distributions look at.
_LOOKS = tuple(
    "isfinite isnan isinf nan_to_num detect_anomaly set_detect_anomaly error_if_nonfinite validate_args "
    "set_default_validate_args _validate_args _assert_async GradScaler".split()
)
Site = tuple[ModuleModel, cst.CSTNode]


@dataclass(frozen=True, slots=True)
class EagerCore:
    """A call of a recurrent layer beside other layers, in a function that a compiled method reaches."""

    event: Event
    method: str
    site: Site


@once
def compiled_methods(net: NetworkClass) -> dict[str, Site]:
    """The methods that torch.compile is seen to cover, and where it is said.

    A wrapper of the network and `net.compile()` cover `forward`, decorators and `torch.compile(net.act)` the method.
    """
    found: dict[str, Site] = {}
    if net.compiles_itself:
        for function in net.model.methods.values():
            for decorator, name in zip(function.node.decorators, function.decorators, strict=True):
                if name in facts.COMPILE:
                    found.setdefault(function.name, (function.module, decorator))
        _from_frames(net, net.all_frames, found)
    for caller in net.compilers():
        _from_frames(net, (caller.frame,), found)
    return found


def _from_frames(net: NetworkClass, frames: tuple[Frame, ...], found: dict[str, Site]) -> None:
    for frame in frames:
        for event, _ in frame.walk():
            if event.kind != "call":
                continue
            name = _covered(net, event)
            if name in net.model.methods:
                found.setdefault(name, (event.module, event.node))


def _covered(net: NetworkClass, event: Event) -> str:
    """The method that a compile call covers, if it is one of the network's."""
    if event.name == ".compile":
        return "forward" if net.builds(event.target) else ""
    given = event.args[0] if event.args else event.kwargs.get("model")
    if event.name not in facts.COMPILE or given is None:
        return ""
    if net.builds(given):
        return "forward"
    if given.kind == "bound":
        function, owner = given.ref
        return function.name if isinstance(owner, Val) and net.builds(owner) else ""
    return ""


def traced(frame: Frame, stack: tuple[Event, ...] = ()) -> Iterator[tuple[Event, tuple[Event, ...]]]:
    """The events that Dynamo meets in a compiled function and below it, with the calls that lead to them.

    What is kept from being traced on purpose, by a decorator or by a test of `is_compiling`, is left out.
    """
    if facts.COMPILER_DISABLED.intersection(frame.function.decorators):
        return
    for event in frame.events:
        if "eager_only" in event.contexts:
            continue
        yield event, stack
        if event.frame is not None:
            yield from traced(event.frame, (*stack, event))


def eager_cores(net: NetworkClass) -> Iterator[EagerCore]:
    """Calls of nn.LSTM, nn.GRU and nn.RNN that take other layers out of the graph with them, each once."""
    if not net.recurrent or net.project.files_naming("allow_rnn") != ():
        return
    seen: set[cst.CSTNode] = set()
    for method, site in compiled_methods(net).items():
        frame = net.flow.frame(method)
        layers = [event for event, _ in traced(frame) if event.callee == "layer"] if frame is not None else []
        shared = {event.function.node for event in layers if event.name not in facts.RECURRENT}
        for event in layers:
            if event.name in facts.RECURRENT and event.function.node in shared and event.node not in seen:
                seen.add(event.node)
                yield EagerCore(event, method, site)


@dataclass(frozen=True, slots=True)
class Validation:
    """A distribution that validates its arguments although a compiled method makes it; `call` is where to cure that."""

    event: Event
    call: Event
    method: str
    site: Site


def validated_distributions(net: NetworkClass) -> Iterator[Validation]:
    """Distributions made with `validate_args=True` in methods that torch.compile covers, each call once.

    What a bare flag (`if self.debug:`) decides is left out: that is a choice.
    """
    if not net.mentions(b"validate_args"):
        return
    seen: set[cst.CSTNode] = set()
    for method, site in compiled_methods(net).items():
        frame = net.flow.frame(method)
        for event, stack in traced(frame) if frame is not None else ():
            if event.kind == "dist" and _validates(event) and not any(_by_flag(each) for each in (*stack, event)):
                call = net.in_network(event, stack)
                if call.node not in seen:
                    seen.add(call.node)
                    yield Validation(event, call, method, site)


def _validates(event: Event) -> bool:
    if event.name.rpartition(".")[2] in _MADE_OF_OTHERS:
        return False
    given = event.kwargs.get("validate_args") or (event.args[2] if len(event.args) > 2 else None)
    return given is not None and given.const is True


def _by_flag(event: Event) -> bool:
    """Whether an `if` on a plain name or attribute decides that an event happens."""
    for branch in event.branches_around:
        flag = branch.test.expression if isinstance(branch.test, cst.UnaryOperation) else branch.test
        if isinstance(branch, cst.If) and isinstance(flag, (cst.Name, cst.Attribute)):
            return True
    return False


def late_validation(net: NetworkClass) -> Iterator[Event]:
    """Calls of `set_default_validate_args(True)` after the network was compiled; before, torch.compile undoes them."""
    late: dict[cst.CSTNode, Event] = {}
    for caller in net.compilers():
        compiled = False
        for event, _ in caller.frame.walk():
            if event.kind != "call":
                continue
            compiled = compiled or bool(_covered(net, event))
            if compiled and _SETTER.fullmatch(event.name) and event.args and event.args[0].const is True:
                late.setdefault(event.node, event)
    yield from late.values()


@dataclass(frozen=True, slots=True)
class Silenced:
    """A distribution whose validation torch.compile switches off; `site` is where that happens, in the same project."""

    event: Event
    site: Site


def silenced_validation(net: NetworkClass) -> Silenced | None:
    """The first distribution of a compiled network that rests on the default validation, where nothing else looks.

    Nothing where the project is too large to say, or speaks anywhere of NaN, infinity or validation.
    """
    if not net.mentions(b"distributions") or not (sites := tuple(compiled_methods(net).values())):
        return None
    resting = (event for _, event, _ in net.hot_events("dist") if _rests_on_default(event))
    found = next(resting, None)
    return Silenced(found, sites[0]) if found is not None and not _looks_at_numbers(net) else None


def _rests_on_default(event: Event) -> bool:
    return facts.is_distribution(event.name) and "validate_args" not in event.kwargs and len(event.args) < 3


def _looks_at_numbers(net: NetworkClass) -> bool:
    naming = [net.project.files_naming(word) for word in _LOOKS]
    return any(files is None or any(not net.project.is_test_code(path) for path in files) for files in naming)
